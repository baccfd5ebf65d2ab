"""What can be read as a whole: the report, serial text, finding codes, this kernel's map."""

from __future__ import annotations

import re
from dataclasses import dataclass

from breenix_gdbagent.agents.session import Session
from breenix_gdbagent.agents.telling import report_text
from breenix_gdbagent.checks.register import all_codes
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.report import explain, markdown
from breenix_gdbagent.report.mappings import map_text
from breenix_gdbagent.views.roots import root_of
from breenix_gdbagent.views.space_listing import space_listing

SCHEME = "breenix://"
SERIAL_TEMPLATE = SCHEME + "serial/{port}/{first}-{last}"
LINES = 200
_SERIAL = re.compile(re.escape(SCHEME) + r"serial(?:/(\d{1,4})(?:/(\d{1,9})-(\d{1,9}))?)?")


@dataclass(frozen=True, slots=True)
class Resource:
    """One of them, as it is listed."""

    uri: str
    name: str
    about: str
    mime: str = "text/plain"


@dataclass(frozen=True, slots=True)
class Contents:
    """What reading one gives."""

    text: str
    mime: str


RESOURCES = (
    Resource(
        f"{SCHEME}report.json", "report", "the report document of this stop", "application/json"
    ),
    Resource(f"{SCHEME}report.md", "report, Markdown", "the same to read", "text/markdown"),
    Resource(f"{SCHEME}serial", "serial text", f"the last {LINES} lines of the first port"),
    Resource(f"{SCHEME}codes", "finding codes", "every code with its severity and title"),
    Resource(f"{SCHEME}map", "map", "all that this CPU's address space maps, by rights"),
)


def while_running(uri: str) -> bool:
    """Whether it can be read while the guest runs."""
    return _SERIAL.fullmatch(uri) is not None or uri == f"{SCHEME}codes"


def read(session: Session, uri: str) -> Contents:
    """One of them. Raises `InputError`, `ReadError`."""
    serial = _SERIAL.fullmatch(uri)
    if serial is not None:
        return Contents(_lines(session, serial[1], serial[2], serial[3]), "text/plain")
    name = uri.removeprefix(SCHEME)
    if name == "report.json":
        return Contents(report_text(session.held.report()), "application/json")
    if name == "report.md":
        return Contents(markdown.render(session.held.report()), "text/markdown")
    if name == "codes":
        all_codes()
        return Contents(explain.text_of(explain.answer_all()), "text/plain")
    if name == "map":
        kernel = session.held.kernel
        space = kernel.merged.space(root_of(kernel, None))
        return Contents(map_text(space_listing(kernel, space, space.ranges)), "text/plain")
    known = ", ".join(one.uri for one in RESOURCES)
    raise InputError(f"there is no resource {uri[:80]!r}", fix=f"{known}, {SERIAL_TEMPLATE}")


def _lines(session: Session, port: str | None, first: str | None, last: str | None) -> str:
    """Lines of a port, with their numbers; the last ones where no range is given."""
    number = int(port) if port is not None else 1
    lines = session.held.serial.port(number - 1).splitlines()
    begin = int(first) if first else max(len(lines) - LINES + 1, 1)
    end = int(last) if last else len(lines)
    shown = [f"{n}\t{lines[n - 1]}" for n in range(max(begin, 1), min(end, len(lines)) + 1)]
    head = f"# COM{number}: lines {begin}-{min(end, len(lines))} of {len(lines)}"
    return "\n".join([head, *shown])
