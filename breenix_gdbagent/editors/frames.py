"""What an editor shows of a stop: frames, scopes, variables, page tables, memory, instructions."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.api import stops
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.arch.walks import Walk
from breenix_gdbagent.editors.wire import Message
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.evaluation.expressions import parse
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.backtraces import brief
from breenix_gdbagent.symbols.backtrace import Frame
from breenix_gdbagent.symbols.tree import Node, nodes
from breenix_gdbagent.symbols.tree_text import line, parts
from breenix_gdbagent.symbols.values import Value
from breenix_gdbagent.symbols.variables import Scope
from breenix_gdbagent.views.call_trace import CallTrace, trace_of_cpu
from breenix_gdbagent.views.instructions import named_instructions
from breenix_gdbagent.views.sources import path_of
from breenix_gdbagent.views.variables import read_variable

WALKED = ("rip", "rsp", "cr2", "pc", "sp", "far_el1")
"""Registers that hold addresses, of whichever architecture."""
MOST_BYTES = 1 << 20
MOST_INSTRUCTIONS = 4096
Children = Callable[[], list[Message]]


@dataclass(frozen=True, slots=True)
class Shown:
    """One frame shown: its CPU, its number in the trace, and which inlined call of it."""

    cpu: Cpu
    number: int
    depth: int


class StopShown:
    """One stop: its frames and variables have numbers that hold until the guest moves."""

    def __init__(self, kernel: Kernel, sources: Sequence[Path]) -> None:
        self.kernel = kernel
        self.sources = tuple(sources)
        self._traces: dict[int, CallTrace] = {}
        self._frames: list[Shown] = []
        self._children: list[Children] = []

    # Frames ----------------------------------------------------------------------------------

    def threads(self) -> list[Message]:
        """The CPUs: an editor's threads."""
        return [
            {"id": cpu.index + 1, "name": f"CPU {cpu.index}{self._runs(cpu)}"}
            for cpu in self.kernel.stop.cpus
        ]

    def _runs(self, cpu: Cpu) -> str:
        name = self.kernel.thread_name(cpu) if self.kernel.stop.image is not None else None
        return f", {name}" if name else ""

    def stack(self, cpu: Cpu, start: int, levels: int) -> Message:
        """Frames of a CPU, calls inlined in them as frames of their own."""
        trace = self._trace(cpu)
        rows = [
            (number, depth)
            for number in range(len(trace.trace.frames))
            for depth in range(max(len(trace.spots[number]), 1))
        ]
        end = start + levels if levels else len(rows)
        return {
            "stackFrames": [self._frame(cpu, number, depth) for number, depth in rows[start:end]],
            "totalFrames": len(rows),
        }

    def _trace(self, cpu: Cpu) -> CallTrace:
        if cpu.index not in self._traces:
            self._traces[cpu.index] = trace_of_cpu(self.kernel, cpu)
        return self._traces[cpu.index]

    def _frame(self, cpu: Cpu, number: int, depth: int) -> Message:
        trace = self._trace(cpu)
        frame, chain = trace.trace.frames[number], trace.spots[number]
        self._frames.append(Shown(cpu, number, depth))
        told: Message = {
            "id": len(self._frames),
            "name": _called(frame) if not chain else brief(chain[depth].function),
            "line": 0,
            "column": 0,
            "instructionPointerReference": hex64(frame.pc),
        }
        if chain and chain[depth].file and chain[depth].line:
            told |= {"line": chain[depth].line, "column": 1}
            told["source"] = self._source(str(chain[depth].file))
        elif number == 0 and self.kernel.stop.reason.kind == "fault":
            told["presentationHint"] = "subtle"  # the handler's first instruction; why is below
        return told

    def _source(self, file: str) -> Message:
        path = path_of(self.sources, file)
        found: Message = {"name": Path(file).name, "path": str(path or file)}
        if path is None:
            found["presentationHint"] = "deemphasize"
        return found

    def at(self, number: int) -> Shown:
        """A frame by the number that it was given. Raises `InputError`."""
        if not 0 < number <= len(self._frames):
            raise InputError(f"there is no frame {number}", "the guest has moved since")
        return self._frames[number - 1]

    def evaluation(self, number: int | None) -> Evaluation:
        """What expressions are evaluated on: a frame, else the CPU that stopped."""
        if not number:
            return Evaluation.of(self.kernel)
        shown = self.at(number)
        frame = self._trace(shown.cpu).trace.frames[shown.number]
        return Evaluation.of(self.kernel, shown.cpu, frame=frame, depth=shown.depth)

    # Scopes and variables --------------------------------------------------------------------

    def scopes(self, number: int) -> list[Message]:
        """Arguments, locals, registers, page tables of a frame."""
        shown = self.at(number)
        found = self.evaluation(number).scopes
        scope = found[0] if found else None
        told = []
        if scope is not None:
            for name, argument, hint in (
                ("Arguments", True, "arguments"),
                ("Locals", False, "locals"),
            ):
                told.append(self._scope(name, partial(self._variables, scope, argument), hint))
        told.append(self._scope("Registers", lambda: self._registers(number), "registers"))
        told.append(self._scope("Page tables", lambda: self._tables(shown.cpu), ""))
        return told

    def _scope(self, name: str, children: Children, hint: str) -> Message:
        told: Message = {"name": name, "variablesReference": self._reference(children)}
        told["expensive"] = name == "Page tables"
        return {**told, "presentationHint": hint} if hint else told

    def variables(self, reference: int) -> list[Message]:
        """What is below a scope or variable. Raises `InputError`, `ReadError`."""
        if not 0 < reference <= len(self._children):
            raise InputError(f"there is no variable {reference}", "the guest has moved since")
        return self._children[reference - 1]()

    def _reference(self, children: Children) -> int:
        self._children.append(children)
        return len(self._children)

    def _variables(self, scope: Scope, argument: bool) -> list[Message]:
        return [
            self._variable(one.name, one.value, read_variable(one).told)
            for one in scope.variables
            if one.argument == argument
        ]

    def _variable(self, name: str, value: Value | None, text: str) -> Message:
        told: Message = {"name": name, "value": text, "variablesReference": 0}
        if value is None:
            return told
        told["type"] = value.type.name
        if value.address is not None:
            told["memoryReference"] = hex64(value.address)
        with_parts = self._parts(value)
        if with_parts:
            told["variablesReference"] = self._reference(lambda: with_parts)
        return told

    def _parts(self, value: Value) -> list[Message]:
        try:
            return self._below(nodes(value))
        except (ReadError, InputError):
            return []

    def _below(self, node: Node) -> list[Message]:
        found = parts(node)
        told: list[Message] = []
        for number, (label, part) in enumerate(found[1] if found is not None else ()):
            below = parts(part)
            many = below is not None and len(below[1]) > 0
            told.append(
                {
                    "name": label.rstrip(": =") or str(number),
                    "value": line(part),
                    "variablesReference": self._reference(partial(self._below, part))
                    if many
                    else 0,
                }
            )
        return told

    def _registers(self, number: int) -> list[Message]:
        evaluation = self.evaluation(number)
        told: list[Message] = []
        listed = evaluation.cpu.arch.shown
        for name in (*listed.grid, *listed.decoded, *listed.others):
            try:
                value = evaluation.register(name)
            except ReadError as unknown:
                told.append({"name": name, "value": f"<{unknown.what}>", "variablesReference": 0})
                continue
            shown = hex64(value)
            told.append({"name": name, "value": shown, "variablesReference": 0})
            if value >> 12:
                told[-1]["memoryReference"] = shown
        return told

    # Page tables -----------------------------------------------------------------------------

    def _tables(self, cpu: Cpu) -> list[Message]:
        root = cpu.root
        if root is None or cpu.paging is None:
            raise ReadError(self.kernel.stop.no_paging)
        space = self.kernel.space_of(root)
        label = "" if space is None else f"  {space.label}"
        told: list[Message] = [
            {"name": "CR3", "value": f"{hex64(root)}{label}", "variablesReference": 0}
        ]
        for name in WALKED:
            value = cpu.get(name)
            if value is not None:
                told.append(self._walked(f"{name} {hex64(value)}", self.kernel.walk(root, value)))
        roots = self.kernel.spaces
        told.append(
            {
                "name": "roots",
                "value": f"{len(roots)} address spaces",
                "variablesReference": self._reference(
                    lambda: [
                        {
                            "name": s.label,
                            "value": f"{hex64(s.root)} {s.role}",
                            "variablesReference": 0,
                        }
                        for s in roots
                    ]
                ),
            }
        )
        return told

    def _walked(self, name: str, walk: Walk) -> Message:
        may, names = walk.effective, self.kernel.stop.arch.paging.levels
        end = f"{walk.reason} at level {walk.stopped_at}"
        if walk.pa is not None and may is not None:
            rights = (
                f"r{'w' if may.w else '-'}{'-' if may.nx else 'x'} {'user' if may.u else 'kernel'}"
            )
            end = f"physical {hex64(walk.pa)} {rights}"
        levels: list[Message] = [
            {
                "name": f"{names.get(e.level, e.level)} at {hex64(e.entry_pa)}",
                "value": f"{hex64(e.raw)} {' '.join(e.flags)}",
                "variablesReference": 0,
            }
            for e in walk.entries
        ]
        return {
            "name": name, "value": end, "variablesReference": self._reference(lambda: levels)
        }  # fmt: skip

    # Evaluation, memory, code ----------------------------------------------------------------

    def evaluate(self, text: str, number: int | None) -> Message:
        """An expression; ``walk EXPR`` is told level by level. Raises `InputError`, `ReadError`."""
        word, _, rest = text.strip().partition(" ")
        evaluation = self.evaluation(number)
        if word == "walk" and rest:
            found = self._walked(rest, stops.walk(self.kernel, rest))
            return {
                "result": f"{found['name']}: {found['value']}",
                "variablesReference": found["variablesReference"],
            }
        expression = parse(text, self.kernel.stop.image)
        value = expression.value(evaluation)
        told = self._variable(
            text, value if isinstance(value, Value) else None, expression.shown(evaluation)
        )
        told["result"] = told.pop("value")
        told.pop("name")
        return told

    def memory(self, reference: str, offset: int, count: int) -> Message:
        """Bytes, as far as they can be read. Raises `InputError`."""
        if not 0 <= count <= MOST_BYTES:
            raise InputError(f"{count} bytes at once", fix=f"at most {MOST_BYTES}")
        begin = stops.address(self.kernel, reference) + offset
        data = b""
        while len(data) < count:
            at = begin + len(data)
            try:
                data += stops.read(self.kernel, at, min(count - len(data), 4096 - at % 4096))
            except ReadError:
                break
        return {
            "address": hex64(begin),
            "data": base64.b64encode(data).decode(),
            "unreadableBytes": count - len(data),
        }

    def code(self, reference: str, offset: int, first: int, count: int) -> list[Message]:
        """`count` instructions from the `first` one on, which may lie before the address: then from
        the start of its function, and what is not known there is told as that."""
        if not 0 < count <= MOST_INSTRUCTIONS:
            raise InputError(f"{count} instructions at once", fix=f"at most {MOST_INSTRUCTIONS}")
        va = stops.address(self.kernel, reference) + offset
        root = self.kernel.stop.cpu.root
        if root is None:
            raise ReadError("no CPU's CR3 is known")
        before = self._before(root, va) if first < 0 else []
        kept = before[max(len(before) + first, 0) :]
        filler: list[Message] = (
            [
                {
                    "address": hex64(max(va - n, 0)),
                    "instruction": "(not known)",
                    "presentationHint": "invalid",
                }
                for n in range(-first - len(kept), 0, -1)
            ]
            if first < 0
            else []
        )
        wanted = count + max(first, 0)
        behind = [
            (i.address, i.raw, i.text) for i in named_instructions(self.kernel, root, va, wanted)
        ]
        found = [*kept, *behind[max(first, 0) :]]
        told = [
            {
                "address": hex64(address),
                "instructionBytes": raw.hex(" "),
                "instruction": text,
                **self._line(address),
            }
            for address, raw, text in found
        ]
        return [*filler, *told][:count]

    def _before(self, root: int, va: int) -> list[tuple[int, bytes, str]]:
        """The instructions of its function that lie before an address."""
        image = self.kernel.stop.image
        hit = None if image is None else image.symbol_at(va)
        if hit is None or not 0 < hit.offset < MOST_INSTRUCTIONS:
            return []
        try:
            found = named_instructions(self.kernel, root, va - hit.offset, hit.offset)
        except ReadError:
            return []
        return [(i.address, i.raw, i.text) for i in found if i.address < va]

    def _line(self, va: int) -> Message:
        from breenix_gdbagent.symbols.spots import spots

        chain = spots(self.kernel.stop.image, va)
        if not chain or not chain[0].file or not chain[0].line:
            return {}
        return {"location": self._source(str(chain[0].file)), "line": chain[0].line}


def _called(frame: Frame) -> str:
    if frame.ring:
        return f"ring {frame.ring}"
    return frame.name if frame.symbol is None else str(frame.symbol)
