"""What several CPUs of one kernel have to have in common, and what each has for itself.

A CPU is compared once it runs the kernel for good: while it is brought up its registers are set one
after the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from breenix_gdbagent.addresses import Hex, VirtAddr
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.arch.descriptors import Gate
from breenix_gdbagent.checks.facts import Facts
from breenix_gdbagent.checks.finding import Finding, NotChecked, Where, declare
from breenix_gdbagent.checks.reasons import IdtNotRead
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.running import running
from breenix_gdbagent.kernel.view import Kernel

CONTROL_DIFFERS = declare(
    "cpu.control-differs",
    "error",
    "a control register of one CPU is not as on the others",
    arises="A bit was set on the first CPU and not in the start-up code of the others, or was "
    "changed later on one CPU alone: the same code and the same tables mean something else there.",
    confirm="registers of each CPU (cpu N): CR0, CR4, EFER.",
    mend="Set the registers of a CPU that is started from those of the first one, and change them "
    "on all.",
)
IDT_DIFFERS = declare(
    "idt.differs",
    "warning",
    "the IDT of one CPU has other gates than those of the others",
    arises="A gate was changed in one CPU's table alone: the same exception goes to another "
    "handler, or onto another stack, by the CPU that it comes on.",
    confirm="idt on each CPU (cpu N).",
    mend="Use one IDT for all CPUs, or change all.",
)
TSS_SHARED = declare(
    "tss.shared",
    "error",
    "two CPUs use one TSS",
    arises="A CPU was started with the GDT of another, or its TSS descriptor names the other's "
    "TSS: both enter the kernel on the same stack and overwrite each other's frames.",
    confirm="The base of TR on each CPU (cpu N).",
    mend="Give each CPU a TSS of its own, with a descriptor of its own, before interrupts are on.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlFacts(Facts):
    """A register of a CPU, the value that most others have, and the bits in which they differ."""

    cpu: int
    register: str
    value: Hex
    others: Hex
    differs: Hex


@dataclass(frozen=True, slots=True, kw_only=True)
class IdtFacts(Facts):
    """A CPU's IDT, that of the others, and the vectors whose gates differ."""

    cpu: int
    idt: VirtAddr
    others: VirtAddr
    vectors: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TssFacts(Facts):
    """The TSS, and the CPUs that have it loaded."""

    tss: VirtAddr
    on_cpus: tuple[int, ...]


def check(kernel: Kernel) -> Iterator[Finding]:
    """Control registers, IDTs and TSSs of all CPUs that run the kernel."""
    cpus = [cpu for cpu in kernel.stop.cpus if _runs(kernel, cpu)]
    if len(cpus) < 2:
        return
    for name, bits in kernel.stop.cpu.arch.alike.items():
        yield from _control(cpus, name, bits)
    yield from _tss(cpus)
    yield from _idt(kernel, cpus)


def _runs(kernel: Kernel, cpu: Cpu) -> bool:
    """Whether it has been brought up: paging and TSS are there, and a thread of the kernel, or
    interrupts are on, or it is in ring 3."""
    here = running(kernel, cpu)
    if here is None or cpu.root is None or cpu.paging is None or not cpu.tr or not cpu.tr.base:
        return False
    block = kernel.percpu_of(cpu)
    return here.cpl == 3 or here.interrupts_on or bool(block is not None and block.current_thread)


def _most(values: Mapping[int, Hashable]) -> Hashable:
    """What most CPUs have; where as many have another, the first CPU's."""
    return Counter(values.values()).most_common(1)[0][0]


def _control(cpus: Sequence[Cpu], name: str, bits: int) -> Iterator[Finding]:
    known = {cpu.index: value for cpu in cpus if (value := cpu.get(name)) is not None}
    if not known:
        return
    usual = _most({index: value & bits for index, value in known.items()})
    model = next(value for value in known.values() if value & bits == usual)
    for index, value in known.items():
        if value & bits != usual:
            facts = ControlFacts(
                cpu=index,
                register=name.upper(),
                value=Hex(value),
                others=Hex(model),
                differs=Hex((value ^ model) & bits),
            )
            yield Finding(CONTROL_DIFFERS, f"CPU {index} {name}", facts)


def _tss(cpus: Sequence[Cpu]) -> Iterator[Finding]:
    users: dict[int, list[Cpu]] = {}
    for cpu in cpus:
        assert cpu.tr is not None
        users.setdefault(cpu.tr.base, []).append(cpu)
    for base, those in users.items():
        if len(those) > 1:
            facts = TssFacts(tss=VirtAddr(base), on_cpus=tuple(cpu.index for cpu in those))
            yield Finding(TSS_SHARED, "TSS", facts, Where(those[-1].root, base))


def _idt(kernel: Kernel, cpus: Sequence[Cpu]) -> Iterator[Finding]:
    bases = {cpu.index: cpu.idtr.base for cpu in cpus if cpu.idtr is not None}
    if len(set(bases.values())) < 2:
        return
    tables = {cpu.index: _gates(kernel, cpu) for cpu in cpus if cpu.index in bases}
    usual = _most({index: frozenset(gates.values()) for index, gates in tables.items()})
    model = next(index for index, gates in tables.items() if frozenset(gates.values()) == usual)
    for cpu in cpus:
        vectors = _other_gates(tables.get(cpu.index, {}), tables[model])
        if cpu.index in tables and vectors:
            facts = IdtFacts(
                cpu=cpu.index, idt=bases[cpu.index], others=bases[model], vectors=vectors
            )
            yield Finding(
                IDT_DIFFERS, f"CPU {cpu.index} IDT", facts, Where(cpu.root, bases[cpu.index])
            )


def _other_gates(gates: Mapping[int, Gate], model: Mapping[int, Gate]) -> tuple[int, ...]:
    """Vectors whose gate is not the model's."""
    return tuple(v for v in sorted({*gates, *model}) if gates.get(v) != model.get(v))


def _gates(kernel: Kernel, cpu: Cpu) -> Mapping[int, Gate]:
    try:
        return cpu.arch.gates(cpu, kernel.memory_of(cpu.root or 0).read)
    except ReadError as lacking:
        raise NotChecked(IdtNotRead(lacking.what)) from lacking
