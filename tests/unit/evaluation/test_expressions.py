"""The language of conditions: what it computes, what it refuses, and where it says it stops."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.evaluation.expressions import address_at, parse, parse_list
from breenix_gdbagent.evaluation.grammar import pieces
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import StopReason
from breenix_gdbagent.x86.cpu import Cpu
from tests.writers.machine import HEAP, Machine

REGISTERS = {"rax": 0x1_2345_6789, "rdi": 3, "rip": 0x8000010394, "cs": 0x33, "cr2": 0}


def evaluation(**registers: int) -> Evaluation:
    """One CPU without memory: what needs more than registers is unreadable."""
    cpu = Cpu(2, {**REGISTERS, **registers})

    def kernel() -> Kernel:
        raise ReadError("there is no memory here")

    return Evaluation(cpu, kernel)


def value(text: str) -> object:
    return parse(text).value(evaluation())


# Arithmetic: Python is the judge, whose operators bind as Rust's do here ------------------------

NUMBERS = st.integers(0, 1 << 40).map(str) | st.integers(0, 1 << 40).map(hex)
ATOMS = NUMBERS | st.sampled_from(["rdi", "rax", "cpu", "ring"])
KNOWN = {"rdi": 3, "rax": 0x1_2345_6789, "cpu": 2, "ring": 3}


def _joined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    binary = st.sampled_from(["+", "*", "&", "|", "^", "-"])
    return st.one_of(
        st.tuples(inner, binary, inner).map(" ".join),
        inner.map(lambda text: f"({text})"),
        st.tuples(ATOMS, st.sampled_from(["<<", ">>"]), st.integers(0, 8).map(str)).map(
            lambda parts: f"({' '.join(parts)})"
        ),
    )


SUMS = st.recursive(ATOMS, _joined, max_leaves=6)
COMPARED = st.tuples(SUMS, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), SUMS).map(" ".join)


def _logic(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(" ".join),
        inner.map(lambda text: f"not ({text})"),
    )


@given(SUMS)
@settings(max_examples=300)
def test_arithmetic_is_pythons(text: str) -> None:
    assert value(text) == eval(text, {}, KNOWN)


@given(st.recursive(COMPARED, _logic, max_leaves=4))
@settings(max_examples=300)
def test_logic_is_pythons(text: str) -> None:
    assert parse(text).holds(evaluation()) == bool(eval(text, {}, KNOWN))
    rust = text.replace("and", "&&").replace("or", "||").replace("not", "!")
    assert parse(rust).holds(evaluation()) == parse(text).holds(evaluation())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$pc", 0x8000010394),
        ("$al", 0x89),
        ("$ah", 0x67),
        ("$ax", 0x6789),
        ("rax as u8", 0x89),
        ("-1 as u16", 0xFFFF),
        ("0xff as i8", -1),
        ("rax as u8 + 1", 0x8A),
        ("rdi as bool", True),
        ("65 as char", "A"),
        ("$rax", 0x1_2345_6789),
        ("eax", 0x2345_6789),
        ("-7 / 2", -3),
        ("-7 % 2", -1),
        ("7 / 2", 3),
        ("~0", (1 << 64) - 1),
        ("1_000 + 0xff_ff", 66535),
        ('"a b" == "a b"', True),
        ("'x' != \"x\"", False),
        ("None == None", True),
        ("None < 3", False),
        ("true and not false", True),
        ("rax & 0xfff == 0x789", True),
    ],
)
def test_values(text: str, expected: object) -> None:
    assert value(text) == expected


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "at its end"),
        ("1 +", "at its end"),
        ("(1", "')' is missing"),
        ("1 2", "at '2'"),
        ("u64[rsp", "']' is missing"),
        ("rdi ==", "at its end"),
        ("1 == 1 == 1", "at '== 1'"),
        ("$zork", "no register $zork"),
        ("thread.", "a field's name"),
        ("rdi § 3", "stray '§'"),
        ("(" * 99 + "1" + ")" * 99, "nested too deeply"),
        ("&3", "a name is expected"),
    ],
)
def test_what_is_no_expression(text: str, word: str) -> None:
    with pytest.raises(InputError, match=None) as caught:
        parse(text)
    assert word in caught.value.what


@pytest.mark.parametrize("text", ["1 / 0", "1 % 0", "1 << -1", '"a" + 1', "None + 1", "rdi.x"])
def test_what_makes_no_sense(text: str) -> None:
    with pytest.raises(InputError):
        value(text)


@pytest.mark.parametrize("text", ["cr3", "fs_base", "u64[0x1000]"])
def test_what_is_not_known_is_never_0(text: str) -> None:
    with pytest.raises(ReadError):
        value(text)
    assert parse(text).shown(evaluation()).startswith("<")


@given(st.text(max_size=40))
@settings(max_examples=500)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse(text)
    except InputError as error:
        assert str(error)


def test_what_a_condition_needs() -> None:
    assert not parse("rdi == 3 and u64[rsp] != 0").typed
    needed = parse("SCHEDULER.current_thread == 3 or thread.id == 4")
    assert needed.typed and needed.statics == ("SCHEDULER",)
    assert parse("`a b::C`.x").statics == ("a b::C",)


def test_lists_are_cut_at_their_own_commas() -> None:
    assert pieces("rax, u64[rsp + (1, 2)], \"a, b\"") == ["rax", " u64[rsp + (1, 2)]", ' "a, b"']
    assert [e.text for e in parse_list("rax, rdi + 1")] == ["rax", "rdi + 1"]


# With memory behind it ---------------------------------------------------------------------------


def test_memory_and_addresses() -> None:
    machine = Machine()
    machine.write(HEAP, bytes(range(1, 17)))
    here = Evaluation.of(Kernel(machine.stop(StopReason("attached"), machine.cpu(rsp=HEAP))))
    assert parse("u64[rsp]").value(here) == 0x0807_0605_0403_0201
    assert parse("u8[rsp + 1]").value(here) == 2
    assert parse("u16[rsp + u8[rsp]]").value(here) == 0x0302
    assert address_at(here, "0x1000") == 0x1000
    assert address_at(here, "$rsp") == address_at(here, "rsp") == HEAP
    assert address_at(here, "rsp+0x10") == HEAP + 16
    assert address_at(here, "0 - 1") == (1 << 64) - 1
    with pytest.raises(InputError):
        address_at(here, "syscall_entry")  # no ELF is known
    with pytest.raises(InputError):
        address_at(here, "rsp +")
