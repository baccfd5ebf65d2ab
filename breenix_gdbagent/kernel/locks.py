"""Which locks of the kernel are taken, who waits for them, and who holds them.

The locks are the statics whose type is one (`Cell.lock`). A CPU waits for a lock where its
backtrace has a function that takes locks with the lock as its `self`; it holds one where a frame
has a guard of it as a variable. A guard that the compiler kept in no register and no memory is not
seen, so a lock whose holder is not found is held by somebody all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import VirtAddr
from breenix_gdbagent.errors import AgentError, InputError, ReadError
from breenix_gdbagent.kernel import trace
from breenix_gdbagent.kernel.lock_state import LockState, LockUser
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.symbols.values import Value, Values
from breenix_gdbagent.symbols.variables import Scope, scopes

if TYPE_CHECKING:
    from breenix_gdbagent.arch.cpu import Cpu

_LOCK_TYPE = re.compile(r"(Mutex|RwLock|Lock|LockedHeap)(<|$)")
_TAKES = re.compile(r"(Mutex|RwLock|Lock)\w*(<.*>)?::(lock|read|write|upgradeable_read)\w*$")
_GUARD = re.compile(r"Guard(<|$)")
_DEEPEST = 24
"""Frames that are looked through for a lock that a CPU takes, and for guards."""


def locks(kernel: Kernel) -> tuple[LockState, ...]:
    """All locks that are statics, by name. Raises `ReadError` without the kernel's types."""
    values = kernel.structures.values
    wanted, held = _at_work(kernel, values)
    found = []
    for name, value in _statics(values):
        lock, address = value.lock, value.address
        if lock is None or lock.held is None or address is None:
            continue
        span = range(address, address + max(value.type.size, 1))
        waiting = tuple(place for at, place in wanted if at in span)
        holder = next((place for at, place in held if at in span), None)
        found.append(
            LockState(name, VirtAddr(address), lock.held, waiting, holder if lock.held else None)
        )
    return tuple(sorted(found, key=lambda one: one.name))


def _statics(values: Values) -> Iterator[tuple[str, Value]]:
    for name, dies in sorted(values.debug.index.statics.items()):
        if len(dies) != 1:
            continue
        try:
            value = values.static(name)
        except (ReadError, InputError):
            continue
        if _LOCK_TYPE.search(value.type.name):
            yield name, value


Found = list[tuple[int, LockUser]]


def _at_work(kernel: Kernel, values: Values) -> tuple[Found, Found]:
    """(address of a lock, who waits for it), and the same of who holds one."""
    wanted: Found = []
    held: Found = []
    for cpu in kernel.stop.cpus:
        calls = list(_calls(kernel, values, cpu))
        taking = next(
            (n for n, scope in enumerate(calls) if _TAKES.search(_plain(scope.function))), None
        )
        if taking is not None:
            at = _own(calls[taking])
            caller = next(
                (c for c in calls[taking + 1 :] if not _TAKES.search(_plain(c.function))), None
            )
            name = _plain((caller or calls[taking]).function)
            if at is not None:
                wanted.append((at, LockUser(cpu.index, name)))
        for scope in calls:
            held += [(at, LockUser(cpu.index, _plain(scope.function))) for at in _guards(scope)]
    return wanted, held


def _plain(function: str) -> str:
    return function.partition("+")[0]


def _calls(kernel: Kernel, values: Values, cpu: Cpu) -> Iterator[Scope]:
    """The calls that a CPU is in, innermost first, those that were inlined as well."""
    try:
        frames = trace.of_cpu(kernel, cpu).frames[:_DEEPEST]
    except AgentError:
        return
    for frame in frames:
        if frame.ring:
            return
        try:
            yield from scopes(values, frame)
        except (ReadError, InputError):
            continue


def _own(scope: Scope) -> int | None:
    """What the `self` of a call points to."""
    own = scope.find("self")
    return None if own is None or own.value is None else _pointer(own.value)


def _guards(scope: Scope) -> Iterator[int]:
    """Addresses of the locks whose guards a call has as variables."""
    for variable in scope.variables:
        value = variable.value
        if value is None or not _GUARD.search(value.type.name):
            continue
        for member in value.type.members:
            at = _pointer(value.part(member))
            if at is not None:
                yield at


def _pointer(value: Value) -> int | None:
    try:
        return value.integer() if value.type.kind == "pointer" else None
    except (ReadError, InputError):
        return None
