"""The text of every kind of `format_args!` in a running program, against what Rust makes of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from breenix_gdbagent.kernel.panic_message import panic_message
from breenix_gdbagent.symbols import Image
from tests.unit.symbols.conftest import Process

BUILDS = {
    "legacy": [],
    "v0-optimised": ["-C", "symbol-mangling-version=v0", "-C", "opt-level=2"],
}
HIDDEN = {
    "unknown lock": r"<(std|core|alloc)::.*Mutex<u32>>",
    "unknown time": r"<core::time::Duration>",
    "unknown told": r"<panics::Told(: Told\(1\))?>",
}


@pytest.fixture(scope="module", params=BUILDS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Process:
    """panics.rs, running."""
    if shutil.which("rustc") is None:
        pytest.skip("no rustc on this machine")
    out = tmp_path_factory.mktemp("panics") / "panics"
    flags = ["--edition", "2021", "-C", "debuginfo=2", *BUILDS[request.param]]
    source = Path(__file__).parent / "panics.rs"
    subprocess.run(["rustc", *flags, "-o", str(out), str(source)], check=True)
    running = Process(out)
    request.addfinalizer(running.close)
    return running


@pytest.fixture
def told(program: Process) -> Iterator[dict[str, tuple[str | None, str]]]:
    """By the name of the case: what we make of it, what Rust does."""
    image = Image.open(program.path).loaded(program.base)
    found = {}
    for name, said in program.truth.items():
        if name != "ready":
            address, text = said.split(" ")
            ours = panic_message(int(address, 16), program.read, image)
            found[name] = ours, bytes.fromhex(text).decode()
    yield found


def test_what_rust_writes(told: dict[str, tuple[str | None, str]]) -> None:
    assert len(told) > 25
    wrong = {n: pair for n, pair in told.items() if n not in HIDDEN and pair[0] != pair[1]}
    assert not wrong


def test_what_layout_does_not_tell(told: dict[str, tuple[str | None, str]]) -> None:
    """A type's own form is not made up: its name stands for it."""
    for name, pattern in HIDDEN.items():
        assert re.fullmatch(pattern, told[name][0] or ""), (name, told[name])
