"""Starting a guest in QEMU, or attaching to one that runs already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from breenix_gdbagent.errors import ConnectError, LinkClosed, LinkTimeout
from breenix_gdbagent.link.address import Address, connect
from breenix_gdbagent.link.deadline import Deadline
from breenix_gdbagent.link.gdbstub import GdbStub
from breenix_gdbagent.link.rsplink import RspLink
from breenix_gdbagent.link.stopreply import SIGINT
from breenix_gdbagent.live.clock import RunClock
from breenix_gdbagent.live.guest import Holds
from breenix_gdbagent.live.signals import Uncut
from breenix_gdbagent.live.vm import LiveVm
from breenix_gdbagent.memory import RamMap

if TYPE_CHECKING:
    from breenix_gdbagent.configs import Config, Files
    from breenix_gdbagent.link.qemu import Prepare
    from breenix_gdbagent.link.serial import SerialLines

START_SECONDS = 20.0
CONNECT_SECONDS = 5.0


def launch(
    config: Config | str,
    *,
    image: Path | None = None,
    kernel: Path | None = None,
    disks: Sequence[Path] = (),
    append: str | None = None,
    places: Sequence[Path] | None = None,
    prepare: Prepare | None = None,
    room: int = 0,
    vm_class: type[LiveVm] = LiveVm,
    **settings: str | int | bool | None,
) -> LiveVm:
    """Start the machine, paused before its first instruction.

    `settings` override those of the machine's file (accel, memory, cpu, smp, network,
    deterministic); `places` are the directories that may hold the run directory, into which
    `prepare` puts up to `room` bytes more. Raises `InputError`, `QemuMissing`, `QemuDied` (with
    QEMU's own words), `OutputError`.
    """
    from breenix_gdbagent import configs

    machine = configs.load(config) if isinstance(config, str) else config
    machine = machine.with_settings(**settings)
    files = configs.Files(image, kernel, tuple(disks), append)
    return _uncut(lambda: _launch(machine, files, places, prepare, room, vm_class))


def _uncut(opening: Callable[[], LiveVm]) -> LiveVm:
    """What `opening` gives; a signal meanwhile is raised behind it, with the guest let go."""
    vm = None
    try:
        with Uncut():
            vm = opening()
    except BaseException:
        if vm is not None:
            vm.close()
        raise
    return vm


def _launch(
    machine: Config,
    files: Files,
    places: Sequence[Path] | None,
    prepare: Prepare | None,
    room: int,
    vm_class: type[LiveVm],
) -> LiveVm:
    from breenix_gdbagent.link.qemu import QemuProcess

    with ExitStack() as undo:
        process = QemuProcess(machine, files, places=places, prepare=prepare, room=room)
        undo.callback(process.close)
        clock = RunClock()
        # Imported while QEMU starts: the import takes about as long.
        from breenix_gdbagent.link.qmp import Qmp

        try:
            stub = GdbStub(RspLink(process.gdb, "QEMU's gdbstub"))
            stub.handshake(START_SECONDS)
            qmp = Qmp(process.qmp, seconds=CONNECT_SECONDS, pid=process.pid)
        except LinkTimeout as error:
            from breenix_gdbagent.link.peer import with_cause

            raise with_cause(error, process.pid) from None
        except (LinkClosed, ConnectError) as error:
            died = process.died()
            raise error if died is None else died from error
        undo.callback(qmp.close)
        from breenix_gdbagent.link.serial import SerialLines

        serial = SerialLines(process.serials, clock.seconds)
        undo.callback(serial.close)
        holds = Holds(
            stub=stub,
            qmp=qmp,
            serial=serial,
            process=process,
            ram_file=process.ram,
            pid=process.pid,
            config=machine,
            was_running=False,
        )
        vm = vm_class(holds, clock)
        undo.pop_all()
    return vm


def attach(
    gdb: str,
    qmp: str | None = None,
    ram: Path | None = None,
    serial: str | None = None,
    *,
    ram_map: RamMap | None = None,
) -> LiveVm:
    """Take hold of a QEMU that runs; connecting stops the guest.

    `gdb`, `qmp` and `serial` are ``unix:PATH`` or ``HOST:PORT`` (`serial` also a file that QEMU
    writes); `ram` is its RAM file. Raises `ConnectError`, `InputError`, `LinkError`.
    """
    return _uncut(lambda: _attach(gdb, qmp, ram, serial, ram_map))


def _attach(
    gdb: str, qmp: str | None, ram: Path | None, serial: str | None, ram_map: RamMap | None
) -> LiveVm:
    clock = RunClock()
    with ExitStack() as undo:
        monitor = None
        pid = 0
        was_running: bool | None = None
        if qmp is not None:
            from breenix_gdbagent.link.peer import unix_peer
            from breenix_gdbagent.link.qmp import Qmp

            sock = connect(Address.parse(qmp), "QMP monitor", Deadline(CONNECT_SECONDS))
            pid = unix_peer(sock)
            monitor = Qmp(sock, seconds=CONNECT_SECONDS, pid=pid)
            undo.callback(monitor.close)
            status = monitor.status()
            was_running = status == "running"
        stub = GdbStub.connect(gdb)
        undo.callback(lambda: stub.close(resume=bool(was_running)))
        if monitor is not None and status in _OVER:
            stub.found_over()
        if was_running is None and stub.last_stop is not None:
            # Older QEMUs tell of the stop that connecting made, if it made one.
            was_running = stub.last_stop.signal == SIGINT
        lines = _serial(serial, clock) if serial is not None else None
        holds = Holds(
            stub=stub,
            qmp=monitor,
            serial=lines,
            ram_file=ram,
            ram_map=ram_map,
            pid=pid,
            was_running=was_running,
        )
        vm = LiveVm(holds, clock)
        undo.pop_all()
    return vm


_OVER = ("shutdown", "guest-panicked", "internal-error", "io-error")
"""Run states out of which a continue does not lead (QEMU runstate.c, runstate_needs_reset)."""


def _serial(text: str, clock: RunClock) -> SerialLines:
    from breenix_gdbagent.link.serial import SerialLines, SerialPort, follow

    path = Path(text)
    with suppress(OSError):
        if not text.startswith(("unix:", "tcp:")) and path.is_file():
            return SerialLines([follow(path)], clock.seconds)
    sock = connect(Address.parse(text), "serial line", Deadline(CONNECT_SECONDS))
    return SerialLines([SerialPort.of_socket(sock)], clock.seconds)
