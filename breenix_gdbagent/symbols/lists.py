"""`LinkedList` in memory, from its head on; a list that loops is named.

Source: alloc::collections::linked_list (LinkedList{head, tail, len}, Node{next, prev, element}).
"""

from __future__ import annotations

from collections.abc import Iterator

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.symbols.cell import AnyCell, thin_pointer
from breenix_gdbagent.symbols.shapes import path_name
from breenix_gdbagent.symbols.types import Type


def is_list(type_: Type) -> bool:
    """Whether it is the standard library's linked list."""
    return path_name(type_) == "LinkedList" and type_.member("head") is not None


def items(value: AnyCell, limit: int) -> Iterator[AnyCell]:
    """The elements from the head on, at most `limit`.

    Raises `ValueCorrupt` for a list that loops, or is shorter than it says.
    """
    count = min(value["len"].integer(), limit)
    link = value["head"].some()
    visited: set[int] = set()
    while len(visited) < count:
        if link is None:
            total = value["len"].integer()
            raise value.corrupt(f"a length of {total}, but {len(visited)} nodes")
        pointer = thin_pointer(link)
        address = pointer.number(0, 8)
        if address in visited:
            raise value.corrupt(f"the node at {hex64(address)} is reached twice: it loops")
        visited.add(address)
        if pointer.type.target is None:
            raise InputError(f"{value.type.name} does not say what its nodes are")
        node = value.at(value.space.types.at(pointer.type.target), address)
        yield node["element"]
        link = node["next"].some()
