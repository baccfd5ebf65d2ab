"""What holds for every test."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

settings.register_profile("ours", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ours")
"""How long one example takes is the machine's load, and no property of ours."""


def pytest_configure() -> None:
    """Who runs the tests in the background (``&``, nohup) has these ignored, and every process
    that a test starts would inherit that: Ctrl-C could not be tested."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
