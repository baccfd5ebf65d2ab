"""The sentences about faults: what ran, what it did, why that failed, and what led to what."""

from __future__ import annotations

from collections.abc import Iterator

from breenix_gdbagent.addresses import counted, hex64
from breenix_gdbagent.checks.faults.cause import GUARD_PAGE, HANDLED, STALE_TLB, Differs, Refused
from breenix_gdbagent.checks.faults.constant import Constant
from breenix_gdbagent.checks.faults.defects import Defect, DefectFacts
from breenix_gdbagent.checks.faults.double_fault import ChainFacts, Cr2Is, Push
from breenix_gdbagent.checks.faults.exceptions import ExceptionFacts
from breenix_gdbagent.checks.faults.interrupted import SelectorErrorCode
from breenix_gdbagent.checks.faults.misplaced import MisplacedFacts
from breenix_gdbagent.checks.faults.new_root import NewRoot
from breenix_gdbagent.checks.faults.overrun import Recursion
from breenix_gdbagent.checks.faults.overwritten import OverwrittenFacts, TableRunOver
from breenix_gdbagent.checks.faults.page_fault import PageFaultFacts, Predicted
from breenix_gdbagent.checks.faults.shutdown import EarlyFacts, RebootFacts
from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.cpumodel.context import GP, SS, vector_name
from breenix_gdbagent.cpumodel.delivery import Course
from breenix_gdbagent.kernel.stacks import KernelStack
from breenix_gdbagent.report.wording.addresses import (
    address,
    entry_words,
    rip_of,
    selector_error,
    sentence,
    walk_picture,
    who,
)
from breenix_gdbagent.report.wording.base import Words, at, phrases, tells
from breenix_gdbagent.x86.paging import LEVEL

_VERB = {"read": "read", "write": "wrote", "fetch": "fetched an instruction from"}
_IS_TO = {"read": "read", "write": "write", "fetch": "fetch an instruction from"}
MOST_NAMED = 4


@phrases(Predicted)
def predicted(found: Predicted) -> str:
    """The error code, or that there would be none."""
    return "allowed" if found.error_code is None else hex64(found.error_code)


def refused(why: Refused) -> str:
    """The clause that says why: ``the PT entry at 0x... is 0x0: nothing is mapped``."""
    there = entry_words(why.entry) if why.entry is not None else "no table says so"
    set_or_clear = "is set and does not count here" if why.ac else "is clear"
    return {
        "unmapped": f"{there}: nothing is mapped",
        "reserved-bit": f"{there}, {_reserved(why)}",
        "supervisor-only": f"{there} and lacks U{_levels(why, 'U')}",
        "no-execute": f"{there} and has NX",
        "smep": "the page is user-accessible and CR4.SMEP forbids ring 0 to run it",
        "smap": f"the page is user-accessible, CR4.SMAP is set and RFLAGS.AC {set_or_clear}",
        "write-protected": f"{there} and lacks W{_levels(why, 'W')}",
        "protection-key": f"{there}, whose protection key forbids it",
        "copy-on-write": "the page is shared copy-on-write (bit 9 of its entry, W clear): the "
        "handler gives the process a copy of its own",
        "growth": f"it lies {hex64(why.below)} below the mapped part of a user stack, and the "
        "kernel grows the stack when ring 3 touches the 64 KiB below it",
    }[why.how] + (", as is meant for a guard" if why.guard else "")


def _levels(why: Refused, right: str) -> str:
    """The other entries that lack the right, and what the page's own entry says was meant."""
    others = [f"the {LEVEL[e.level].name} entry at {hex64(e.entry_pa)}" for e in why.lacking[1:]]
    said = f", as {'do' if len(others) > 1 else 'does'} {' and '.join(others)}" if others else ""
    if why.meant is None:
        return said
    leaf = why.meant
    what = "ring 3" if right == "U" else "writing"
    return (
        f"{said}; the {LEVEL[leaf.level].name} entry at {hex64(leaf.entry_pa)} has {right}, so the "
        f"page is meant for {what}"
    )


def _reserved(why: Refused) -> str:
    """Which bits, and why they are reserved: ``whose bit 63 (NX) is reserved while ...``."""
    efer = "" if why.efer is None else f" (EFER is {hex64(why.efer)})"
    because = {
        "nx-without-nxe": f"while EFER.NXE is 0 on CPU {why.cpu}{efer}",
        "beyond-width": f"on a CPU whose physical addresses have {why.width} bits",
        "below-large-page": "in the entry of a large page, whose frame is aligned to its size",
        "no-large-page": "at this level, which has no large pages",
    }
    each = [
        f"{_bits(one.bits)} {'are' if one.bits & one.bits - 1 else 'is'} reserved "
        f"{because[one.why]}"
        for one in why.reserved
    ]
    return f"whose {' and whose '.join(each)}" if each else "which has reserved bits set"


def _bits(bits: int) -> str:
    """``bit 63 (NX)``, ``bits 40, 41``."""
    numbers = [n for n in range(64) if bits >> n & 1]
    names = {63: " (NX)", 7: " (PS)"}
    if len(numbers) == 1:
        return f"bit {numbers[0]}{names.get(numbers[0], '')}"
    return f"bits {', '.join(map(str, numbers))}"


def differs(why: Differs) -> str:
    """What the tables give instead, and under which spaces they would give what was pushed."""
    say = (
        "the tables allow this access now"
        if why.found is None
        else f"the tables as they are give error code {hex64(why.found)}"
    )
    if why.under and len(why.under) <= MOST_NAMED:
        names = ", ".join(space.label for space in why.under)
        say += f"; under {names} they would give {hex64(why.pushed)}, so CR3 may be "
        say += "another one now than at the access"
    say = f"{say} ({entry_words(why.last)})" if why.last is not None else say
    if why.missed is not None:
        say += f"; it seems that CPU {why.missed} still had in its TLB what was there before, and "
        say += f"that the shootdown did not reach CPU {why.missed}"
    return say


def _why(facts: PageFaultFacts) -> str:
    why = facts.cause.why
    return refused(why) if isinstance(why, Refused) else differs(why)


def defect_words(defect: Defect) -> str:
    """What is wrong, in one sentence without its full stop."""
    lies = address(defect.kind) if defect.kind is not None else ""
    label = defect.space.label if defect.space is not None else "an unknown space"
    under = f"CR3 {hex64(defect.root)} ({label})"
    top, va = hex64(defect.top), hex64(defect.va or 0)
    return {
        "delivery": defect.why,
        "gate": defect.why,
        "read-only": f"{defect.pointer} {top} leads to {lies}, which cannot be written under "
        f"{under}",
        "ist-unmapped": f"the top of {defect.name}, {va}, is not mapped under {under}",
        "rsp0-unmapped": f"{lies} is not mapped under {under}, and RSP0 {top} is its top",
        "rsp0-no-top": f"RSP0 {top} is the top of no kernel stack: below it is {lies}",
        "rsp-ran-over": f"RSP {top} has run into {lies}",
        "rsp-refused": f"{defect.pointer} {top} leads to {lies}, which refuses the CPU's own write "
        f"under {under}",
        "rsp-non-canonical": f"RSP {top} is not canonical",
        "rsp-unmapped-here": f"RSP {top} lies in {lies}, which is not mapped under {under}",
        "rsp-unmapped": f"RSP {top} leads to {lies}, where nothing is mapped",
        "table-unmapped": f"{lies} is not mapped at {va} under {under}",
        "stack-not-here": f"{lies} is not mapped under {under}, and is in other spaces",
        "handler": f"{defect.name}: {defect.why}",
        "handler-not-fetched": f"{defect.name}: the handler at {va} cannot be fetched",
    }[defect.flaw]


@tells(DefectFacts)
def defect_behind(finding: Finding, facts: DefectFacts) -> Words:
    """What a fault rests on."""
    said = defect_words(facts.defect)
    kind, edge = facts.defect.kind, ""
    if kind is not None and kind.stack is not None and kind.part == "run":
        edge = _edge(kind.stack, facts.defect.top)
    rounds = rounds_of(facts.recursion)
    return Words(f"{finding.code.title}: {said}", sentence(f"{said}.", edge, rounds))


def rounds_of(recursion: Recursion | None) -> str:
    """What used a stack up, as a sentence; empty where that is not seen."""
    if recursion is None:
        return ""
    names = list(dict.fromkeys(recursion.functions))
    times = f"at least {recursion.rounds} rounds of {counted(recursion.bytes, 'byte')}."
    if len(names) == 1:
        return f"On it {names[0]} calls itself: {times}"
    shown = ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")
    return f"On it {shown} call each other: {times}"


@tells(OverwrittenFacts)
def overwritten(finding: Finding, facts: OverwrittenFacts) -> Words:
    """How far, and what stands there instead."""
    size = facts.end - facts.start
    place, to = at(facts.rip, facts.symbol), f"from {hex64(facts.start)} to {hex64(facts.end)}"
    what = "" if facts.fill is None else f", all of it {facts.fill:#04x}"
    summary = f"the code at {place} is not the kernel's: memory has {facts.memory[:23]}, the ELF "
    summary += f"{facts.elf[:23]}; {counted(size, 'byte')} differ, {to}"
    return Words(
        summary,
        sentence(
            f"{summary}{what}.",
            "What the CPU ran there was not the kernel's instruction; the fault says nothing of "
            "the source line that its address has.",
            "It was read where the ELF was loaded, by physical address: it is not mapped any more."
            if facts.physical
            else "",
        ),
    )


@tells(TableRunOver)
def table_run_over(finding: Finding, facts: TableRunOver) -> Words:
    """Which table, and what stands in it."""
    name = LEVEL[facts.level].name
    code = f"{facts.calls} of its entries are code addresses ({at(facts.code, facts.function)})"
    summary = (
        f"a stack has run over the {name} at {hex64(facts.table)}, on the way to "
        f"{hex64(facts.va)}: {code}"
    )
    return Words(
        summary,
        sentence(
            f"{summary}, as calls and exceptions leave them; RSP was {hex64(facts.rsp)}.",
            "What the tables say now is not what the kernel had written.",
        ),
    )


# Page faults ---------------------------------------------------------------------------------


@tells(PageFaultFacts)
def page_fault(finding: Finding, facts: PageFaultFacts) -> Words:
    """Who accessed what, and why that failed."""
    return Words(_accessed(facts), _story(facts), walk_picture(facts.walk))


def _accessed(facts: PageFaultFacts) -> str:
    place = f"{hex64(facts.cr2)} ({address(facts.address_is)})"
    if facts.implicit:
        what = facts.attempt.event.text if facts.attempt is not None else "an event"
        why = defect_words(facts.defect) if facts.defect is not None else _why(facts)
        return f"the CPU could not deliver {what} from ring {facts.at.ring}: {place}; {why}"
    if facts.own is not None:
        return (
            f"`{facts.at.instruction}` of {who(facts.at)} at {rip_of(facts.at)}: "
            f"{facts.own.why}: {place}; {_why(facts)}"
        )
    if facts.to_come:
        return (
            f"{who(facts.at)} was interrupted at {rip_of(facts.at)}, and cannot go on: it is to "
            f"{_IS_TO[facts.access]} {place}: {_why(facts)}"
        )
    if facts.new_root is not None:
        return f"{_root_lacks(facts.new_root)}; RIP is {rip_of(facts.at)}: {_why(facts)}"
    verb = _VERB[facts.access]
    return f"{who(facts.at)} {verb} {place} at {rip_of(facts.at)}: {_why(facts)}"


def _root_lacks(new: NewRoot) -> str:
    """``CR3 0x800000, which `mov cr3, rax` at 0x1006d9 <kmain+0x137> loaded, maps neither ...``."""
    *others, last = new.lost
    by = ""
    if new.loaded is not None:
        where = at(new.loaded.at.va, new.loaded.at.symbol)
        loads = f"`mov cr3, {new.loaded.register}` at {where}"
        by = f", which the instruction before RIP, {loads}, loaded,"
    said = f"CR3 {hex64(new.root)}{by} does not map what the CPU runs on: "
    said += f"{', '.join(others)} and {last}"
    if new.no_table is None:
        return said
    instead = {
        "no-ram": "no RAM is there",
        "zeros": "the page there is all zeros",
        "other": f"{new.no_table.words} of the 512 words there are not 0, and "
        f"{new.no_table.entries or 'none'} of them could be an entry that leads to a table",
    }[new.no_table.what]
    return f"{said}; it names no page table: {instead}"


def _story(facts: PageFaultFacts) -> str:
    code, space = facts.cause.code, facts.at.process
    under = space.label if space is not None else "an unknown space"
    said = [_what_ran(facts), f"{hex64(facts.cr2)} is in {address(facts.address_is)}."]
    said.append(f"Under CR3 {hex64(facts.at.cr3)} ({under}) {_why(facts)}.")
    if facts.new_root is not None:
        said.append(f"{_root_lacks(facts.new_root)}.")
        if facts.new_root.earlier:
            said.append("What is before RIP did not load it: its tables have changed since.")
        elif facts.new_root.no_table is None:
            said.append("It was loaded before its tables had them, or it is a wrong one.")
    said.append(_hinted(facts))
    if code not in (HANDLED, STALE_TLB):
        many = f"{facts.others} other address space{'s map' if facts.others != 1 else ' maps'} it."
        said.append(many if facts.others else "No other address space that is known maps it.")
    if code is GUARD_PAGE:
        said.append(_depth(facts))
    said.append(_agreement(facts))
    said.append(_nested(facts))
    return sentence(*said)


def _hinted(facts: PageFaultFacts) -> str:
    """Where the address is from, and in which direction a string instruction went."""
    said = []
    if facts.constant is not None:
        said.append(f"{hex64(facts.cr2)} is a constant in the code: {constant(facts.constant)}.")
    if facts.hints.downwards:
        said.append(
            f"{facts.hints.downwards}: the string instruction goes downwards; code that expects it "
            "clear wants cld at its entry."
        )
    return " ".join(said)


@phrases(Constant)
def constant(found: Constant) -> str:
    """Which instruction has it."""
    return "the instruction itself has it" if found.own else f"`{found.text}` at {hex64(found.at)}"


def _what_ran(facts: PageFaultFacts) -> str:
    program, cr2 = facts.at, hex64(facts.cr2)
    ran, place = who(program), rip_of(program)
    if facts.attempt is not None:
        attempt = facts.attempt
        top = hex64(attempt.top) if attempt.top is not None else "not known"
        doing = (
            f"had to push its frame onto {attempt.stack}, whose value is {top}"
            if attempt.step == "stack"
            else f"had to look at {address(facts.address_is)}"
        )
        return (
            f"{attempt.event.text} came while {ran} ran at {place}; to deliver it the CPU {doing}, "
            f"and this access, made as ring 0 whatever ring was interrupted, failed at {cr2}."
        )
    if facts.implicit:
        return f"While {ran} ran at {place} the CPU itself, as ring 0, accessed {cr2}."
    verb = _VERB[facts.access]
    if facts.to_come:
        return f"An interrupt came before {ran} could {_IS_TO[facts.access]} {cr2} at {place}."
    if program.instruction is None:
        return f"{ran} {verb} {cr2} at {place}."
    if facts.own is not None:
        return f"{ran} executed `{program.instruction}` at {place}: {facts.own.why}."
    return f"{ran} executed `{program.instruction}` at {place} and {verb} {cr2}."


def _depth(facts: PageFaultFacts) -> str:
    stack, rsp = facts.address_is.stack, facts.at.frame.rsp
    if stack is None:
        return ""
    if facts.address_is.part == "run":
        return sentence(_edge(stack, rsp), rounds_of(facts.recursion))
    if stack.bottom - 0x2000 <= rsp < stack.bottom + 0x2000:
        return (
            f"RSP {hex64(rsp)} is at the bottom of {stack.name} ({stack.size // 1024} KiB from "
            f"{hex64(stack.bottom)} to {hex64(stack.top)}): the stack is used up. "
            f"{rounds_of(facts.recursion)}"
        ).rstrip()
    return f"RSP {hex64(rsp)} is not near that stack: a stray pointer rather than an overflow."


def _edge(stack: KernelStack, rsp: int) -> str:
    below = stack.bottom - rsp
    where = f"{hex64(below)} below" if below > 0 else f"{hex64(-below)} above" if below else "at"
    return (
        f"RSP {hex64(rsp)} is {where} the lowest byte, {hex64(stack.bottom)}, of a writable run of "
        f"{stack.size // 1024} KiB: the stack is used up."
    )


def _agreement(facts: PageFaultFacts) -> str:
    code = hex64(facts.error_code)
    if facts.to_come:
        return f"it has not faulted there yet; by the tables the error code will be {code}."
    if not facts.pushed:
        return f"no handler saw its error code; by the tables it is {code}."
    pushed = f"The CPU pushed error code {code}"
    if not facts.cause.agrees:
        return f"{pushed}, which the tables do not give."
    if facts.deviation:
        given = hex64(facts.cause.predicted or 0)
        return f"{pushed}; the tables give {given} ({facts.deviation})."
    doubt = facts.doubt
    if facts.unexplained:
        doubt = doubt or "no access of the decoded instruction leads there"
    return f"{pushed}, as the tables predict{f' ({doubt})' if doubt else ''}."


def _nested(facts: PageFaultFacts) -> str:
    if facts.handler_stack is None:
        return ""
    return (
        f"The program that faulted ran on {facts.handler_stack} itself: it is a fault inside an "
        "exception handler, and the frame of the first one may be overwritten."
    )


# Other exceptions ----------------------------------------------------------------------------


@tells(ExceptionFacts)
def exception(finding: Finding, facts: ExceptionFacts) -> Words:
    """Which exception, where, and what raised it."""
    why = facts.raised.why or _nothing_known(facts)
    doing = f"`{facts.at.instruction}` " if facts.at.instruction is not None else ""
    summary = f"{facts.exception} in {who(facts.at)}, {doing}at {rip_of(facts.at)}: {why}"
    return Words(summary, _exception_story(facts))


def _nothing_known(facts: ExceptionFacts) -> str:
    if facts.foreseen is not None:
        return f"the instruction as it stands raises {facts.foreseen.text} instead"
    if facts.gap:
        return f"what raised it is not known ({facts.gap})"
    return "nothing that we know raises it there"


def _exception_story(facts: ExceptionFacts) -> str:
    program, delivered = facts.at, facts.delivered
    ran = f"`{program.instruction}`, " if program.instruction is not None else ""
    said = [f"{who(program)} was at {ran}{rip_of(program)}."]
    because = f"{vector_name(facts.vector)} came because {facts.raised.why}."
    said.append(because if facts.raised.why else f"{_nothing_known(facts)}.")
    if facts.defect is not None:
        instead = f"; so {delivered.text} came instead" if delivered is not None else ""
        said.append(f"It could not be delivered: {defect_words(facts.defect)}{instead}.")
    elif delivered is not None and delivered.error_code is not None:
        said.append(f"The CPU pushed {selector_error(SelectorErrorCode(delivered.error_code))}.")
    if facts.deviation:
        said.append(f"The pushed error code differs as is known: {facts.deviation}.")
    if delivered is not None and delivered.vector in (GP, SS):
        said.append("CR2 is not set by it and says nothing here.")
    if facts.hints.text_at_rip:
        text = facts.hints.text_at_rip
        said.append(f"RIP stands in text, {text!r}: the program ran on into its data.")
    if facts.doubt:
        said.append(f"Not proved: {facts.doubt}.")
    return sentence(*said)


# Double and triple faults --------------------------------------------------------------------


@phrases(Cr2Is)
def cr2_is(what: Cr2Is) -> str:
    """What CR2 is."""
    return {
        Cr2Is.LAST_OF_ALL: "of the last page fault, whichever that was",
        Cr2Is.STALE: "stale: no page fault in this chain",
        Cr2Is.FIRST: "the address of the first fault",
        Cr2Is.ON_THE_WAY: "the last access that failed on the way, not the address of the first "
        "fault",
    }[what]


@phrases(Push)
def push(made: Push) -> str:
    """Whether it can be made."""
    if made.lacking:
        return made.lacking
    return "can be written" if made.refused is None else made.refused.text


@tells(ChainFacts)
def chain(finding: Finding, facts: ChainFacts) -> Words:
    """What could not be delivered, and what it rests on."""
    name = finding.code.name.replace("-", " ")
    if facts.course is None:
        return Words(
            f"{name} in {who(facts.at)} at {rip_of(facts.at)}; what it began with could not be "
            "found",
            _unknown_chain(name, facts),
        )
    return Words(_undelivered(name, facts, facts.course), _chain_story(facts, facts.course))


def _undelivered(name: str, facts: ChainFacts, course: Course) -> str:
    failed = course.attempts[0].raised
    if facts.defects:
        why = defect_words(facts.defects[0])
    else:
        why = failed.why if failed is not None else "the CPU gave up"
    on = "" if facts.at.cpu is None else f"on CPU {facts.at.cpu} "
    place = f"{on}in {who(facts.at)} at {rip_of(facts.at)}"
    return f"{name} {place}: {course.first.text} could not be delivered, because {why}"


def _unknown_chain(name: str, facts: ChainFacts) -> str:
    gap = facts.doubt or "nothing that the instruction or an interrupt raises ends so"
    return sentence(
        f"{_which_cpu(facts)} ended in a {name} while {who(facts.at)} was at {rip_of(facts.at)}.",
        f"How it began could not be found: {gap}.",
        "The stacks that it may have needed are listed with what is mapped there.",
    )


def _which_cpu(facts: ChainFacts) -> str:
    return "The CPU" if facts.at.cpu is None else f"CPU {facts.at.cpu}"


def _chain_story(facts: ChainFacts, course: Course) -> str:
    program, first = facts.at, course.first
    ran = f"`{program.instruction}`, " if program.instruction is not None else ""
    why = f": {first.why}" if first.why else ""
    said = [f"{who(program)} was at {ran}{rip_of(program)}, when {first.text} came{why}."]
    said += [
        f"Delivering {a.event.text} failed: {a.raised.why}, which raises {a.raised.text}."
        for a in course.attempts
        if a.raised is not None
    ]
    said.append(
        "that is more than one double fault can hold, so the CPU shut down; RIP and RSP are still "
        "those of the first fault, because no delivery was completed."
        if course.end == "shutdown"
        else "the double fault itself was delivered; its frame has RIP and RSP of the first fault."
    )
    if len(facts.defects) > 1:
        said.append(f"The chain rests on this: {'; '.join(map(defect_words, facts.defects))}.")
    said.append(f"CR2 is {cr2_is(facts.cr2_is)}.")
    said.append(_again(facts.resets))
    if facts.doubt:
        said.append(f"Not proved: {facts.doubt}.")
    return sentence(*said)


# Interrupts where an exception belongs -------------------------------------------------------


@tells(MisplacedFacts)
def misplaced(finding: Finding, facts: MisplacedFacts) -> Words:
    """Which interrupt it was, and what shows that nothing faulted."""
    what = "an interrupt"
    if facts.irq is not None:
        what = f"IRQ {facts.irq}" + (f", {facts.wired}," if facts.wired else "")
    place = f"{who(facts.at)} was at {rip_of(facts.at)}"
    came = f"{what} came at vector {facts.vector} while {place}: no {facts.exception} happened"
    return Words(came, sentence(f"{came}.", *_interrupt_shown(facts)))


def _interrupt_shown(facts: MisplacedFacts) -> Iterator[str]:
    if facts.coded:
        yield (
            f"{facts.exception} pushes an error code, and none is on the stack: what lies at the "
            f"top is RIP {hex64(facts.at.rip)}, CS {hex64(facts.at.frame.cs)} and RFLAGS "
            f"{hex64(facts.at.frame.rflags)}, whose IF is set: interrupts were on."
        )
    else:
        yield f"RFLAGS {hex64(facts.at.frame.rflags)} has IF set: interrupts were on."
    if facts.bases is None:
        yield "what the interrupt controllers hold is not known here (QMP tells)."
        return
    bases = " and ".join(hex64(base) for base in facts.bases)
    yield f"the PIC's lines 0 and 8 have vectors {bases}."
    if facts.irq is None:
        yield "no line of the PIC comes there: an APIC, an MSI or an IPI sent it."
    elif facts.in_service:
        yield f"the PIC has IRQ {facts.irq} in service."
    else:
        yield f"the PIC does not have IRQ {facts.irq} in service any more."


def _not_excluded(facts: RebootFacts) -> str:
    """What else it may have been, where the reset itself was not seen."""
    if facts.port is not None:
        return ""
    said = (
        "Nothing that the instruction there or an interrupt is known to raise ends in a triple "
        "fault, which is no proof that none came."
    )
    if facts.unseen:
        numbers = ", ".join(map(str, facts.unseen))
        said += f" CPU {numbers} could not be looked at."
    return said


@tells(EarlyFacts)
def early_reset(finding: Finding, facts: EarlyFacts) -> Words:
    """That it ended, and in what state."""
    summary = (
        f"the guest reset itself or triple-faulted at {hex64(facts.rip)}: {facts.mode}, where "
        "exceptions are not judged"
    )
    return Words(summary, sentence(f"{summary}.", _again(facts.resets)))


def _again(resets: int | None) -> str:
    if not resets:
        return ""
    return f"QEMU had let it reset itself {counted(resets, 'time')} before: it boots in a loop."


@tells(RebootFacts)
def reboot(finding: Finding, facts: RebootFacts) -> Words:
    """How the guest asked for it."""
    how, what = "no write to a reset port is in sight there", "reset itself"
    if facts.address is not None and facts.port is not None:
        how = f"`{facts.by}` at {hex64(facts.address)} wrote to port {hex64(facts.port)}"
    elif facts.said:
        what = "reset itself or switched the machine off"
        how += f" ({facts.said})"
    place = rip_of(facts.at)
    return Words(
        f"the guest {what} at {place}: {how}",
        sentence(
            f"The guest {what} while {who(facts.at)} was at {place}: {how}.",
            _not_excluded(facts),
            _again(facts.resets),
        ),
    )
