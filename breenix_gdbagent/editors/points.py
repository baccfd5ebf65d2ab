"""An editor's breakpoints as points of the debugger's."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import PurePath

from breenix_gdbagent.debugger.debugger import Debugger
from breenix_gdbagent.debugger.points import Only, Point, admits
from breenix_gdbagent.debugger.user_breakpoints import links_of
from breenix_gdbagent.editors.wire import Message
from breenix_gdbagent.errors import AgentError, InputError, ReadError
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.evaluation.expressions import Expression, parse
from breenix_gdbagent.evaluation.places import Place, find_place, parse_vector, vector_place
from breenix_gdbagent.locations import parse_number

_PART = re.compile(r"\{([^{}]+)\}")
_VECTOR = re.compile(r"exception\s+(\S+)\Z")
_NEXT_LINE = re.compile(r"line (\d+)")


class EditorPoints:
    """The points that an editor has set, by what it set them for: a source file, functions,
    instructions. `say` is told what log points say."""

    def __init__(self, debugger: Debugger, say: Callable[[str], None]) -> None:
        self.debugger = debugger
        self.say = say
        self._sets: dict[str, list[Point]] = {}

    def replace(self, owner: str, wanted: Sequence[tuple[str, Message]]) -> list[Message]:
        """Have these (location, what the editor says of it) and no others for `owner`; a DAP
        ``Breakpoint`` for each, not verified where it cannot be, with the reason."""
        self.debugger.remove(*self._sets.pop(owner, []))
        kept = self._sets.setdefault(owner, [])
        answers: list[Message] = []
        for location, given in wanted:
            try:
                point = self._point(location, given)
            except AgentError as error:
                said = " ".join(str(error).splitlines())
                number = self.debugger.table.number()
                answers.append({"id": number, "verified": False, "message": said})
                continue
            kept.append(self.debugger.add(point))
            answers.append(self._told(point, given))
        return answers

    @property
    def any(self) -> bool:
        """Whether one is set."""
        return any(self._sets.values())

    def _told(self, point: Point, given: Message) -> Message:
        told: Message = {"id": point.number, "verified": True}
        moved = _NEXT_LINE.search(point.place.note)
        if "line" in given:
            told["line"] = int(moved[1]) if moved is not None else given["line"]
        pending = self.debugger.table.pending(point)
        if point.place.note or pending:
            told["message"] = ", ".join(filter(None, (point.place.note, pending)))
        return told

    def _point(self, location: str, given: Message) -> Point:
        image = self.debugger.loaded_or_linked
        place = self._place(location)
        links = links_of(place, image)
        condition = given.get("condition")
        only = Only(condition=parse(str(condition), image, links) if condition else None)
        point = Point(self.debugger.table.number(), "break", place, only)
        hits = given.get("hitCondition")
        if hits:
            count = parse_number(str(hits))
            if not count:
                raise InputError(f"{hits!r} is no number of hits", fix="a number: the n-th hit")
            point.ignore = count - 1
        message = given.get("logMessage")
        if message:
            point.kind = "checkpoint"
            point.accept = self._log(point, str(message), links)
        return point

    def _log(
        self, point: Point, message: str, links: tuple[int, ...]
    ) -> Callable[[Evaluation], bool]:
        """Says `message` with its ``{expressions}`` at each hit, and never stops."""
        image = self.debugger.loaded_or_linked
        parts: list[str | Expression] = [
            parse(part, image, links) if number % 2 else part
            for number, part in enumerate(_PART.split(message))
        ]

        def accept(evaluation: Evaluation) -> bool:
            if not admits(point.only, evaluation).counts:
                return False
            if point.ignore > 0:
                point.ignore -= 1
                return False
            said = (p if isinstance(p, str) else _shown(p, evaluation) for p in parts)
            self.say("".join(said))
            return False

        return accept

    def _place(self, location: str) -> Place:
        vector = _VECTOR.match(location.strip())
        if vector is not None:
            return vector_place(parse_vector(vector[1]))
        image = self.debugger.image
        path, _, line = location.rpartition(":")
        if not line.isdecimal() or "/" not in path:
            return find_place(location, image)
        return _in_file(path, line, self.debugger)


def _in_file(path: str, line: str, debugger: Debugger) -> Place:
    """A line of a file as the editor names it: DWARF may have it below another directory, so ever
    shorter ends of the path are tried. Raises `ReadError`, `InputError`."""
    parts = [part for part in PurePath(path).parts if part != "/"]
    refused: AgentError | None = None
    for cut in range(len(parts)):
        try:
            return find_place(f"{'/'.join(parts[cut:])}:{line}", debugger.image)
        except InputError:
            raise
        except ReadError as error:
            refused = error
            if "has no code at line" in error.what:
                raise
    assert refused is not None
    raise refused


def _shown(expression: Expression, evaluation: Evaluation) -> str:
    try:
        return expression.shown(evaluation)
    except (ReadError, InputError) as error:
        return f"<{error.what}>"
