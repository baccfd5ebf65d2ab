"""The small parts of the link: addresses, stop replies, the monitor's text, memory by the stub."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.errors import ConnectError, InputError, LinkProtocolError, Unreadable
from breenix_gdbagent.link.address import Address, connect, stays_taken, taken
from breenix_gdbagent.link.deadline import Deadline
from breenix_gdbagent.link.gdbstub import GdbStub
from breenix_gdbagent.link.hmptext import (
    parse_clock_port,
    parse_port,
    parse_ram_map,
    parse_registers,
)
from breenix_gdbagent.link.memory import StubMemory
from breenix_gdbagent.link.stopreply import StopReply
from breenix_gdbagent.memory import RamMap, RamRange
from tests.unit.link.fakestub import FakeStub, byte_at

TRANSCRIPTS = Path(__file__).parents[3] / "fixtures" / "transcripts"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/x", Address(path="/run/x")),
        ("unix:/run/x,server=on", Address(path="/run/x")),
        ("/run/x", Address(path="/run/x")),
        ("localhost:1234", Address(host="localhost", port=1234)),
        ("tcp:[::1]:1234", Address(host="::1", port=1234)),
        (":1234", Address(host="127.0.0.1", port=1234)),
    ],
)
def test_addresses_as_users_write_them(text: str, address: Address) -> None:
    assert Address.parse(text) == address


@pytest.mark.parametrize("text", ["", "unix:", "1234", "host:", "host:0", "host:99999", "host:x"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InputError):
        Address.parse(text)


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(ConnectError, match="no gdbstub at unix:"):
        GdbStub.connect(f"unix:{tmp_path}/none")
    with pytest.raises(ConnectError):
        connect(Address(path="/" + "x" * 200), "gdbstub", Deadline(1))


def test_a_client_that_is_there_already_is_seen(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "stub"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address.path))
        listener.listen(1)
        assert not taken(address)
        first = connect(address, "stub", Deadline(1))
        accepted, _ = listener.accept()
        assert taken(address)
        with pytest.raises(ConnectError, match="another client"):
            GdbStub.connect(address)
        # One that leaves while we look is not in the way.
        threading.Thread(target=lambda: (first.close(), accepted.close())).start()
        assert not stays_taken(address, Deadline(5))


@pytest.mark.parametrize(
    ("greeting", "says"),
    [(b'{"QMP": {"version": {}}}\r\n', "is no gdbstub"), (b"", "is silent")],
)
def test_what_listens_is_no_stub(tmp_path: Path, greeting: bytes, says: str) -> None:
    address = Address(path=str(tmp_path / "other"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address.path))
        listener.listen(1)
        if greeting:

            def greet() -> None:
                peer, _ = listener.accept()
                peer.sendall(greeting)
                peer.recv(1000)
                peer.close()

            threading.Thread(target=greet, daemon=True).start()
        with pytest.raises(ConnectError, match=says):
            GdbStub.connect(address, first_answer=0.2)


def test_stop_replies() -> None:
    assert StopReply.parse(b"T05thread:p01.02;") == StopReply("T", 5, "p01.02")
    assert StopReply.parse(b"T05thread:p01.02;").cpu == 1
    assert StopReply.parse(b"T05thread:01;watch:7fff8;").watch == ("write", 0x7FFF8)
    assert StopReply.parse(b"S05").cpu == 0
    assert StopReply.parse(b"W00").exited
    assert StopReply.parse(b"T03thread:01;").shutdown
    for bad in (b"", b"OK", b"T", b"T05thread:zz;", b"T05watch:;", b"Txx"):
        with pytest.raises(LinkProtocolError):
            StopReply.parse(bad)


def test_the_ram_map_of_a_guest_with_ram_on_both_sides_of_the_pci_hole() -> None:
    ram = parse_ram_map((TRANSCRIPTS / "qemu-7.2-info-mtree.txt").read_text())
    assert ram.ranges == (
        RamRange(PhysAddr(0), PhysAddr(0xA_0000), 0),
        RamRange(PhysAddr(0xC_0000), PhysAddr(0xC000_0000), 0xC_0000),
        RamRange(PhysAddr(0x1_0000_0000), PhysAddr(0x1_4000_0000), 0xC000_0000),
    )
    assert ram.size == (4 << 30) - 0x2_0000
    assert ram.find(0xFD00_0000) is None  # video RAM is no RAM of the kernel's


def test_a_legacy_hole_and_unknown_text() -> None:
    text = """FlatView #1
 AS "memory", root: system
 Root memory region: system
  0000000000000000-000000000009ffff (prio 0, ram): pc.ram
  00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem
  0000000000100000-0000000007ffffff (prio 0, ram): pc.ram @0000000000100000 KVM
"""
    assert parse_ram_map(text).ranges == (
        RamRange(PhysAddr(0), PhysAddr(0xA0000), 0),
        RamRange(PhysAddr(0x100000), PhysAddr(0x8000000), 0x100000),
    )
    assert parse_ram_map("unknown command: 'info mtree'").ranges == ()


def test_the_clock_is_found_where_the_firmware_put_it() -> None:
    there = "  0000000000000608-000000000000060b (prio 0, i/o): acpi-tmr\n"
    assert parse_clock_port(f"FlatView #1\n AS \"I/O\", root: io\n{there}  other\n") == 0x608
    assert parse_clock_port(there.replace("acpi-tmr", "acpi-tmr2")) is None
    assert parse_clock_port("unknown command") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("portl[0x0608] = 0x00a91e6b\r\n", 0xA91E6B),
        ("portl[0x0608] = 0xffffffff\r\n", None),  # nothing is there
        ("unknown command: 'i'\r\n", None),
        ("", None),
    ],
)
def test_a_port_read(text: str, value: int | None) -> None:
    assert parse_port(text) == value


def test_hidden_registers_of_every_cpu() -> None:
    found = parse_registers((TRANSCRIPTS / "qemu-7.2-info-registers.txt").read_text())
    assert sorted(found) == [0, 1]
    one = found[0]
    assert one.idtr is not None and (one.idtr.base, one.idtr.limit) == (0, 0x3FF)
    assert one.tr is not None and one.tr.limit == 0xFFFF
    assert one.halted is True and one.efer == 0 and one.rip == 0xB7B9
    assert parse_registers("no such command") == {}


def test_long_mode_registers() -> None:
    text = """RAX=0 RIP=000000800000c38f RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0
LDT=0000 0000000000000000 0000ffff 00008200 DPL=0 LDT
TR =0018 0000008000023ffc 00000067 00008b00 DPL=0 TSS64-busy
GDT=     0000008000023fc0 00000037
IDT=     0000008000022000 00000fff
EFER=0000000000000d00
"""
    hidden = parse_registers(text)[0]
    assert hidden.idtr is not None and hidden.idtr.base == 0x8000022000
    assert hidden.tr is not None and (hidden.tr.selector, hidden.tr.base) == (0x18, 0x8000023FFC)
    assert hidden.halted is False and hidden.efer == 0xD00


RAM = RamMap(
    [
        RamRange(PhysAddr(0), PhysAddr(0xA0000), 0),
        RamRange(PhysAddr(0x100000), PhysAddr(0x200000), 0x100000),
    ]
)


def test_memory_by_the_stub_reads_ram_only_and_each_page_once() -> None:
    fake = FakeStub()
    memory = StubMemory(fake.connect(), RAM)
    fake.seen.clear()
    assert memory.read(PhysAddr(0x1FFE), 4) == bytes(byte_at(0x1FFE + i) for i in range(4))
    asked = [p for p in fake.seen if p[:1] == b"m"]
    assert memory.table(PhysAddr(0x1000)).format == "Q"
    assert memory.table(PhysAddr(0x1000))[0] == int.from_bytes(
        memory.read(PhysAddr(0x1000), 8), "little"
    )
    assert [p for p in fake.seen if p[:1] == b"m"] == asked
    fake.seen.clear()
    for pa, length, first in (
        (0x9FFFC, 8, 0xA0000),
        (0xB8000, 2, 0xB8000),
        (0xFEE00000, 4, 0xFEE00000),
    ):
        with pytest.raises(Unreadable) as raised:
            memory.read(PhysAddr(pa), length)
        assert raised.value.reason == "outside RAM"
        assert raised.value.pa == first
    memory.prefetch([0xA0000, 0x1FF000, 0x200000])
    assert {int(p[1:].split(b",")[0], 16) & ~0xFFF for p in fake.seen if p[:1] == b"m"} == {
        0x1FF000
    }
    fake.close()


def test_without_a_ram_map_nothing_is_read() -> None:
    fake = FakeStub()
    memory = StubMemory(fake.connect(), None)
    with pytest.raises(Unreadable, match="not known"):
        memory.read(PhysAddr(0), 1)
    assert list(memory.filled()) == []
    fake.close()
