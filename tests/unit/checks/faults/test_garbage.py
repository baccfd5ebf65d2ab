"""Stops with garbage anywhere: the check never breaks, and what it says holds together."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from breenix_gdbagent.checks.faults import check
from breenix_gdbagent.checks.finding import CODES, NotChecked
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import StopReason
from breenix_gdbagent.x86.cpu import Cpu, DescriptorTable, SystemSegment
from tests.said import summary
from tests.writers.machine import CODE, GDT, IDT, IST, STACKS, TEXT, TSS, Machine

word = st.integers(0, (1 << 64) - 1)
near = st.sampled_from(
    [0, 8, CODE, TEXT, GDT, TSS, IDT, IST, IST + 0x2000, STACKS, STACKS + 0x22000, 1 << 63, 1 << 47]
)
address = st.one_of(near, word, st.builds(lambda a, b: a + b & (1 << 64) - 1, near, word))
EVERY = (
    "rip", "rsp", "rax", "rcx", "rdx", "cr2", "cr3", "cr0", "cr4", "efer", "eflags", "cs", "ss",
    "gs_base",
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    vector=st.integers(0, 31),
    kind=st.sampled_from(["fault", "shutdown"]),
    pokes=st.lists(st.tuples(st.sampled_from(["table", "data"]), word, word), max_size=6),
    registers=st.dictionaries(st.sampled_from(EVERY), address, max_size=5),
    idtr=st.one_of(st.none(), address),
    tr=st.one_of(st.none(), address),
    code=st.binary(min_size=15, max_size=15),
)
def test_any_stop(
    vector: int,
    kind: str,
    pokes: list[tuple[str, int, int]],
    registers: dict[str, int],
    idtr: int | None,
    tr: int | None,
    code: bytes,
) -> None:
    m = Machine()
    m.write(CODE, code, m.root)
    stop = m.fault(vector, CODE, error=registers.get("rax", 0), cr2=CODE)
    frames = list(stop.memory.frames.values())  # type: ignore[attr-defined]
    for _, where, value in pokes:
        frame = frames[where % len(frames)]
        at = where // len(frames) % 512 * 8
        frame[at : at + 8] = value.to_bytes(8, "little")
    stop = stop._replace(reason=StopReason(kind, 0, vector if kind == "fault" else None))
    cpu: Cpu = stop.cpu._replace(registers={**stop.cpu.registers, **registers})
    if idtr is not None:
        cpu = cpu._replace(idtr=DescriptorTable(idtr, 0xFFF))  # type: ignore[arg-type]
    if tr is not None:
        cpu = cpu._replace(tr=SystemSegment(0x18, tr, 0x67))  # type: ignore[arg-type]
    try:
        findings = list(check(Kernel(stop._replace(cpus=(cpu,)))))
    except NotChecked as why:
        assert str(why)
        return
    codes = {f.code.name for f in findings}
    for finding in findings:
        assert finding.code.name in CODES and summary(finding) and finding.subject
        assert finding.cause is None or finding.cause in codes | {"cr3.bootloader"}


@settings(max_examples=30, deadline=None)
@given(missing=st.sets(st.sampled_from(EVERY)))
def test_any_register_may_be_missing(missing: set[str]) -> None:
    m = Machine()
    m.code(CODE, "8a00")
    stop = m.fault(14, CODE, error=4, cr2=0x5000_0000, rax=0x5000_0000)
    known = {n: v for n, v in stop.cpu.registers.items() if n not in missing}
    for kind in ("fault", "shutdown"):
        reason = StopReason(kind, 0, 14 if kind == "fault" else None)
        try:
            list(check(Kernel(stop._replace(reason=reason, cpus=(Cpu(0, known),)))))
        except NotChecked as why:
            assert str(why)
