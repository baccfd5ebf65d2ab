"""What serves a client goes on whatever goes wrong: every error becomes an answer."""

from __future__ import annotations

from collections.abc import Callable

from breenix_gdbagent.commands import defect, refused
from breenix_gdbagent.errors import AgentError
from breenix_gdbagent.jsonvalue import Json


def guarded(job: Callable[[], Json]) -> Json | AgentError:
    """What `job` answers, or what went wrong in words; nothing comes through."""
    try:
        return job()
    except AgentError as error:
        return error
    except OSError as error:
        return refused(error)
    except Exception as error:
        return defect(error)
