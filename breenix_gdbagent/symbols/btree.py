"""`BTreeMap` in memory: leaf and internal nodes, in key order, bounded against damage.

Source: alloc::collections::btree::node (LeafNode, InternalNode: CAPACITY 11, 12 edges). The types
are followed from the map itself: LeafNode from the root's pointer, InternalNode from
``LeafNode.parent``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.symbols.cell import AnyCell, thin_pointer
from breenix_gdbagent.symbols.shapes import path_name
from breenix_gdbagent.symbols.types import Member, Type, TypeTable

# 5**24 keys do not fit into memory (a node other than the root has at least 5).
_MAX_HEIGHT = 24


class _Shape:
    """Members of the node types of one map, found by name."""

    def __init__(self, table: TypeTable, leaf: Type) -> None:
        self.table = table
        self.leaf = leaf
        self.keys = _need(leaf, "keys")
        self.vals = leaf.member("vals")
        self.len = _need(leaf, "len")
        self.key_type = _element(table, self.keys)
        self.val_type = None if self.vals is None else _element(table, self.vals)
        self.capacity = table.at(self.keys.type).count or 0
        self.internal = self._internal()
        self.edges = None if self.internal is None else _need(self.internal, "edges")

    def _internal(self) -> Type | None:
        parent = self.leaf.member("parent")
        if parent is None:
            return None
        type_ = self.table.at(parent.type)
        # Option<NonNull<InternalNode<K, V>>>: the one pointer inside, whatever wraps it.
        for _ in range(12):
            if type_.kind == "pointer" and type_.target is not None:
                return self.table.at(type_.target)
            inner = type_.variants.variants[-1].payload if type_.variants else None
            members = [m for m in type_.members if self.table.at(m.type).size]
            if inner is None and len(members) == 1:
                inner = members[0]
            if inner is None:
                break
            type_ = self.table.at(inner.type)
        return None


def entries(value: AnyCell, limit: int) -> Iterator[tuple[AnyCell, AnyCell]]:
    """(key, value) pairs in key order, at most `limit`.

    Raises `ValueCorrupt` for node lengths, heights or loops that cannot be; `InputError` for what
    is no BTreeMap.
    """
    here = value.peel()
    if path_name(here.type) == "BTreeSet":
        here = here["map"]
    if path_name(here.type) != "BTreeMap":
        raise InputError(f"{value.type.name} is no BTreeMap")
    length = here["length"].integer()
    root = here["root"].some()
    if root is None:
        if length:
            raise here.corrupt(f"a length of {length} without a root")
        return
    node, height = thin_pointer(root["node"]), root["height"].integer()
    if node.type.target is None or height > _MAX_HEIGHT:
        raise here.corrupt(f"a height of {height}")
    shape = _Shape(here.space.types, here.space.types.at(node.type.target))
    walk = _Walk(here, shape)
    seen = 0
    for pair in walk.node(node.number(0, 8), height):
        if seen == min(length, limit):
            break
        seen += 1
        yield pair
    if seen < min(length, limit):
        raise here.corrupt(f"a length of {length}, but the tree holds {seen}")


class _Walk(Generic[AnyCell]):
    """An in-order walk that visits no node twice."""

    def __init__(self, tree: AnyCell, shape: _Shape) -> None:
        self.tree = tree
        self.shape = shape
        self.visited: set[int] = set()

    def node(self, address: int, height: int) -> Iterator[tuple[AnyCell, AnyCell]]:
        if address in self.visited or address == 0:
            reason = "is reached twice" if address else "is null"
            raise self.tree.corrupt(f"the node at {hex64(address)} {reason}")
        self.visited.add(address)
        shape = self.shape
        leaf = self.tree.at(shape.leaf, address)
        count = leaf.part(shape.len).integer()
        if count > shape.capacity:
            raise self.tree.corrupt(f"the node at {hex64(address)} says it has {count} keys")
        for index in range(count):
            if height:
                yield from self.node(self.edge(address, index), height - 1)
            key = leaf.shifted(shape.key_type, shape.keys.offset + index * shape.key_type.size)
            yield key.initialised(), self.value(leaf, index)
        if height:
            yield from self.node(self.edge(address, count), height - 1)

    def value(self, leaf: AnyCell, index: int) -> AnyCell:
        shape = self.shape
        if shape.vals is None or shape.val_type is None:
            return leaf.shifted(shape.key_type, shape.keys.offset)
        return leaf.shifted(
            shape.val_type, shape.vals.offset + index * shape.val_type.size
        ).initialised()

    def edge(self, address: int, index: int) -> int:
        shape = self.shape
        if shape.internal is None or shape.edges is None:
            raise self.tree.corrupt("it has internal nodes, but their type is not known")
        node = self.tree.at(shape.internal, address)
        return node.number(shape.edges.offset + 8 * index, 8)


def _need(type_: Type, name: str) -> Member:
    member = type_.member(name)
    if member is None:
        raise InputError(f"{type_.name} has no field {name}: an unknown BTreeMap")
    return member


def _element(table: TypeTable, member: Member) -> Type:
    array = table.at(member.type)
    if array.target is None:
        raise InputError(f"{array.name} is no array: an unknown BTreeMap")
    return table.at(array.target)
