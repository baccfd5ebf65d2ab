"""A stack that ran into the page below it: on any kernel, by the stack itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

from breenix_gdbagent.addresses import VirtAddr, hex64, page_base
from breenix_gdbagent.checks.facts import Facts
from breenix_gdbagent.checks.faults import address_kind as kinds
from breenix_gdbagent.checks.faults.address_kind import AddressKind, kind_of
from breenix_gdbagent.cpumodel.context import PF, Context
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.stack_bottom import bottom_above, circle_on
from breenix_gdbagent.kernel.stacks import KernelStack
from breenix_gdbagent.kernel.view import Kernel

_TOLD = kinds.TABLES | {
    kinds.NON_CANONICAL, kinds.GUARD_PAGE, kinds.BELOW_IST, kinds.KERNEL_STACK, kinds.IST_STACK,
}  # fmt: skip
"""What an address is by tables and TSS, whatever lies above it."""
_OFFSET = re.compile(r"\+0x[0-9a-f]+$")

SHALLOWER = "Make the recursion end, or the path shallower, or the stack larger"
OWN_STACK = (
    ". Give #PF a stack of its own too (an IST entry in its gate), so that an overflow can be told "
    "as one: pushed onto the stack that is used up, its frame makes a double fault of it."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recursion(Facts):
    """The functions that call each other, innermost first, how often at least, and the bytes of
    stack that one round takes."""

    functions: tuple[str, ...]
    rounds: int
    bytes: int


def kind_under(kernel: Kernel, context: Context, va: int) -> AddressKind:
    """`kind_of`, and besides the page below a stack that no layout tells of, where ring 0 fell out
    of one at `va`."""
    kind = kind_of(kernel, va, context.root)
    if context.cpl or kind.name in _TOLD:
        return kind
    found = bottom_above(kernel, context.root, context.rsp, va)
    if found is None:
        return kind
    stack = KernelStack("stack", found.bottom, found.top, VirtAddr(page_base(va)))
    return AddressKind(kinds.GUARD_PAGE, stack, part="run")


def recursion(kernel: Kernel, context: Context, kind: AddressKind | None) -> Recursion | None:
    """What used up the stack that `kind` is the end of, None where no function comes again."""
    if kind is None or kind.stack is None or kind.name not in (kinds.GUARD_PAGE, kinds.BELOW_IST):
        return None
    stack = kind.stack
    found = circle_on(kernel, context.root, max(context.rsp, stack.bottom), stack.top)
    if found is None:
        return None
    names = tuple(_function(kernel, at) for at in found.returns)
    return Recursion(functions=names, rounds=found.rounds, bytes=found.size)


def advice(kernel: Kernel, kind: AddressKind) -> str:
    """What to do about a stack that no layout tells of, empty for another."""
    if kind.part != "run":
        return ""
    try:
        gate = kernel.gates.get(PF)
    except ReadError:
        gate = None
    return SHALLOWER + (OWN_STACK if gate is not None and not gate.ist else ".")


def _function(kernel: Kernel, at: int) -> str:
    name = kernel.symbol(at - 1)
    return hex64(at) if name is None else _OFFSET.sub("", name)
