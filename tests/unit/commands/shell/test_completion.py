"""What Tab offers, on a stop out of a file and on none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from breenix_gdbagent import lab
from breenix_gdbagent.commands.shell.completion import MOST, ShellCompleter, inner_fields
from breenix_gdbagent.commands.shell.session import Session
from breenix_gdbagent.commands.shell.texts import COMMANDS
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.live.frozen import NoMemory
from breenix_gdbagent.stop import Stop, StopReason
from breenix_gdbagent.symbols import Image
from tests.writers.machine import Machine


@dataclass
class StoppedSession:
    """As much of a session as completion looks at."""

    known: Kernel | None = None
    running: bool = False
    arbiter: None = None
    asked: int = 0
    kept: tuple[str, ...] = ()

    @property
    def evaluation(self) -> Evaluation:
        assert self.known is not None
        return Evaluation.of(self.known)

    @property
    def image(self) -> Image | None:
        loaded = self.known.stop.image if self.known is not None else None
        return None if loaded is None else loaded.image

    @contextmanager
    def while_stopped(self) -> Iterator[None]:
        self.asked += 1
        yield


def offered(session: StoppedSession, text: str) -> list[str]:
    """The whole line with each of the completions put in."""
    completer = ShellCompleter(cast(Session, session))
    found = completer.get_completions(Document(text, len(text)), CompleteEvent())
    return [text[: len(text) + one.start_position] + one.text for one in found]


@pytest.fixture(scope="module")
def breenix() -> StoppedSession:
    """A machine laid out as Breenix is; the ELF is the lab guest's, for its names."""
    machine = Machine()
    stop = machine.stop(StopReason("attached"), machine.cpu(rip=0x8000000000, rsp=machine_stack()))
    image = Image.open(lab.elf(False)).loaded(0x80_0000_0000)
    return StoppedSession(Kernel(stop._replace(image=image)))


def machine_stack() -> int:
    return 0xFFFF_C900_0002_1F00


def test_commands() -> None:
    nothing = StoppedSession()
    assert offered(nothing, "") == list(COMMANDS)
    assert offered(nothing, "fi") == ["finish"]
    assert offered(nothing, "  st") == ["  step", "  stepi", "  stacks", "  stack"]
    assert "continue" in offered(nothing, "c")
    assert offered(nothing, "help wa") == ["help wait", "help watch", "help walk"]
    assert offered(nothing, "zork x") == []


def test_symbols(breenix: StoppedSession) -> None:
    """By the last component first, anywhere in the path after that; nothing for one letter."""
    assert offered(breenix, "break syscall_en")[0] == "break syscall_entry"
    assert offered(breenix, "disassemble PAGE_fault_h") == [
        "disassemble kernel::interrupts::page_fault_handler"
    ]
    assert offered(breenix, "break s") == []
    assert len(offered(breenix, "symbol e")) <= MOST
    assert offered(breenix, "break ex")[0] == "break exception "
    assert "break exception PF" in offered(breenix, "break exception P")


def test_what_a_point_takes(breenix: StoppedSession) -> None:
    assert offered(breenix, "break syscall_entry p")[0] == "break syscall_entry process "
    assert offered(breenix, "break syscall_entry process ") == [
        "break syscall_entry process 1",
        "break syscall_entry process init",
    ]
    assert offered(breenix, "break syscall_entry if ra")[0] == "break syscall_entry if rax"
    assert offered(breenix, "watch e")[0] == "watch entry "
    assert offered(breenix, "invariant kernel-st") == ["invariant kernel-stacks"]
    assert offered(breenix, "invariant kernel-stacks a") == ["invariant kernel-stacks at "]
    assert "invariant audit at syscall_entry" in offered(breenix, "invariant audit at syscall_en")
    assert offered(breenix, "catch u") == ["catch unexpected"]
    assert offered(breenix, "delete ") == []


def test_values(breenix: StoppedSession) -> None:
    assert offered(breenix, "print r1")[:3] == ["print r10", "print r11", "print r12"]
    assert offered(breenix, "print $cr") == [f"print $cr{n}" for n in (0, 2, 3, 4, 8)]
    statics = offered(breenix, "print SCHED")
    assert "print kernel::task::scheduler::SCHEDULER" in statics
    assert "print 1 + thread" in offered(breenix, "print 1 + thr")


def test_addresses_and_roots(breenix: StoppedSession) -> None:
    assert offered(breenix, "walk ")[:2] == ["walk 0x8000000000", f"walk {machine_stack():#x}"]
    assert all("0xffffc9" in line for line in offered(breenix, "memory 0xffffc9"))
    assert breenix.known is not None
    roots = [f"map {space.root:#x}" for space in breenix.known.named_spaces]
    assert offered(breenix, "map ") == roots and len(roots) > 1


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stop.core").touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").touch()
    monkeypatch.chdir(tmp_path)
    nothing = StoppedSession()
    assert offered(nothing, "save ") == ["save stop.core", "save sub/"]
    assert offered(nothing, "script s") == ["script stop.core", "script sub/"]
    assert offered(nothing, f"save {tmp_path}/.h") == [f"save {tmp_path}/.hidden"]
    assert offered(nothing, "save nowhere/x") == []


def test_a_guest_that_runs_is_not_asked(breenix: StoppedSession) -> None:
    running = StoppedSession(breenix.known, running=True)
    for line in ("print SCHEDULER.", "break x process ", "walk 0", "map "):
        offered(running, line)
    assert running.asked == 0
    assert offered(running, "break x process ") == []


def test_before_the_first_stop() -> None:
    nothing = StoppedSession()
    for line in ("print SCHEDULER.", "break x process ", "walk 0", "map ", "break sys", "list x"):
        assert offered(nothing, line) == []


def test_memory_that_cannot_be_read_is_no_completion(breenix: StoppedSession) -> None:
    assert breenix.known is not None
    image = breenix.known.stop.image
    stop = Stop((), NoMemory("gone"), StopReason("core"), image=image)
    gone = StoppedSession(Kernel(stop))
    assert offered(gone, "print SCHEDULER.nothing_of_that_name") == []
    assert inner_fields(3) == []
    with pytest.raises(ReadError):
        stop.memory.read(0x1000, 8)  # type: ignore[arg-type]
