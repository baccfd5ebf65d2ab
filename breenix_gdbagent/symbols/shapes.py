"""Pointers and locks by shape: the standard library's wrappers drift, their form stays.

Sources: spin 0.9 mutex/spin.rs, rwlock.rs, once.rs; lock_api 0.4; conquer_once state.rs;
std::sync; Breenix kernel/src/sync (IrqSafeMutex) and memory/heap.rs (IrqSafeLockedHeap).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.symbols.types import VOID, Member, Type, TypeTable, only_member

if TYPE_CHECKING:
    from breenix_gdbagent.symbols.values import Value

_SMART = frozenset({"Box", "Rc", "Arc", "NonNull", "Unique", "Weak", "Pin"})
OWNERS = frozenset({"Box", "Rc", "Arc"})
COUNTED = frozenset({"Rc", "Arc"})
_LOCK_WORDS = ("lock", "raw", "locked", "state", "status", "inner", "futex", "once", "mutex")
_COLLECTIONS = frozenset(
    {"String", "Vec", "VecDeque", "BTreeMap", "BTreeSet", "BinaryHeap", "RawVec"}
    | {"HashMap", "HashSet", "LinkedList"}
)
UNINIT = frozenset({"MaybeUninit", "ManuallyDrop", "MaybeDangling"})
# What Rust's own Debug form looks through, however many members and names it has.
_TRANSPARENT = UNINIT | {"UnsafeCell", "SyncUnsafeCell", "Cell", "Unique", "CachePadded"}
_TRANSPARENT_NAME = re.compile(r"(Atomic|NonZero)\w*|Align\d+")
# The word of a finished cell, by the name of the word: spin::Once and conquer_once::OnceCell.
_ONCE_READY = {"status": 2, "state": 2}
_DEPTH = 16


@dataclass(frozen=True, slots=True)
class Lock:
    """The lock word beside the data it guards; `held` None when its meaning is not known."""

    raw: int
    held: bool | None


def path_name(type_: Type) -> str:
    """The last path component of a type's name without generics: ``Box`` of
    ``alloc::boxed::Box<T>``."""
    return _last_component(type_.name)


@lru_cache(maxsize=4096)
def _last_component(name: str) -> str:
    return name.partition("<")[0].rpartition("::")[2]


def is_transparent(type_: Type) -> bool:
    """Whether it is a wrapper of the standard library that shows only what is in it."""
    name = path_name(type_)
    return name in _TRANSPARENT or _TRANSPARENT_NAME.fullmatch(name) is not None


def is_wide(type_: Type) -> bool:
    """Whether it is a pointer with a length: ``&[T]``, ``&str``, ``Box<[T]>``."""
    return type_.kind == "struct" and {m.name for m in type_.members} == {"data_ptr", "length"}


def is_dyn(type_: Type) -> bool:
    """Whether it is a pointer with a vtable: ``&dyn Trait``, ``Box<dyn Trait>``."""
    return type_.kind == "struct" and {m.name for m in type_.members} == {"pointer", "vtable"}


def is_special(type_: Type) -> bool:
    """Whether it has a meaning of its own, so that it is not looked through as a newtype."""
    return (
        type_.kind in ("pointer", "array", "base", "function")
        or is_wide(type_)
        or is_dyn(type_)
        or path_name(type_) in _COLLECTIONS
        or path_name(type_) in _SMART
    )


def is_pointer(value: Value) -> bool:
    """Whether `deref` makes sense: thin pointers, boxes, references, counted pointers."""
    return is_pointer_type(value.type)


def is_pointer_type(type_: Type) -> bool:
    """See `is_pointer`."""
    return type_.kind == "pointer" or (
        type_.kind == "struct" and path_name(type_) in _SMART and not is_wide(type_)
    )


def address_in(value: Value) -> int:
    """The address in a thin or wide pointer, `Box`, `NonNull`, `Arc`."""
    here = value
    for _ in range(_DEPTH):
        type_ = here.type
        if type_.kind in ("pointer", "function"):
            return here.number(0, 8)
        member = type_.member("data_ptr") or type_.member("pointer") or type_.member("ptr")
        member = member or only_member(here.space.types, type_)
        if member is None:
            break
        here = here.part(member)
    raise InputError(f"{value.type.name} is no pointer")


def thin_pointer(value: Value) -> Value:
    """The raw pointer inside a smart pointer."""
    here = value
    for _ in range(_DEPTH):
        type_ = here.type
        if type_.kind == "pointer":
            return here
        member = type_.member("pointer") or type_.member("ptr")
        member = member or only_member(here.space.types, type_)
        if member is None:
            break
        here = here.part(member)
    raise InputError(f"{value.type.name} is no thin pointer")


def wide_pointer(value: Value) -> Value:
    """The (data_ptr, length) pair inside a pointer to a slice or `str`."""
    here = value
    for _ in range(_DEPTH):
        if is_wide(here.type):
            return here
        member = here.type.member("ptr") or here.type.member("pointer")
        member = member or only_member(here.space.types, here.type)
        if member is None:
            break
        here = here.part(member)
    raise InputError(f"{value.type.name} has no length beside it")


def is_thin(value: Value) -> bool:
    """Whether a smart pointer holds an address alone, without length or vtable."""
    try:
        thin_pointer(value)
    except InputError:
        return False
    return True


def deref(value: Value) -> Value:
    """What a pointer points to: of `Arc` and `Rc` the data behind the counts.

    Raises `ValueCorrupt` for a null reference or box, `ReadError` for a null raw pointer.
    """
    thin = thin_pointer(value)
    address = thin.number(0, 8)
    if address == 0:
        if thin is value and value.type.name.startswith("*"):
            raise ReadError(f"the pointer at {value.where} is null")
        raise value.corrupt("a null where Rust has none")
    target = VOID if thin.type.target is None else value.space.types.at(thin.type.target)
    found = value.space.at(target, address)
    if path_name(target) in ("ArcInner", "RcInner", "RcBox"):
        for name in ("data", "value"):
            member = target.member(name)
            if member is not None:
                return found.part(member)
    return found


def guarded_member(table: TypeTable, type_: Type) -> Member | None:
    """The data of a lock or once-cell: a member that is an `UnsafeCell` beside a lock word."""
    if type_.kind != "struct" or len(type_.members) < 2:
        return None
    if _word(table, type_) is None:
        return None
    for name in ("data", "value", "inner"):
        member = type_.member(name)
        if member is not None and path_name(table.at(member.type)) == "UnsafeCell":
            return member
    return None


def _word(table: TypeTable, type_: Type) -> Member | None:
    """The lock word: of a known name, with a size, and no cell of data itself."""
    for name in _LOCK_WORDS:
        member = type_.member(name)
        if member is not None:
            inner = table.at(member.type)
            if 0 < inner.size <= 8 and path_name(inner) != "UnsafeCell":
                return member
    return None


def lock_of(value: Value) -> Lock | None:
    """The lock word of a lock, looked for through newtypes (`IrqSafeMutex{inner: Mutex}`)."""
    here = value
    for _ in range(_DEPTH):
        table = here.space.types
        if guarded_member(table, here.type) is not None:
            word = _word(table, here.type)
            assert word is not None
            raw = here.part(word).integer()
            held = None if is_once(here.type) else raw != 0
            return Lock(raw, held)
        if here.type.variants is not None or is_special(here.type):
            return None
        member = only_member(table, here.type)
        if member is None:
            return None
        here = here.part(member)
    return None


def is_once(type_: Type) -> bool:
    """Whether the word beside the data says "initialised" and not "held"."""
    return path_name(type_) in ("Once", "OnceCell", "OnceLock", "Lazy", "LazyLock")


def once_ready(value: Value, raw: int) -> bool | None:
    """Whether the word `raw` of a once-cell says that its data is there; None: not known."""
    for name, ready in _ONCE_READY.items():
        if value.type.member(name) is not None:
            return raw == ready
    return None
