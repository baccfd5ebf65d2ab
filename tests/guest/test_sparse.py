"""A big guest that uses little of its RAM: what is a hole stays one, and nothing takes long."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.link.memory import ProcessMemory, StubMemory
from breenix_gdbagent.live import attach
from breenix_gdbagent.snapshot.opening import open_snapshot
from tests.guest.labrun import agent
from tests.guest.live_support import Beside, beside, free_port, needs_qemu

SHM = Path("/dev/shm")
SIZE = 1 << 30
LITTLE = 64 << 20

pytestmark = [
    needs_qemu,
    pytest.mark.skipif(not SHM.is_dir(), reason="no tmpfs, where reading a hole fills it"),
]


@pytest.fixture
def room() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sparse-", dir=SHM))
    yield path
    shutil.rmtree(path)


def used(qemu: Beside) -> int:
    """Bytes of the RAM file that exist."""
    return qemu.ram.stat().st_blocks * 512


def ways(qemu: Beside, stub: str) -> dict[str, tuple[str, ...]]:
    return {
        "ram": ("--gdb", stub, "--qmp", qemu.qmp, "--ram", str(qemu.ram)),
        "qmp": ("--gdb", stub, "--qmp", qemu.qmp),
        "stub": ("--gdb", stub),
    }


COMMANDS = {
    "roots": ("pt", "roots", "--json"),
    "map": ("pt", "map", "--json"),
    "audit": ("audit", "--json"),
    "snapshot": ("snapshot", "--memory", "all", "-o", "/dev/null", "--json"),
}


@pytest.mark.parametrize("net", ["unix", "tcp"])
def test_holes_stay_holes_and_every_way_says_the_same(net: str, room: Path) -> None:
    stub = f"127.0.0.1:{free_port()}" if net == "tcp" else f"unix:{room}/gdb"
    with beside(room, "hang", memory="1G", gdb=f"tcp:{stub}" if net == "tcp" else None) as qemu:
        assert qemu.ram.stat().st_size == SIZE
        with attach(stub, qmp=qemu.qmp, serial=qemu.serial) as vm:
            vm.run_until(["idle"], 5)
            vm._holds = vm._holds._replace(was_running=False)  # one moment for all
        before = used(qemu)
        assert before < LITTLE
        for name, command in COMMANDS.items():
            told = []
            for target in ways(qemu, stub).values():
                result = agent(*command, *target)
                assert result.code in (0, 1), result.err
                assert result.err == ""
                told.append(json.loads(result.out))
            if name in ("roots", "map"):
                assert told[0] == told[1] == told[2]
                assert told[0]
            assert used(qemu) - before < 1 << 20, name


def test_eight_gibibytes_on_both_sides_of_the_pci_hole(room: Path) -> None:
    """All of it is RAM, hardly any of it is there, and every way is quick and says the same."""
    with beside(room, "hang", memory="8G") as qemu:
        with attach(qemu.gdb, qmp=qemu.qmp, serial=qemu.serial) as vm:
            vm.run_until(["idle"], 5)
            vm._holds = vm._holds._replace(was_running=False)
            ram = vm.ram_map()
            assert ram is not None and ram.size > 8191 << 20
            low, high = ram.ranges[-2:]
            assert low.end <= 0xE000_0000 and high.start == 4 << 30
            # A byte that only the right offset of the file gives: written by QEMU's own debugger.
            above = high.start + (2 << 30) + 0x123
            with vm.stub.physical():
                vm.stub.ask(b"M%x,4:beefcafe" % above)
        before = used(qemu)
        assert before < LITTLE
        said = []
        for name, target in ways(qemu, qemu.gdb).items():
            result = agent("pt", "roots", "--json", *target)
            assert result.code == 0 and result.err == ""
            said.append(json.loads(result.out))
            arguments = {"qmp": {"qmp": qemu.qmp}, "ram": {"qmp": qemu.qmp, "ram": qemu.ram}}
            with attach(qemu.gdb, **arguments.get(name, {})) as vm:
                assert vm.stop().memory.read(PhysAddr(above), 4) == b"\xbe\xef\xca\xfe", name
        assert said[0] == said[1] == said[2] and said[0]
        core = room / "stop"
        result = agent(
            "snapshot", "--now", "--memory", "all", "-o", str(core), *ways(qemu, qemu.gdb)["qmp"]
        )
        assert result.code in (0, 1), result.err
        assert core.stat().st_size < LITTLE
        assert open_snapshot(core).memory.read(PhysAddr(above), 4) == b"\xbe\xef\xca\xfe"
        assert used(qemu) - before < 1 << 20


@contextmanager
def relayed(qemu: Beside) -> Iterator[str]:
    """The stub behind a process that is not QEMU, as an ssh tunnel is: this one."""
    place = qemu.room / "relay"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place))
        listening.listen(1)

        def pump(source: socket.socket, sink: socket.socket) -> None:
            try:
                while data := source.recv(1 << 16):
                    sink.sendall(data)
                sink.shutdown(socket.SHUT_WR)
            except OSError:
                return

        def serve() -> None:
            while True:
                try:
                    client, _ = listening.accept()
                except OSError:
                    return
                with client, socket.socket(socket.AF_UNIX) as real:
                    real.connect(f"{qemu.room}/gdb")
                    back = threading.Thread(target=pump, args=(real, client), daemon=True)
                    back.start()
                    pump(client, real)
                    back.join(5)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"unix:{place}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_another_process_behind_the_socket_is_not_taken_for_qemu(room: Path) -> None:
    """The same bytes, by the stub; and a read that lasts says so once, on stderr."""
    with beside(room, "hang", memory="256M") as qemu, relayed(qemu) as stub:
        with attach(stub, qmp=qemu.qmp, serial=qemu.serial) as vm:
            vm.run_until(["idle"], 5)
            vm._holds = vm._holds._replace(was_running=False)  # one moment for both
        with attach(stub) as vm:
            assert vm.stub.link.peer == os.getpid()
            assert isinstance(vm.memory(), StubMemory)
            assert vm._behind_the_stub() is None
        direct = agent("pt", "roots", "--json", "--gdb", qemu.gdb)
        start = time.monotonic()
        result = agent("pt", "roots", "--json", "--gdb", stub)
        lasted = time.monotonic() - start
    assert result.code == direct.code == 0
    assert {r["root"] for r in json.loads(result.out)} == {
        r["root"] for r in json.loads(direct.out)
    }
    assert lasted < 3 or "MiB of RAM through the gdbstub" in result.err
    assert len(result.err.splitlines()) <= 1, result.err


def test_a_wrong_process_is_found_out(room: Path) -> None:
    """A process of the same shape is not QEMU: its bytes differ from what the stub reads."""
    with beside(room, "hang") as qemu, attach(qemu.gdb, qmp=qemu.qmp) as vm:
        ram = vm.ram_map()
        assert ram is not None

        def wrong(pieces: object) -> list[bytes]:
            return [b"other"] * len(ram.ranges)

        assert ProcessMemory.open(qemu.process.pid, ram, vm.hmp, vm.stub.read_physical)
        assert ProcessMemory.open(qemu.process.pid, ram, vm.hmp, wrong) is None
        assert ProcessMemory.open(os.getpid(), ram, vm.hmp, vm.stub.read_physical) is None
