"""Breakpoints, checkpoints and invariants as users write them, in the shell or as options of `ci`.
"""

from __future__ import annotations

import re

from breenix_gdbagent.checks.examine import CHECKS
from breenix_gdbagent.debugger.points import Only, Point
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.evaluation.expressions import parse, parse_list
from breenix_gdbagent.evaluation.places import (
    Place,
    find_place,
    parse_vector,
    split_location,
    vector_place,
)
from breenix_gdbagent.locations import parse_number
from breenix_gdbagent.symbols import LoadedImage

ALIASES = {"stacks-mapped": "kernel-stacks"}
_WHEN = re.compile(r"(process|cpu|count|if)\b\s*")
_CHECKPOINT = re.compile(r"(?:--quiet|--limit[ =](\d+))\s+")
_USAGE = "write: [process P] [cpu N] [count N] [if COND]"


def breakpoint_of(
    text: str,
    image: LoadedImage | None,
    number: int,
    *,
    once: bool = False,
    evaluation: Evaluation | None = None,
) -> Point:
    """``LOCATION [process P] [cpu N] [count N] [if COND]``; `evaluation` is where the guest stands,
    for a location that is an expression. As the others here it raises `InputError`,
    `SymbolNotFound`, and `ReadError` where the ELF has no lines."""
    place, rest = place_of(text, image, evaluation)
    only, ignore = _when(rest, image, place)
    return Point(number, "break", place, only, ignore, once)


def checkpoint_of(
    text: str, image: LoadedImage | None, number: int, *, evaluation: Evaluation | None = None
) -> Point:
    """``[--quiet] [--limit N] LOCATION [EXPR, EXPR...] [if COND]``."""
    quiet, most = False, None
    while found := _CHECKPOINT.match(text):
        quiet, most = quiet or found[1] is None, int(found[1]) if found[1] else most
        text = text[found.end() :]
    place, rest = place_of(text, image, evaluation)
    head, condition = split_if(rest)
    links = links_of(place, image)
    only = Only(condition=parse(condition, image, links) if condition else None)
    point = Point(number, "checkpoint", place, only, quiet=quiet, most=most)
    point.expressions = tuple(parse_list(head, image, links)) if head else ()
    return point


def links_of(place: Place, image: LoadedImage | None) -> tuple[int, ...]:
    """The link addresses of a place of the kernel's code: whose variables a condition may name."""
    if image is None:
        return ()
    return (*place.links, *(image.link(va) for va in place.fixed if image.holds(va)))


def invariant_of(
    text: str, image: LoadedImage | None, number: int, *, evaluation: Evaluation | None = None
) -> Point:
    """``CHECK at LOCATION [process P] [cpu N] [count N] [if COND]``."""
    name, _, location = text.partition(" at ")
    check = ALIASES.get(name.strip(), name.strip())
    known = [n for n, _ in CHECKS]
    if check not in (*known, "audit") or not location.strip():
        raise InputError(
            f"{text!r} is no invariant",
            f"checks: {', '.join(known)}, audit",
            "write: CHECK at LOCATION",
        )
    place, rest = place_of(location.strip(), image, evaluation)
    only, ignore = _when(rest, image, place)
    return Point(number, "invariant", place, only, ignore, check=check)


def place_of(
    text: str, image: LoadedImage | None, evaluation: Evaluation | None = None
) -> tuple[Place, str]:
    """(the place, the rest of the line). ``exception 14`` is one too."""
    location, rest = split_location(text)
    if location == "exception":
        vector, rest = split_location(rest)
        return vector_place(parse_vector(vector)), rest
    return find_place(location, None if image is None else image.image, evaluation), rest


def split_if(text: str) -> tuple[str, str]:
    """(what stands before ``if``, the condition)."""
    if text.startswith("if "):
        return "", text[3:].strip()
    head, _, condition = text.partition(" if ")
    return head.strip(), condition.strip()


def _when(text: str, image: LoadedImage | None, place: Place) -> tuple[Only, int]:
    """(when a hit counts, how many are passed first)."""
    process = cpu = condition = None
    count = 1
    rest = text.strip()
    while rest:
        found = _WHEN.match(rest)
        if found is None:
            raise InputError(f"cannot read {rest!r}", fix=_USAGE)
        rest = rest[found.end() :]
        if found[1] == "if":
            condition = parse(rest, image, links_of(place, image))
            break
        word, _, rest = rest.partition(" ")
        rest = rest.strip()
        if found[1] == "process" and word:
            process = word
            continue
        number = parse_number(word) if word else None
        if number is None or (found[1] == "count" and number < 1):
            raise InputError(f"{found[1]} {word!r}: which?", fix=_USAGE)
        if found[1] == "cpu":
            cpu = number
        else:
            count = number
    return Only(process, cpu, condition), count - 1
