"""ELFs to read: the lab guest's own, and Rust programs built here where rustc is at hand."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import pytest

from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.symbols import Image


@pytest.fixture(scope="session")
def labguest_path() -> Path:
    return Path(str(resources.files("breenix_gdbagent") / "lab" / "labguest.elf"))


@pytest.fixture(scope="session")
def labguest(labguest_path: Path) -> Image:
    return Image.open(labguest_path)


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """The path of a program, or the test is skipped by its name."""

    def find(name: str) -> str:
        found = shutil.which(name)
        if found is None:
            pytest.skip(f"no {name} on this machine")
        return found

    return find


class Process:
    """A running program that printed its truth and waits: its memory, read through /proc."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._child = subprocess.Popen(
            [str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._child.stdout is not None
        self.truth: dict[str, str] = {}
        for line in self._child.stdout:
            name, _, value = line.rstrip("\n").partition("\t")
            self.truth[name] = value
            if name == "ready":
                break
        maps = Path(f"/proc/{self._child.pid}/maps").read_text().splitlines()
        self.base = next(int(m.partition("-")[0], 16) for m in maps if str(path) in m)
        self._memory = Path(f"/proc/{self._child.pid}/mem").open("rb", 0)  # noqa: SIM115

    def read(self, va: int, length: int) -> bytes:
        try:
            self._memory.seek(va)
            data = self._memory.read(length)
        except (OSError, OverflowError, ValueError) as error:
            raise ReadError(f"{va:#x} cannot be read: {error}") from None
        if len(data) != length:
            raise ReadError(f"{va:#x} cannot be read to its end")
        return data

    def close(self) -> None:
        self._memory.close()
        self._child.communicate("")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """shapes.rs compiled with DWARF 4 and with 5, both at once."""
    if shutil.which("rustc") is None:
        pytest.skip("no rustc on this machine")
    folder = tmp_path_factory.mktemp("shapes")
    flags = ["--edition", "2021", "-C", "debuginfo=2"]
    out = {version: folder / f"shapes{version}" for version in (4, 5)}
    running = [
        subprocess.Popen(
            ["rustc", *flags, "-C", f"dwarf-version={version}", "-o", str(path), "shapes.rs"],
            cwd=Path(__file__).parent,
        )
        for version, path in out.items()
    ]
    assert [child.wait() for child in running] == [0, 0]
    return out


@pytest.fixture(scope="session", params=[4, 5], ids=["dwarf4", "dwarf5"])
def shapes(request: pytest.FixtureRequest, built: dict[int, Path]) -> Path:
    """The program of shapes.rs. Its std is DWARF 4: with version 5 the ELF has both."""
    return built[request.param]


@pytest.fixture(scope="session")
def process(shapes: Path) -> Iterator[Process]:
    running = Process(shapes)
    yield running
    running.close()
