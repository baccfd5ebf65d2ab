"""The gdbstub client: what it asks, and what it says of a stub that misbehaves."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from breenix_gdbagent.errors import (
    LinkClosed,
    LinkError,
    LinkProtocolError,
    LinkTimeout,
    ResumeRefused,
    StateError,
    StubError,
)
from breenix_gdbagent.link import rsp
from breenix_gdbagent.link.breakpoints import Refused
from breenix_gdbagent.link.deadline import Deadline
from breenix_gdbagent.link.gdbstub import Break, RunState
from breenix_gdbagent.link.rsplink import RspLink
from tests.unit.link.fakestub import CORE, FakeStub, byte_at


@pytest.fixture
def fake(request: pytest.FixtureRequest) -> Iterator[FakeStub]:
    stub = FakeStub(**getattr(request, "param", {}))
    yield stub
    stub.close()


def contents(address: int, length: int) -> bytes:
    return bytes(byte_at(address + i) for i in range(length))


def test_registers_by_name_from_the_included_document(fake: FakeStub) -> None:
    stub = fake.connect()
    assert stub.description.architecture == "i386:x86-64"
    assert stub.registers() == {
        "rax": 0x1122334455667788,
        "rip": 0x8000001000,
        "cs": 8,
        "cr3": 0x144000,
    }


def test_a_register_that_the_stub_does_not_have_is_left_out_not_zero(fake: FakeStub) -> None:
    stub = fake.connect()
    answer = b"88776655443322110010000080000000" + b"x" * 8 + b"00" * 10 + b"0040140000000000"
    assert stub.decode_registers([answer]) == {
        "rax": 0x1122334455667788,
        "rip": 0x8000001000,
        "cr3": 0x144000,
    }
    assert stub.decode_registers([answer[:32]]) == {"rax": 0x1122334455667788, "rip": 0x8000001000}


def test_threads_say_which_cpu_and_whether_it_is_halted(fake: FakeStub) -> None:
    threads = fake.connect().threads()
    assert [(t.cpu, t.halted, t.registers["cr3"]) for t in threads] == [(0, True, 0x144000)]


def test_physical_reads_are_split_at_the_negotiated_size_and_bracketed(fake: FakeStub) -> None:
    stub = fake.connect()
    fake.seen.clear()
    wanted = [(0x1000, 0x1000), (0x7000, 10), (0x9FFE, 0x1804)]
    assert stub.read_physical(wanted) == [contents(a, n) for a, n in wanted]
    assert fake.seen[0] == b"Qqemu.PhyMemMode:1"
    assert fake.seen[-1] == b"Qqemu.PhyMemMode:0"
    assert fake.seen[1:3] == [b"m1000,800", b"m1800,800"]


def test_each_flight_of_a_long_read_is_bracketed(fake: FakeStub) -> None:
    stub = fake.connect()
    fake.seen.clear()
    assert stub.read_physical([(0, 0x60000)]) == [contents(0, 0x60000)]
    inside = False
    for payload in fake.seen:
        if payload.startswith(b"Qqemu"):
            inside = payload.endswith(b"1")
        else:
            assert inside, payload
    assert not inside and not fake.physical


def test_virtual_reads_are_split_at_pages(fake: FakeStub) -> None:
    stub = fake.connect()
    fake.seen.clear()
    assert stub.read(0x1FF0, 0x20) == contents(0x1FF0, 0x20)
    assert fake.seen == [b"m1ff0,10", b"m2000,10"]


def test_physical_mode_ends_also_after_an_exception(fake: FakeStub) -> None:
    stub = fake.connect()
    with pytest.raises(ZeroDivisionError), stub.physical():
        assert fake.physical
        stub.read_physical([(0, 8)])
        assert fake.physical
        raise ZeroDivisionError
    stub.ask(b"g")
    assert not fake.physical


def test_physical_mode_that_was_on_is_put_back_to_on_but_off_when_leaving(fake: FakeStub) -> None:
    fake.physical = True
    stub = fake.connect()
    with stub.physical():
        pass
    stub.read_physical([(0, 8)])
    assert fake.physical
    assert stub.close()
    assert not fake.physical


def test_leaving_removes_every_breakpoint(fake: FakeStub) -> None:
    with fake.connect() as stub:
        stub.ledger.want("me", Break("hardware", 0x1000), Break("write", 0x2000, 8))
        stub.ledger.want("me", Break("software", 0x3000))
        assert fake.breaks == set()
        assert stub.flush() == []
        stub.ledger.release("me", Break("software", 0x3000))
        assert stub.flush() == []
        assert fake.breaks == {b"1,1000,1", b"2,2000,8"}
    assert fake.breaks == set()
    assert fake.closed.wait(5)


@pytest.mark.parametrize(
    "fake",
    [{"override": lambda p: b"E22" if p.startswith(b"Z1,2") else NotImplemented}],
    indirect=True,
)
def test_the_ledger_is_true_when_one_of_several_is_refused(fake: FakeStub) -> None:
    stub = fake.connect()
    stub.ledger.want("me", *(Break("hardware", at) for at in (1, 2, 3)))
    assert stub.flush() == [Refused(Break("hardware", 2), 0x22)]
    assert stub.ledger.inserted == {Break("hardware", 1), Break("hardware", 3)}
    with pytest.raises(StubError) as raised:
        stub.cont()
    assert raised.value.number == 0x22
    assert stub.state is RunState.STOPPED and not fake.running  # it has not moved
    stub.ledger.release("me", Break("hardware", 2))
    stub.cont()
    assert stub.state is RunState.RUNNING


def test_all_changes_go_out_in_one_write_before_the_guest_moves(
    fake: FakeStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = fake.connect()
    written: list[bytes] = []
    write = RspLink._write

    def noted(self: RspLink, data: bytes, *more: object) -> None:
        written.append(data)
        write(self, data, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(RspLink, "_write", noted)
    stub.ledger.want("one", *(Break("hardware", 0x1000 * n) for n in range(1, 10)))
    stub.ledger.want("two", Break("hardware", 0x1000), Break("write", 0x2000, 8))
    stub.ledger.release("one", Break("hardware", 0x2000))
    assert written == []
    stub.cont()
    assert [data.count(b"$Z") for data in written] == [9, 0]
    assert b"vCont;c" in written[1]
    stub.interrupt_and_wait()
    written.clear()
    stub.cont()
    assert len(written) == 1  # nothing has changed


def test_run_step_over_and_interrupt(fake: FakeStub) -> None:
    stub = fake.connect()
    here = Break("hardware", 0x1000)
    stub.ledger.want("me", here)
    stub.step("01", without=here)
    stop = stub.wait(Deadline(5))
    assert stop is not None and stop.signal == 5 and stop.cpu == 0
    assert fake.breaks == set()
    stub.cont()
    assert fake.breaks == {b"1,1000,1"}
    assert stub.state is RunState.RUNNING
    with pytest.raises(StateError, match="running") as raised:
        stub.registers()
    assert (raised.value.state, raised.value.needed) == ("running", ("stopped", "shutdown"))
    with pytest.raises(StateError, match="running"):
        stub.cont()
    assert stub.wait(Deadline(0.05)) is None
    stop = stub.interrupt_and_wait()
    assert stop is not None and stop.signal == 2
    assert fake.interrupts == 1
    assert stub.interrupt_and_wait() is None


def test_nothing_is_sent_behind_a_continue(fake: FakeStub) -> None:
    """Any byte stops a running guest, acknowledgements too."""
    stub = fake.connect()
    stub.ledger.want("me", Break("hardware", 0x1))
    stub.cont()
    assert fake.resumed.wait(5) and fake.seen[-1] == b"vCont;c"
    assert stub.link._codec.data_to_send() in (b"", b"+")
    fake.stop()
    assert stub.wait(Deadline(5)) is not None


def test_only_a_reset_leads_out_of_a_shutdown_and_nothing_out_of_the_end(fake: FakeStub) -> None:
    stub = fake.connect()
    stub.found_over()
    with pytest.raises(StateError) as raised:
        stub.cont()
    assert raised.value.needed == ("stopped",)
    stub.was_reset()
    stub.cont()
    with pytest.raises(StateError, match="running"):
        stub.found_over()
    stub.has_ended()
    with pytest.raises(LinkClosed):
        stub.was_reset()
    assert stub.state is RunState.CLOSED


def test_a_guest_that_shut_down_is_not_continued(fake: FakeStub) -> None:
    stub = fake.connect()
    stub.cont()
    fake.stop(b"T03thread:01;")
    stop = stub.wait(Deadline(5))
    assert stop is not None and stop.shutdown
    count = len(fake.seen)
    with pytest.raises(LinkError, match="shut down"):
        stub.cont()
    assert len(fake.seen) == count
    assert stub.registers()["cr3"] == 0x144000


def test_the_stop_that_connecting_makes_is_drained(fake: FakeStub) -> None:
    fake.stop(b"T02thread:01;")
    stub = fake.connect()
    assert stub.last_stop is not None and stub.last_stop.signal == 2
    assert stub.registers()["rax"] == 0x1122334455667788


def misbehaving(**how: object) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("fake", [how], indirect=True)


@misbehaving(override=lambda p: None if p == b"g" else NotImplemented)
def test_a_request_that_is_never_answered(fake: FakeStub) -> None:
    stub = fake.connect()
    stub.seconds = 0.2
    with pytest.raises(LinkTimeout) as raised:
        stub.registers()
    assert raised.value.request == "'g'"
    assert raised.value.seconds == 0.2


def test_a_late_answer_is_not_taken_for_the_next_one() -> None:
    waiting = [b"m10,4"]

    def slow(payload: bytes) -> object:
        return None if payload in waiting else NotImplemented

    fake = FakeStub(override=slow)
    stub = fake.connect()
    stub.seconds = 0.1
    with pytest.raises(LinkTimeout):
        stub.read(0x10, 4)
    waiting.clear()
    fake.write(rsp.frame(contents(0x10, 4).hex().encode()))
    stub.seconds = 2
    assert stub.read(0x20, 4) == contents(0x20, 4)
    fake.close()


@pytest.mark.parametrize("kept", [0, 1, 7, 40, 300])
def test_a_socket_that_closes_after_so_many_bytes(kept: int) -> None:
    left = [10_000]

    def mangle(data: bytes) -> bytes:
        out = data[: left[0]]
        left[0] -= len(out)
        if left[0] <= 0:
            fake.write_last(out)
        return out

    fake = ClosingStub(mangle=mangle)
    stub = fake.connect()
    left[0] = kept
    with pytest.raises(LinkClosed):
        stub.read_physical([(0, 0x4000)])
    with pytest.raises(LinkClosed):
        stub.registers()
    fake.close()


class ClosingStub(FakeStub):
    def write_last(self, data: bytes) -> None:
        self._sock.sendall(data)
        self._sock.close()


@misbehaving(override=lambda p: b"zz" if p == b"g" else NotImplemented)
def test_registers_that_are_no_hex(fake: FakeStub) -> None:
    with pytest.raises(LinkProtocolError, match="no hex"):
        fake.connect().registers()


@misbehaving(override=lambda p: b"00" * 400 if p == b"g" else NotImplemented)
def test_more_registers_than_the_description_has(fake: FakeStub) -> None:
    with pytest.raises(LinkProtocolError, match="400 bytes"):
        fake.connect().registers()


@misbehaving(override=lambda p: b"0011" if p[:1] == b"m" else NotImplemented)
def test_fewer_bytes_of_memory_than_asked_for(fake: FakeStub) -> None:
    with pytest.raises(LinkProtocolError, match="2 bytes for m1000,8"):
        fake.connect().read(0x1000, 8)


@misbehaving(override=lambda p: b"E14" if p[:1] == b"m" else NotImplemented)
def test_memory_that_is_not_mapped(fake: FakeStub) -> None:
    with pytest.raises(StubError) as raised:
        fake.connect().read(0x1000, 8)
    assert raised.value.number == 0x14


@misbehaving(override=lambda p: b"m01,02" if p[:1] == b"q" and b"Thread" in p else NotImplemented)
def test_a_list_of_threads_without_end(fake: FakeStub) -> None:
    with pytest.raises(LinkProtocolError, match="without end"):
        fake.connect().threads()


@misbehaving(override=lambda p: b"" if p.startswith(b"qqemu") else NotImplemented)
def test_a_stub_without_physical_mode(fake: FakeStub) -> None:
    stub = fake.connect()
    with pytest.raises(LinkError, match="cannot read physical"):
        stub.read_physical([(0, 8)])
    with pytest.raises(LinkError, match="cannot read physical"), stub.physical():
        pass
    assert stub.close()


@misbehaving(override=lambda p: b"" if p.startswith(b"vCont") else NotImplemented)
def test_a_stub_without_vcont(fake: FakeStub) -> None:
    stub = fake.connect()
    stub.step("01")
    assert stub.wait(Deadline(5)) is not None
    assert fake.seen[-1] == b"s"


@misbehaving(override=lambda p: b"E01" if p.startswith(b"vCont;c") else NotImplemented)
def test_a_stub_that_refuses_to_run(fake: FakeStub) -> None:
    stub = fake.connect()
    stub.cont()
    with pytest.raises(ResumeRefused, match="did not run"):
        stub.wait(Deadline(5))
    assert stub.state is RunState.STOPPED
    assert stub.registers()["cr3"] == 0x144000


def xml(document: bytes) -> dict[str, object]:
    def override(payload: bytes) -> object:
        if not payload.startswith(b"qXfer:features:read:"):
            return NotImplemented
        return b"l" + document

    return {"override": override}


@pytest.mark.parametrize(
    ("fake", "says"),
    [
        (xml(b"<target><reg name='rax'/></target>"), "without name or size"),
        (xml(b"<target"), "no XML"),
        (xml(b"<target><xi:include href='target.xml'/></target>"), "too deeply"),
        (xml(b"<!DOCTYPE a [<!ENTITY b 'c'>]><target>&b;</target>"), "entity"),
    ],
    indirect=["fake"],
)
def test_target_descriptions_that_are_none(fake: FakeStub, says: str) -> None:
    with pytest.raises(LinkProtocolError, match=says):
        fake.connect()


def test_a_description_that_never_ends() -> None:
    def override(payload: bytes) -> object:
        return b"m" + CORE if payload.startswith(b"qXfer") else NotImplemented

    fake = FakeStub(override=override, packet_size=0x20000)
    with pytest.raises(LinkProtocolError):
        fake.connect()
    fake.close()


def test_one_damaged_answer_is_asked_for_again() -> None:
    damage = [0]

    def mangle(data: bytes) -> bytes:
        if data.startswith(b"$") and damage[0] > 0:
            damage[0] -= 1
            return data[:-1] + (b"0" if data[-1:] != b"0" else b"1")
        return data

    fake = FakeStub(mangle=mangle)
    stub = fake.connect()
    damage[0] = 3
    assert stub.registers()["cr3"] == 0x144000
    damage[0] = 4
    with pytest.raises(LinkProtocolError, match="damaged"):
        stub.registers()
    fake.close()


def test_console_text_of_the_monitor() -> None:
    def override(payload: bytes) -> object:
        if payload.startswith(b"qRcmd,"):
            assert bytes.fromhex(payload[6:].decode()) == b"info status"
            for line in (b"VM status: ", b"paused\n"):
                fake.write(rsp.frame(b"O" + line.hex().encode()))
            return b"OK"
        return NotImplemented

    fake = FakeStub(override=override)
    assert fake.connect().monitor("info status") == "VM status: paused\n"
    fake.close()


def test_a_stub_that_stops_reading_ends_in_a_timeout() -> None:
    fake = FakeStub()
    stub = fake.connect()
    stub.seconds = 0.2
    fake._override = lambda payload: time.sleep(0) or (fake.closed.wait(1.0) and None)
    with pytest.raises(LinkTimeout):
        for _ in range(100):
            stub.ask(*[b"m0,8" + b" " * 4000] * 64)
    fake.close()
