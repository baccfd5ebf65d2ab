"""Leaks, as `ci --audit-every` tells them: the first marker at which something was lost."""

from __future__ import annotations

import pytest

from tests.guest.labrun import agent
from tests.guest.live_support import needs_qemu

pytestmark = needs_qemu

CODES = ("frames.leak", "heap.leak")


def test_the_first_round_that_leaks_is_named() -> None:
    done = agent("ci", "--lab", "leak", "--audit-every", "LEAK ROUND", "--json", "--timeout", "40")
    assert done.code == 0, "leaks are warnings"
    found = {f["code"]: f for f in done.document["findings"]}
    assert set(found) == set(CODES)
    assert all(f["stop"] == 1 for f in found.values()), "the second marker is the first to compare"
    # A marker's line reaches us a moment after it was printed: the guest may be in the next round,
    # which takes its frames first and then of the heap.
    frames = found["frames.leak"]["evidence"]["frames"]
    rounds, rest = divmod(found["heap.leak"]["evidence"]["bytes"], 4096)
    assert rounds >= 1 and rest == 0
    assert 16 * rounds <= frames <= 16 * (rounds + 1)
    # Two markers' lines may come together, and a stop may fall into an allocation: what later ones
    # are told depends on it, what the first one is told does not.
    states = [c["status"] for c in done.document["checks"] if c["name"] == "leaks"]
    assert len(states) > 1 and states[0] == "failed"


@pytest.mark.parametrize("extra", [(), ("--stripped",)])
def test_a_guest_that_loses_nothing(extra: tuple[str, ...]) -> None:
    done = agent("ci", "--lab", "clean", *extra, "--audit-every", "USERSPACE", "--json")
    assert done.code == 0 and not done.document["findings"]
    states = {c["status"] for c in done.document["checks"] if c["name"] == "leaks"}
    assert states <= ({"not_checked"} if extra else {"passed"})
