"""The frames of a report's backtraces, as every output format tells them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import cast

from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.report.model import Object
from breenix_gdbagent.report.story import objects
from breenix_gdbagent.x86.vectors import VECTOR_NAMES

_MODULES = r"\b(?:\w+::)+(?=\w)"


def short(file: Json) -> str | None:
    """A source file as a person names it, without the machine that built it:
    ``kernel/src/interrupts.rs``, ``core/src/panicking.rs``."""
    if not file:
        return None
    parts = PurePosixPath(str(file)).parts
    sources = [n for n, part in enumerate(parts) if part == "src" and n < len(parts) - 1]
    start = max(0, sources[-1] - 1) if sources else max(0, len(parts) - 2)
    return "/".join(part for part in parts[start:] if part != "/")


def rows(frame: Object) -> Iterator[dict[str, Json]]:
    """The functions inlined into a frame, innermost first, then the frame itself: ``name``,
    ``place`` (file:line or ""), ``variables`` (in one line, or ""), ``pc`` (None where inlined),
    ``times``, ``interrupted`` (what cut in above it, or "")."""
    chain = objects(frame["lines"])
    for number, spot in enumerate(chain or [cast(Object, {})]):
        last = number >= len(chain) - 1
        known = spot.get("file") and spot.get("line")
        yield {
            "pc": frame["pc"] if last else None,
            "times": frame["times"] if last else 1,
            "name": spot.get("function") or _called(frame),
            "file": spot.get("file"),
            "line": spot.get("line"),
            "place": f"{spot['file']}:{spot['line']}" if known else "",
            "variables": _variables(spot),
            "interrupted": _interrupted(frame) if number == 0 else "",
        }


def _variables(spot: Object) -> str:
    """``pid = 2, done = <optimised out>``."""
    found = objects(spot.get("variables") or [])
    return ", ".join(
        f"{one['name']} = {one['value']}"
        if one["value"] is not None
        else f"{one['name']} = <{str(one['reason']).partition(' (')[0]}>"
        for one in found
    )


def brief(name: str) -> str:
    """A method of a trait without the modules of its types, as one would say it:
    ``<Copied<Iter<u8>> as Iterator>::next``."""
    if not name.startswith("<"):
        return name
    depth, end = 0, len(name)
    for place, character in enumerate(name.replace("->", "--")):
        depth += {"<": 1, ">": -1}.get(character, 0)
        if not depth:
            end = place + 1
            break
    return re.sub(_MODULES, "", name[:end]) + name[end:]


def tells(trace: Object) -> bool:
    """Whether there is more in a backtrace than RIP says already: a caller in the kernel, or the
    line of RIP itself."""
    frames = objects(trace["frames"])
    return any(frame["ring"] == 0 for frame in frames[1:]) or any(f["lines"] for f in frames[:1])


def _called(frame: Object) -> str:
    if frame["ring"]:
        return str(frame.get("level") or f"ring {frame['ring']}")
    if frame["name"] is None:
        return "no symbol"
    return f"{frame['name']}+{frame['offset']}" if frame["offset"] != "0x0" else str(frame["name"])


def _interrupted(frame: Object) -> str:
    if frame.get("by"):
        return f"{frame['by']} interrupted"
    if frame["vector"] is None:
        return ""
    vector = cast(int, frame["vector"])
    name = VECTOR_NAMES.get(vector) or (f"int {vector:#x}" if vector >= 32 else f"vector {vector}")
    return f"{name} interrupted"
