"""Types by their shape, pointers and locks above all: wrappers drift, their form stays.

Sources: spin 0.9 mutex/spin.rs, rwlock.rs, once.rs; lock_api 0.4; conquer_once state.rs;
std::sync; Breenix kernel/src/sync (IrqSafeMutex) and memory/heap.rs (IrqSafeLockedHeap).
"""

from __future__ import annotations

import re
from functools import lru_cache

from breenix_gdbagent.symbols.types import Member, Type, TypeTable

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
_DEPTH = 16


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


def is_pointer_type(type_: Type) -> bool:
    """Whether `deref` makes sense: thin pointers, boxes, references, counted pointers."""
    return type_.kind == "pointer" or (
        type_.kind == "struct" and path_name(type_) in _SMART and not is_wide(type_)
    )


def guarded_member(table: TypeTable, type_: Type) -> Member | None:
    """The data of a lock or once-cell: a member that is an `UnsafeCell` beside a lock word."""
    if type_.kind != "struct" or len(type_.members) < 2:
        return None
    if lock_word(table, type_) is None:
        return None
    for name in ("data", "value", "inner"):
        member = type_.member(name)
        if member is not None and path_name(table.at(member.type)) == "UnsafeCell":
            return member
    return None


def lock_word(table: TypeTable, type_: Type) -> Member | None:
    """The lock word: of a known name, with a size, and no cell of data itself."""
    for name in _LOCK_WORDS:
        member = type_.member(name)
        if member is not None:
            inner = table.at(member.type)
            if 0 < inner.size <= 8 and path_name(inner) != "UnsafeCell":
                return member
    return None


def is_once(type_: Type) -> bool:
    """Whether the word beside the data says "initialised" and not "held"."""
    return path_name(type_) in ("Once", "OnceCell", "OnceLock", "Lazy", "LazyLock")
