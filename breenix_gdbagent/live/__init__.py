"""A live guest: started or attached to, run, and stopped into a `Stop`."""

from __future__ import annotations

from breenix_gdbagent.live.opening import attach, launch
from breenix_gdbagent.live.vm import LiveVm

__all__ = ["LiveVm", "attach", "launch"]
