"""Where the kernel runs: the load bias, found without the serial text, and proved.

A kernel is position independent, or moves itself though it was linked for one address (Linux,
KASLR), so the bias is discovered at every stop. Several ways give candidates: IDT gates minus
their symbols, GS base minus `CPU0_DATA`, the code that the gates and RIP lead to, the ELF header in
mapped pages, the ELF's code wherever the tables map executable memory. A candidate is accepted only
when it is page aligned and the guest's .text equals the ELF's, which also proves that this ELF is
the one that booted. A kernel that patches its own text, which its sections tell, has most of it
equal, and its build id.
Handlers' names: Breenix kernel/src/interrupts.rs, ``init_idt``; the per-CPU block: per_cpu.rs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from breenix_gdbagent.addresses import PAGE, counted, hex64
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.memory.elf_header import ET_DYN, PF_X, PT_LOAD, is_elf
from breenix_gdbagent.symbols.codematch import load_votes, scanned
from breenix_gdbagent.symbols.elf import SHT_NOTE, describe_header
from breenix_gdbagent.symbols.image import Image, LoadedImage

ReadVirtual = Callable[[int, int], bytes]

HANDLERS: Mapping[int, str] = {
    0: "divide_by_zero_handler",
    1: "debug_handler",
    3: "breakpoint_entry",
    6: "invalid_opcode_handler",
    8: "double_fault_handler",
    12: "stack_segment_fault_handler",
    13: "general_protection_fault_handler",
    14: "page_fault_handler",
    32: "timer_interrupt_entry",
    33: "keyboard_interrupt_handler",
    36: "serial_interrupt_handler",
    0x80: "syscall_entry",
}
PER_CPU_BLOCK = "CPU0_DATA"
# Fewer gates than this can agree by chance: under firmware 1 of 9 did.
GATES_NEEDED = 3
_WINDOW = 256
_WINDOWS = 8
_MANY_WINDOWS = 64
_ALIKE = 0.75
_ALIKE_WITHOUT_ID = 0.9
_PART = 4
FIXED = "fixed"
"""How an ELF got its place that is linked to one (ET_EXEC)."""
PATCHES = {
    ".altinstructions", ".parainstructions", ".smp_locks", ".static_call_sites", "__jump_table",
}  # fmt: skip
"""Sections that list places of its own code which a kernel patches at run time (Linux,
arch/x86/kernel/vmlinux.lds.S)."""
_INT3 = 0xCC
_BREAKPOINTS = 4
_CANDIDATES = 16
_MASK = (1 << 64) - 1
_E_SHOFF = 0x28  # where a header says where the section headers are


@dataclass(frozen=True, slots=True)
class Bias:
    """Virtual address = link address + `value`, modulo 2**64.

    how: ``gates``, ``gs-base``, ``code``, ``elf-header`` or ``fixed`` (runs where it was linked).
    proof: one sentence. proved: the guest's .text was compared and is equal; False when the
    source holds no kernel code (a core of page tables only) and only the gates vouch for it.
    """

    value: int
    how: str
    proof: str
    proved: bool


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Windows of .text compared under one candidate; `differs` is the first unequal address."""

    equal: int
    unreadable: int
    total: int
    differs: int | None

    @property
    def proves(self) -> bool:
        return (
            self.differs is None and self.total > 0 and self.equal >= min(GATES_NEEDED, self.total)
        )


def find_bias(
    image: Image,
    cpu: Cpu,
    read_virtual: ReadVirtual,
    leaves: Iterable[int] | None = None,
    idt_gates: Mapping[int, int] | None = None,
    gs_base: int | None = None,
    executable: Iterable[tuple[int, memoryview]] = (),
    executes: Callable[[int], bool] = lambda va: True,
    handlers: Mapping[int, str] = MappingProxyType({}),
) -> Bias:
    """The load bias of `image` at this stop.

    `read_virtual(va, length)` reads kernel addresses and raises `ReadError` where it cannot;
    `leaves` are the virtual addresses of mapped 4 KiB pages and `executable` (virtual address,
    bytes) of memory that is mapped executable (generators, consumed when the cheaper ways fail);
    `idt_gates` maps vectors to handlers' addresses; `gs_base` defaults to the CPU's register;
    `executes(va)` says whether an address may be executed, as a mere copy of the ELF may not.

    Raises `InputError` when another kernel than this ELF runs, saying how it differs, and
    `ReadError` when nothing tells where the kernel is (it is not loaded yet, or ring 3 without
    a usable IDT, or the stripped ELF names nothing).
    """
    search = _Search(image, read_virtual, dict(idt_gates or {}), cpu, executes, handlers)
    if gs_base is None:
        gs_base = cpu.get("gs_base")
    for value, how in search.candidates(gs_base):
        found = search.accept(value, how)
        if found is not None:
            return found
    found = search.by_code() or search.scan(leaves or ()) or search.by_scan(executable)
    found = found or search.by_linking()
    return found if found is not None else search.give_up(kernel_is_up=bool(gs_base))


def find_loaded(
    image: Image,
    cpu: Cpu,
    read_virtual: ReadVirtual,
    leaves: Iterable[int] | None = None,
    idt_gates: Mapping[int, int] | None = None,
    gs_base: int | None = None,
) -> tuple[LoadedImage, Bias]:
    """`find_bias`, with the image placed there."""
    bias = find_bias(image, cpu, read_virtual, leaves, idt_gates, gs_base)
    return image.loaded(bias.value), bias


class _Search:
    """One search: votes, comparisons made, and what was seen to differ."""

    def __init__(
        self,
        image: Image,
        read: ReadVirtual,
        gates: dict[int, int],
        cpu: Cpu,
        executes: Callable[[int], bool],
        handlers: Mapping[int, str],
    ) -> None:
        self.image = image
        self.read = read
        self.executes = executes
        self.votes, self.voters = _vote(image, gates, {**HANDLERS, **handlers})
        self.windows = _windows(image, _WINDOWS)
        self.patches_itself = any(s.name in PATCHES for s in image.sections)
        rip = cpu.at if cpu.cpl == 0 else None
        # Where the CPU goes in the kernel: handlers, and RIP unless it is in ring 3.
        self.goes_to = [at for at in (rip, *gates.values()) if at]
        self.differing: tuple[int, str, int] | None = None
        self.other_header: tuple[int, bytes] | None = None

    def candidates(self, gs_base: int | None) -> Iterable[tuple[int, str]]:
        """Page-aligned candidates, the best supported first, each once."""
        seen: set[int] = set()
        found: list[tuple[int, str]] = []
        if self.image.elf.type != ET_DYN:
            found.append((0, FIXED))
        else:
            found += [(value, "gates") for value, _ in self.votes.most_common(_CANDIDATES)]
            if gs_base:
                found += [
                    ((gs_base - link) & _MASK, "gs-base")
                    for link in self.image.addresses_of(PER_CPU_BLOCK)
                ]
        for value, how in found:
            if value % PAGE == 0 and value not in seen:
                seen.add(value)
                yield value, how

    def accept(self, value: int, how: str) -> Bias | None:
        """A proved bias, an unproved one that the gates carry, or None."""
        compared = self.compare(value)
        gates = self.votes.get(value, 0)
        vote = f"{gates} of {self.voters} gates agree" if self.voters else "no gates to vote"
        if compared.proves:
            proof = f"{compared.equal} of {compared.total} windows of code are equal; {vote}"
            if compared.unreadable:
                proof += f"; not to be read: {counted(compared.unreadable, 'window')}"
            return Bias(value, how, proof, True)
        if compared.differs is not None:
            alike = self.alike(value) if self.patches_itself else ""
            if alike:
                return Bias(value, how, alike, True)
            if self.differing is None and (gates >= GATES_NEEDED or how == "elf-header"):
                self.differing = (value, vote, compared.differs)
            return None
        if self.unanimous(value) and (compared.unreadable or not compared.total):
            proof = f"unproved: no kernel code here to compare .text with; {vote}"
            return Bias(value, "gates", proof, False)
        return None

    def unanimous(self, value: int) -> bool:
        """Whether every gate votes for `value`, and there are enough of them.

        A majority proves nothing: with an ELF of another build the handlers of one source file
        move together (9 of 12 gates agreed on a wrong place, the assembly entries on another).
        """
        return self.voters >= GATES_NEEDED and self.votes.get(value, 0) == self.voters

    def compare(self, value: int) -> _Comparison:
        """The guest's .text against the ELF's, window by window, up to the first difference."""
        equal = unreadable = 0
        for link, want in self.windows:
            try:
                have = self.read((link + value) & _MASK, len(want))
            except ReadError:
                unreadable += 1
                continue
            at = _first_difference(have, want)
            if at is not None:
                return _Comparison(equal, unreadable, len(self.windows), link + at)
            equal += 1
        return _Comparison(equal, unreadable, len(self.windows), None)

    def alike(self, value: int) -> str:
        """Why a kernel that patches its own text is this one all the same, "" where it is not: its
        build id is equal, and so is by far most of its code."""
        equal = total = 0
        for link, want in _windows(self.image, _MANY_WINDOWS):
            have = self.read_or_none((link + value) & _MASK, len(want))
            if have is not None:
                total += len(want)
                equal += sum(map(int.__eq__, have, want))
        if total < _WINDOW * GATES_NEEDED:
            return ""
        same_id = self.same_build_id(value)
        if same_id is False or equal < total * (_ALIKE if same_id else _ALIKE_WITHOUT_ID):
            return ""
        said = ", the build id too" if same_id else ""
        share = f"{100 * equal // total} % of {total} bytes of code are equal{said}"
        return f"{share}; this kernel patches its own code"

    def by_linking(self) -> Bias | None:
        """The one place that the ELF is linked to, where nothing there denies it: its code is not
        mapped, or has been written over in part. Not of a kernel that may have moved itself."""
        if self.image.elf.type == ET_DYN or self.patches_itself:
            return None
        compared = self.compare(0)
        if compared.unreadable == compared.total:
            return Bias(0, FIXED, "unproved: linked to one place, which is not mapped", False)
        loaded = self.loaded_in_part(0)
        return Bias(0, FIXED, loaded, False) if loaded else None

    def loaded_in_part(self, value: int) -> str:
        """Why an ELF that is linked to one place is the one that was loaded there although its code
        differs, "" where it is not: a fair part of it is equal, the rest has been written over."""
        equal = total = 0
        for link, want in _windows(self.image, _MANY_WINDOWS):
            have = self.read_or_none((link + value) & _MASK, len(want))
            if have is not None:
                total += 1
                equal += have == want
        if equal < max(GATES_NEEDED, total // _PART):
            return ""
        return f"unproved: {equal} of {total} windows of code are equal, the others differ"

    def same_build_id(self, value: int) -> bool | None:
        """Whether the build id in memory is the ELF's; None where one of them cannot be read."""
        for link, want in _build_id(self.image):
            have = self.read_or_none((link + value) & _MASK, len(want))
            return None if have is None else have == want
        return None

    def read_or_none(self, va: int, length: int) -> bytes | None:
        try:
            return self.read(va, length)
        except ReadError:
            return None

    def by_code(self) -> Bias | None:
        """Where the code that the CPU goes to stands in the ELF."""
        code = _code(self.image)
        for value, agreed in load_votes(code, self.goes_to, self.read_or_none).most_common(4):
            found = self.accept(value, "code")
            if found is not None:
                return found
            if agreed >= GATES_NEEDED and self.differing is None:
                where = self.compare(value).differs
                if where is not None:
                    self.differing = (value, f"{agreed} handlers have its code", where)
        return None

    def by_scan(self, executable: Iterable[tuple[int, memoryview]]) -> Bias | None:
        """The ELF's code anywhere in executable memory, where the CPU goes to it: a copy that a
        bootloader keeps is not the kernel that runs. In ring 3 and without an IDT nothing tells."""
        code = _code(self.image)
        spans = [(start, start + len(data)) for start, data in code]
        for value in scanned(code, executable):
            links = [(at - value) & _MASK for at in self.goes_to]
            used = any(first <= link < end for first, end in spans for link in links)
            found = self.accept(value, "code") if used or not self.goes_to else None
            if found is not None:
                return found
        return None

    def may_run(self, value: int) -> bool:
        """Whether the first of the code that is compared may be executed at `value`."""
        return not self.windows or self.executes((self.windows[0][0] + value) & _MASK)

    def scan(self, leaves: Iterable[int]) -> Bias | None:
        """Look for the ELF's first bytes at the start of each mapped page."""
        first = _first_page(self.image)
        if first is None:
            return None
        link, want = first
        for va in leaves:
            try:
                have = self.read(va, len(want))
            except ReadError:
                continue
            if _same_program(have, want):
                value = (va - link) & _MASK
                there = value % PAGE == 0 and self.may_run(value)
                found = self.accept(value, "elf-header") if there else None
                if found is not None:
                    return found
            elif self.other_header is None and have[:20] == want[:20] and is_elf(have):
                self.other_header = (va, have)
        return None

    def give_up(self, kernel_is_up: bool) -> Bias:
        path = self.image.path
        if self.differing is not None:
            value, vote, where = self.differing
            raise InputError(
                f"{path} is not the kernel that runs: at bias {hex64(value)} ({vote}) its .text "
                f"differs from link address {hex64(where)} on",
                fix="give the ELF of the very build that booted",
            )
        if self.other_header is not None:
            va, head = self.other_header
            raise InputError(
                f"{path} is not the kernel that runs: the ELF loaded at {hex64(va)} has "
                f"{describe_header(head)}, this one {describe_header(self.image.elf.header)}",
                fix="give the ELF of the very build that booted",
            )
        best, agreed = self.best_vote()
        if kernel_is_up and self.voters >= GATES_NEEDED:
            raise InputError(
                f"{path} is not the kernel that runs: {best} of {self.voters} IDT gates agree "
                f"with its symbols, {agreed}",
                fix="give the ELF of the very build that booted",
            )
        raise ReadError(
            f"where {path.name} is loaded is not known",
            self.why_unknown(best, agreed),
            "stop later, when the kernel has loaded its IDT",
        )

    def best_vote(self) -> tuple[int, str]:
        """The largest vote, and what it would mean."""
        if not self.votes:
            return 0, "on nothing"
        value, best = self.votes.most_common(1)[0]
        aligned = "" if value % PAGE == 0 else ", which is no page"
        return best, f"on a load address of {hex64(value)}{aligned}"

    def why_unknown(self, best: int, agreed: str) -> str:
        if self.image.elf.type != ET_DYN or not self.image.has_symbols:
            stripped = "" if self.image.has_symbols else "the ELF is stripped, and "
            return f"{stripped}no mapped code that the CPU goes to is this ELF's"
        if not self.voters:
            return "no IDT gate could be compared with a symbol: the kernel may not run yet"
        return f"{best} of {self.voters} IDT gates agree {agreed}: the kernel may not run yet"


def _first_difference(have: bytes, want: bytes) -> int | None:
    """Offset of the first unequal byte, None when equal.

    A few INT3 are a debugger's breakpoints: QEMU with KVM writes them into guest memory.
    """
    if have == want:
        return None
    unequal = [i for i, (a, b) in enumerate(zip(have, want, strict=True)) if a != b]
    if len(unequal) <= _BREAKPOINTS and all(have[i] == _INT3 for i in unequal):
        return None
    return unequal[0]


def _vote(
    image: Image, gates: Mapping[int, int], handlers: Mapping[int, str]
) -> tuple[Counter[int], int]:
    """Votes for each bias, and how many gates could vote: one vote a gate and candidate."""
    votes: Counter[int] = Counter()
    voters = 0
    if not gates or not image.has_symbols:
        return votes, 0
    for vector, name in handlers.items():
        links = image.addresses_of(name)
        if links and gates.get(vector):
            voters += 1
            votes.update({(gates[vector] - link) & _MASK for link in links})
    return votes, voters


def _code(image: Image) -> list[tuple[int, bytes]]:
    """(link address, bytes) of the executable segments."""
    found = ((s.vaddr, image.read(s.vaddr, s.filesz)) for s in image.segments if s.flags & PF_X)
    return [(vaddr, data) for vaddr, data in found if data]


def _windows(image: Image, count: int) -> list[tuple[int, bytes]]:
    """(link address, bytes) of the first, the last and evenly spread middle windows of .text; of a
    file of debug information alone, which has no code, the build id."""
    text = image.text
    if text is None or not text.size or image.read(text.address, 1) is None:
        return _build_id(image)
    length = min(_WINDOW, text.size)
    last = text.size - length
    offsets = sorted({last * i // (count - 1) for i in range(count)})
    windows = []
    for offset in offsets:
        data = image.read(text.address + offset, length)
        if data is not None:
            windows.append((text.address + offset, data))
    return windows


def _build_id(image: Image) -> list[tuple[int, bytes]]:
    """(link address, bytes) of the build id's note, where the kernel has it in memory."""
    wanted = bytes.fromhex(image.build_id or "")
    for section in image.sections if wanted else ():
        if section.type == SHT_NOTE and section.address:
            at = (image.read(section.address, section.size) or b"").find(wanted)
            if at >= 0:
                return [(section.address + at, wanted)]
    return []


def _same_program(have: bytes, want: bytes) -> bool:
    """Whether two ELF headers are of one program, up to the entry point: stripping moves section
    headers and may drop a program header. The code decides."""
    return have[:_E_SHOFF] == want[:_E_SHOFF] if is_elf(have) else have == want


def _first_page(image: Image) -> tuple[int, bytes] | None:
    """(link address, 64 bytes) at the start of the lowest page that the file fills."""
    for seg in sorted(image.segments, key=lambda s: s.vaddr):
        if seg.type == PT_LOAD and seg.vaddr % PAGE == 0:
            data = image.read(seg.vaddr, 64)
            if data is not None and any(data):
                return seg.vaddr, data
    return None
