"""The same guest under each QEMU's instruction counter, a hundred times: the same stops."""

from __future__ import annotations

import pytest

from tests.guest.live_support import needs_qemu
from tests.guest.test_replay import same_stops

pytestmark = needs_qemu


@pytest.mark.usefixtures("qemu")
def test_a_hundred_times_the_same_stops() -> None:
    same_stops(100)
