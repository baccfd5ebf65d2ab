"""Rust values read from a running program, against what the program itself says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from breenix_gdbagent.errors import InputError, ReadError, SymbolNotFound, ValueCorrupt
from breenix_gdbagent.symbols import Image
from breenix_gdbagent.symbols.pagecache import PageCache
from breenix_gdbagent.symbols.tree import (
    Cut,
    Items,
    Limits,
    Pointer,
    Struct,
    Unknown,
    resolve,
)
from breenix_gdbagent.symbols.tree_plain import to_python
from breenix_gdbagent.symbols.tree_text import line, lines, one_line, render
from breenix_gdbagent.symbols.values import Value, Values
from tests.unit.symbols.conftest import Process


@pytest.fixture(scope="session")
def values(shapes: Path, process: Process) -> Values:
    return Values(Image.open(shapes).loaded(process.base), process.read)


@pytest.fixture
def everything(values: Values) -> Value:
    return values.static("shapes::MUTEX")


EXPECTED: dict[str, object] = {
    "opt_u64": [None, 7],
    "opt_box": [None, 9],
    "opt_bool": [None, False, True],
    "opt_nonzero": [None, 4],
    "opt_char": [None, "x"],
    "opt_state": [None, "Creating", "Ready", "Dead"],
    "opt_string": [None, "some"],
    "opt_ref": [None, "ref"],
    "opt_unit": [None, ()],
    "payloads": ["Empty", {"Text": "hello"}, {"Number": {"value": -5, "scale": 2}}, "Other"],
    "signed": ["Low", "Zero", "High"],
    "wide": ["A", "B"],
    "signed_tags": [{"Minus": 8}, {"Plus": 1 << 20}],
    "single": {"Only": 513},
    "result": [{"Ok": 1}, {"Err": "bad"}],
    "uninhabited": {"Ok": 3},
    "nested": [{"Inner": None}, {"Inner": False}, {"Inner": True}, "A", "B", "C"],
    "big": [{"X": 1 << 100}, "Y"],
    "vec": [1, 2, 65535],
    "vec_empty": [],
    "vec_zst": [(), (), ()],
    "deque_flat": ["a", "b"],
    "map_small": {1: 2, 3: 4},
    "map_empty": {},
    "set": [3, 5, 9],
    "hashed_empty": {},
    "linked": [7, 8, 9],
    "linked_empty": [],
    "dyn_arc": {"code": 99},
    "dyn_ref": 5,
    "dyn_option": {"code": 3},
    "boxed_slice": [1, 2, 3],
    "boxed_str": "boxed",
    "slice": [-1, 0, 1],
    "text": "text with ünïcode",
    "arc": 42,
    "rc": "counted",
    "arc_str": "shared",
    "array2": [[1, 2], [3, 4], [5, 6]],
    "floats": (1.5, -2.25),
    "ints": (-8, -16, -32, -64, -(1 << 100), 1 << 127, -1, (1 << 64) - 1),
    "atomics": (1, 8, -32, 64, 65),
    "raw": Pointer(0),
}


@pytest.mark.parametrize("field", EXPECTED)
def test_every_shape(everything: Value, field: str) -> None:
    assert to_python(everything[field]) == EXPECTED[field]


def test_nested_options_of_bool(everything: Value) -> None:
    """`None`, `Some(None)`, `Some(Some(b))` share one byte: each level has its own niche."""
    options = list(everything["opt_opt_bool"].items())
    outer = [o.some() for o in options]
    assert outer[0] is None and outer[1] is not None and outer[1].some() is None
    assert [o.some().boolean() for o in outer[2:] if o is not None] == [False, True]
    told = "[None, Some(None), Some(Some(false)), Some(Some(true))]"
    assert one_line(everything["opt_opt_bool"]) == told
    assert to_python(everything["opt_opt_bool"]) == [None, {"Some": None}, False, True]


def test_map_with_internal_nodes(everything: Value, process: Process) -> None:
    """40 boxed and 500 plain entries, in key order, as the program iterates them."""
    pairs = list(everything["map"].entries())
    assert [k.integer() for k, _ in pairs] == ast.literal_eval(process.truth["map_keys"])
    assert [v["name"].text() for _, v in pairs] == ast.literal_eval(process.truth["map_names"])
    big = [(k.integer(), v.text()) for k, v in everything["map_big"].entries()]
    assert big == ast.literal_eval(process.truth["map_big"]) and len(big) == 500
    assert everything["map"][9]["pid"].integer() == 3
    with pytest.raises(SymbolNotFound):
        everything["map"][10]


def test_hash_tables(everything: Value, process: Process) -> None:
    """Most of a thousand pairs, with deleted ones between them."""
    told = ast.literal_eval(process.truth["hashed"])
    found = {k.integer(): v.text() for k, v in everything["hashed"].entries()}
    assert sorted(found.items()) == told and len(everything["hashed"]) == len(told)
    assert everything["hashed"][9].text() == "h3"
    assert sorted(map(str, plain_list(everything["hashed_set"]))) == ["x", "y"]
    assert one_line(everything["hashed_set"]) in ('{"x", "y"}', '{"y", "x"}')


def plain_list(value: Value) -> list[object]:
    found = to_python(value)
    assert isinstance(found, list)
    return [*found]


def test_trait_objects_are_what_their_vtable_says(everything: Value, process: Process) -> None:
    spoken = process.truth["spoken"].split()
    inside = to_python(everything["dyn_box"])
    assert isinstance(inside, dict) and inside["name"] == spoken[0]
    assert one_line(everything["dyn_arc"]) == "Aligned { code: 99 }"
    assert one_line(everything["dyn_option"]) == "Some(Aligned { code: 3 })"


def test_wrapped_queue_and_heap(everything: Value, process: Process) -> None:
    queue = everything["deque"]
    assert [v.integer() for v in queue] == ast.literal_eval(process.truth["deque"])
    assert queue[5].integer() == 102 and len(queue) == 7
    assert to_python(everything["heap"]) == ast.literal_eval(process.truth["heap"])


def test_a_whole_struct(everything: Value, process: Process) -> None:
    foo = everything["foo"]
    plain = to_python(foo)
    assert isinstance(plain, dict)
    assert list(plain) and plain["name"] == "process-1" and plain["pair"] == (1, -1)
    assert plain["stack_top"] == 0xFFFFC90000000001 and plain["letter"] == "ß"
    inner = plain["next"]
    assert isinstance(inner, dict) and inner["pid"] == 101 and inner["flag"] is True
    assert foo["next"]["next"]["pid"].integer() == 201, "through Option and Box"
    assert foo["next"]["next"]["next"].some() is None
    assert process.truth["foo"].startswith("Foo { pid: 1")
    assert everything.address is not None
    assert int(process.truth["everything"], 16) == everything["foo"].address - _offset(everything)


def _offset(everything: Value) -> int:
    whole = everything.space.types.named("shapes::Everything")
    member = whole.member("foo")
    assert member is not None
    return member.offset


def test_locks_beside_their_data(values: Values) -> None:
    held = values.static("HELD")
    assert held.lock is not None and (held.lock.raw, held.lock.held) == (1, True)
    assert to_python(held) == {"lock": 1, "data": 77}
    assert values.static("shapes::COUNTER").lock is None


def test_statics_by_path(values: Values) -> None:
    assert values.static("shapes::COUNTER").integer() == 12345
    assert values.static("inner::COUNTER").integer() == 5
    with pytest.raises(InputError, match="names 2 statics"):
        values.static("COUNTER")
    with pytest.raises(SymbolNotFound) as caught:
        values.static("shapes::MUTEXX")
    assert "shapes::MUTEX" in caught.value.near
    assert to_python(values.static("SPLIT")) == 257


def test_paths_for_print(everything: Value) -> None:
    assert resolve(everything, ".foo.next.name").text() == "process-101"
    assert resolve(everything, ".vec[2]").integer() == 65535
    assert resolve(everything, ".ints.3").integer() == -64
    assert resolve(everything, ".map[3].payload.0").text() == "t"
    with pytest.raises(SymbolNotFound) as caught:
        resolve(everything, ".foo.nmae")
    assert "name" in caught.value.near
    with pytest.raises(SymbolNotFound):
        resolve(everything, ".vec[3]")
    for bad in ("foo", ".vec[x]", ".vec[1", ".vec]"):
        with pytest.raises((InputError, SymbolNotFound)):
            resolve(everything, bad)


def test_text(everything: Value, values: Values, process: Process) -> None:
    lines = render(everything["foo"], width=60)
    assert lines[0] == "Foo {" and '  name: "process-1",' in lines
    decimal = re.sub(r"0x[0-9a-f]+", lambda x: str(int(x[0], 16)), one_line(everything["foo"]))
    assert decimal == process.truth["foo"]
    double = int(process.truth["func"], 16)
    assert render(everything["func"]) == [f"{double:#x} <shapes::double>"]
    assert render(everything["map_small"]) == ["{1: 2, 3: 4}"]


def test_limits_say_what_they_left_out(everything: Value) -> None:
    few = to_python(everything["map_big"], Limits(items=3))
    assert isinstance(few, dict) and few["..."] == Cut(497) and len(few) == 4
    assert to_python(everything["vec"], Limits(items=2)) == [1, 2, Cut(1)]
    assert to_python(everything["text"], Limits(text=4)) == ["text", Cut(15)]
    assert to_python(everything["text"], Limits(text=11)) == ["text with ", Cut(9)], "no half ü"
    deep = to_python(everything["foo"], Limits(depth=1))
    assert isinstance(deep, dict) and deep["pid"] == 1
    assert isinstance(to_python(everything, Limits(nodes=50)), dict)


class Broken:
    """The program's memory with some bytes replaced and some pages gone."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.bytes: dict[int, int] = {}
        self.gone: set[int] = set()

    def put(self, address: int, data: bytes) -> None:
        self.bytes.update({address + i: b for i, b in enumerate(data)})

    def read(self, va: int, length: int) -> bytes:
        if any(p in self.gone for p in range(va & ~0xFFF, va + length, 0x1000)):
            raise ReadError(f"{va:#x} is not mapped")
        data = bytearray(self.process.read(va, length))
        for at in self.bytes.keys() & set(range(va, va + length)) if length < 8192 else ():
            data[at - va] = self.bytes[at]
        return bytes(data)


@pytest.fixture
def broken(process: Process) -> Broken:
    return Broken(process)


@pytest.fixture
def damaged(values: Values, broken: Broken) -> Damaged:
    return Damaged(values, broken)


class Damaged:
    """The same value, read anew through `broken` at every look."""

    def __init__(self, values: Values, broken: Broken) -> None:
        self.values = values
        self.broken = broken

    def __getitem__(self, field: str) -> Value:
        return Values(self.values.image, self.broken.read).static("shapes::MUTEX")[field]


def word(value: int) -> bytes:
    return (value & (1 << 64) - 1).to_bytes(8, "little")


def field_address(value: Value) -> int:
    assert value.address is not None
    return value.address


def test_a_string_of_2_to_the_60_bytes(everything: Value, damaged: Damaged, broken: Broken) -> None:
    name = everything["foo"]["name"]
    broken.put(field_address(name["vec"]["len"]), word(1 << 60))
    with pytest.raises(ValueCorrupt, match="length of 1152921504606846976"):
        damaged["foo"]["name"].text()
    plain = to_python(damaged["foo"])
    assert isinstance(plain, dict) and plain["pid"] == 1
    assert isinstance(plain["name"], Unknown) and plain["name"].corrupt


def test_impossible_tags_are_named(everything: Value, damaged: Damaged, broken: Broken) -> None:
    broken.put(field_address(everything["signed_tags"].item(0)), b"\x55\x55")
    with pytest.raises(ValueCorrupt, match=r"SignedTag at 0x[0-9a-f]+ .*tag 21845 is none of"):
        damaged["signed_tags"].item(0).variant()
    broken.put(field_address(everything["foo"]["state"]), b"\x07")
    with pytest.raises(ValueCorrupt, match=r"State at .* tag 7 is none of its 3 variants"):
        damaged["foo"]["state"].variant()
    broken.put(field_address(everything["foo"]["flag"]), b"\x09")
    assert to_python(damaged["foo"]["flag"]) == Unknown(
        f"bool at {field_address(everything['foo']['flag']):#x} is corrupt: 9 is no bool", True
    )
    broken.put(field_address(everything["foo"]["letter"]), b"\x00\xd8\x00\x00")
    with pytest.raises(ValueCorrupt, match="0xd800 is no char"):
        damaged["foo"]["letter"].plain()


def test_a_list_whose_pointers_loop(everything: Value, damaged: Damaged, broken: Broken) -> None:
    """A box that holds itself: shown to the depth limit, and no further."""
    foo = everything["foo"]
    broken.put(field_address(foo["next"]), word(field_address(foo)))
    plain = to_python(damaged["foo"])
    depth = 0
    while isinstance(plain, dict):
        plain, depth = plain["next"], depth + 1
    assert plain == Cut(None) and 3 < depth <= Limits().depth


def test_hash_tables_and_lists_that_lie(
    everything: Value, damaged: Damaged, broken: Broken
) -> None:
    linked = everything["linked"]
    first = linked["head"].some()
    assert first is not None
    node = first.deref()
    broken.put(field_address(node["next"]), word(field_address(node)))
    with pytest.raises(ValueCorrupt, match="reached twice: it loops"):
        list(damaged["linked"])
    shown = to_python(damaged["linked"])
    assert isinstance(shown, list) and isinstance(shown[-1], Unknown) and shown[0] == 7
    inner = everything["hashed"]["base"]["table"]["table"]
    broken.put(field_address(inner["items"]), word(5))
    with pytest.raises(ValueCorrupt, match="says 5 items, but more"):
        list(damaged["hashed"].entries())
    broken.put(field_address(inner["items"]), word(1 << 40))
    with pytest.raises(ValueCorrupt, match="items in 1024 buckets"):
        list(damaged["hashed"].entries())
    broken.put(field_address(inner["bucket_mask"]), word(6))
    with pytest.raises(ValueCorrupt, match="in 7 buckets"):
        list(damaged["hashed"].entries())
    fat = everything["dyn_box"]
    broken.put(field_address(fat["vtable"]), word(field_address(everything["foo"])))
    assert isinstance(to_python(damaged["dyn_box"]), Pointer)
    broken.put(field_address(fat["vtable"]), word(0))
    assert isinstance(to_python(damaged["dyn_box"]), Unknown)


def test_a_tree_that_loops_or_lies(everything: Value, damaged: Damaged, broken: Broken) -> None:
    tree = everything["map_big"]
    root = tree["root"].some()
    assert root is not None and root["height"].integer() > 0
    node = root["node"].pointer()
    types = everything.space.types
    shape = types.named("alloc::collections::btree::node::InternalNode<u32, alloc::string::String>")
    edges = shape.member("edges")
    assert edges is not None
    broken.put(node + edges.offset, word(node))
    with pytest.raises(ValueCorrupt, match="is reached twice"):
        list(damaged["map_big"].entries())
    broken.put(field_address(tree["length"]), word(1 << 50))
    broken.bytes = {a: b for a, b in broken.bytes.items() if a < node or a > node + 4096}
    with pytest.raises(ValueCorrupt, match="but the tree holds 500"):
        list(damaged["map_big"].entries(1 << 60))
    broken.put(field_address(tree["root"]) + 8, word(99))
    with pytest.raises(ValueCorrupt, match="height of 99"):
        list(damaged["map_big"].entries())


def test_queues_and_vectors_that_lie(everything: Value, damaged: Damaged, broken: Broken) -> None:
    broken.put(field_address(everything["deque"]["head"]), word(1 << 40))
    with pytest.raises(ValueCorrupt, match="outside of its capacity"):
        list(damaged["deque"])
    broken.put(field_address(everything["vec"]["len"]), word(1000))
    with pytest.raises(ValueCorrupt, match="a length of 1000 with a capacity of 3"):
        len(damaged["vec"])
    broken.put(field_address(everything["slice"]["length"]), word(1 << 60))
    with pytest.raises(ValueCorrupt, match="a length of 1152921504606846976 items"):
        list(damaged["slice"])
    broken.put(field_address(everything["arc"]), word(0))
    with pytest.raises(ValueCorrupt, match="a null where Rust has none"):
        damaged["arc"].deref()


def test_unmapped_memory_stays_where_it_is(
    everything: Value, damaged: Damaged, broken: Broken
) -> None:
    pointer = everything["deque"]["buf"]["ptr"].pointer()
    if any(p == pointer & ~0xFFF for p in (field_address(everything) & ~0xFFF,)):
        pytest.skip("the queue's buffer lies on the page of the lock")
    broken.gone.add(pointer & ~0xFFF)
    plain = to_python(damaged["deque"])
    assert isinstance(plain, list) and all(isinstance(p, Unknown) for p in plain)
    assert "not mapped" in plain[0].reason
    with pytest.raises(ReadError):
        damaged["deque"][0].integer()


def test_not_what_it_is_asked_for(everything: Value) -> None:
    with pytest.raises(InputError, match="is no string"):
        everything["vec"].text()
    with pytest.raises(InputError, match="is no sequence"):
        list(everything["floats"].items())
    with pytest.raises(InputError, match="is no BTreeMap"):
        list(everything["vec"].entries())
    with pytest.raises(InputError, match="is not a single number"):
        everything["floats"].integer()
    with pytest.raises(ReadError, match="is null"):
        everything["raw"].deref()


def test_few_reads_on_few_pages(values: Values, process: Process) -> None:
    asked: list[tuple[int, int]] = []

    def read(va: int, length: int) -> bytes:
        asked.append((va, length))
        return process.read(va, length)

    again = Values(values.image, read)
    to_python(again.static("shapes::MUTEX"))
    pages = {va & ~0xFFF for va, _ in asked}
    assert len(asked) == len(pages) and all(n == 0x1000 for _, n in asked)


def test_page_cache_around_a_hole() -> None:
    def read(va: int, length: int) -> bytes:
        if va < 0x1800 < va + length or va >= 0x3000:
            raise ReadError("hole")
        return bytes(length)

    cache = PageCache(read)
    assert cache.read(0x1000, 0x800) == bytes(0x800), "the half that is there"
    assert len(cache.read(0x1FF8, 16)) == 16
    with pytest.raises(ReadError):
        cache.read(0x17FF, 2)
    with pytest.raises(ReadError):
        cache.read(0x2FF8, 16)


def test_equal_items_are_folded_and_addresses_are_hexadecimal() -> None:
    entries = [Struct("PageTableEntry", {"entry": n}) for n in (35, 0, 0, 0, 0, 7, 7)]
    table = Struct("PageTable", {"entries": Items(tuple(entries)), "flags": 35})
    assert lines(table, 60) == [
        "PageTable {",
        "  entries: [",
        "    PageTableEntry { entry: 0x23 },",
        "    PageTableEntry { entry: 0x0 } <repeats 4 times>,",
        "    PageTableEntry { entry: 0x7 },",
        "    PageTableEntry { entry: 0x7 },",
        "  ],",
        "  flags: 35,",
        "}",
    ]
    assert line(Struct("VirtAddr", (4096,))) == "VirtAddr(0x1000)"
