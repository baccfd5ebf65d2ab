"""When a finding first held: the audit as a predicate of three values, bisected over a recording.

A finding is no monotone property of time: while the kernel changes its tables it may hold for some
instructions and be gone again, and at many moments it cannot be told. So what a bisection comes to
is held against samples behind it (one at which it does not hold again makes it a flicker, and the
search goes on behind that) and before it (one at which it holds already, with nothing in between
that tells of the contrary, makes the search go on before it).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.checks.finding import CODES, Finding
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.model import Object
from breenix_gdbagent.report.story import objects, record
from breenix_gdbagent.timeline.place import WORD, place_of, writes_of
from breenix_gdbagent.timeline.player import Moment, Player
from breenix_gdbagent.timeline.probes import Probes, Question, Seen, Verdict
from breenix_gdbagent.views.moments import Change, Origin, Status

ROUNDS = 8
"""Searches for one finding before what was found is taken."""
SPREAD = 6
"""Samples spread evenly over what lies before an answer, and over what lies behind."""
STRIDE = 8
"""Samples near an answer are this many times as far away as the last one."""


def parse_code(text: str) -> tuple[str, str | None]:
    """``CODE[@SUBJECT]``. Raises `InputError` for a code that does not exist."""
    from breenix_gdbagent.checks.register import all_codes

    code, _, subject = text.partition("@")
    if code not in all_codes():
        import difflib

        near = difflib.get_close_matches(code, all_codes(), 1)
        fix = f"did you mean {near[0]}?" if near else "list them: breenix-gdbagent explain --list"
        raise InputError(f"{code}: no such finding code", fix=fix)
    return code, subject or None


class When:
    """Answers for one recording; what was looked at for one finding serves the next."""

    def __init__(self, player: Player, probes: Probes | None = None) -> None:
        self.player = player
        self.probes = probes or Probes(player)
        self.begin = player.manifest.begin
        self._end: Seen | None = None

    def end(self) -> Seen:
        """What was found where the run ended."""
        if self._end is None:
            self._end = self.probes.at_end()
        return self._end

    def codes(self) -> tuple[str, ...]:
        """The codes of all that was found there, and of what stops on the way told."""
        earlier = (
            str(finding["code"]) for finding, _ in told_earlier(self.player)
            if finding["severity"] != "info"
        )  # fmt: skip
        return tuple(dict.fromkeys((*(f.code.name for f in self.end().findings), *earlier)))

    def every(self) -> list[Origin]:
        """When each finding of the last stop first held, in that order. Raises `LinkError`."""
        return in_order([self.first(code) for code in self.codes()])

    def first(self, code: str, subject: str | None = None) -> Origin:
        """When that finding first held. Raises `LinkError`."""
        began = self.probes.count
        found = [f for f in self.end().findings if _names(f, code, subject)]
        if not found:
            return self._earlier(code, subject, began)
        checks = frozenset(f.check for f in found if f.check is not None)
        question = Question(code, subject, checks)
        last = self.player.manifest.end.icount
        seen = self.probes.at(last).verdict(question)
        events = CODES[code].kind == "event"
        if events or seen is Verdict.NOT:
            return self._end_only(question, found[0], began)
        if self.probes.at(self.begin).verdict(question) is Verdict.HOLDS:
            return self._origin(question, self.begin, began, "always")
        return self._searched(question, last, began)

    def _earlier(self, code: str, subject: str | None, began: int) -> Origin:
        """When one first held that is gone at the end, but was told at a stop on the way (a fault
        that the kernel survived)."""
        for finding, stop in told_earlier(self.player):
            if finding["code"] != code or subject not in (None, _subject(finding)):
                continue
            checks = frozenset(str(c) for c in (finding["check"],) if c is not None)
            question = Question(code, subject, checks)
            held = self.probes.at(stop).verdict(question) is Verdict.HOLDS
            if held and CODES[code].kind != "event":
                return self._searched(question, stop, began)
            place = place_of(self.player.kernel(Moment(stop)), stop)
            probes = self.probes.count - began
            return Origin(code, subject, "end-only", place, None, None, probes)
        return self._never(code, subject, began)

    # The search ------------------------------------------------------------------------------

    def _searched(self, question: Question, last: int, began: int) -> Origin:
        low, high = self.begin, last
        if self.probes.at(last).verdict(question) is Verdict.UNTOLD:
            high = last + 1
        for _ in range(ROUNDS):
            first = self._edge(question, low, high)
            held = self._held_before(question, first)
            if held is not None:
                low, high = self._not_before(question, held), held
                continue
            gone = self._gone_behind(question, first, last)
            if gone is None:
                break
            low, high = gone, last
        if first > last:
            return self._end_only(question, self._found(self.end(), question), began)
        return self._origin(question, first, began, "found")

    def _edge(self, question: Question, low: int, high: int) -> int:
        """A moment at which it holds with one right before at which it does not, or cannot be
        told."""
        while high - low > 1:
            middle = (low + high) // 2
            if self.probes.at(middle).verdict(question) is Verdict.HOLDS:
                high = middle
            else:
                low = middle
        return high

    def _held_before(self, question: Question, first: int) -> int | None:
        """A moment before `first` at which it holds already, with none in between at which it
        does not."""
        for sample in _near(first, -1, self.begin):
            if self.probes.at(sample).verdict(question) is Verdict.NOT:
                break
        for sample in _spread(self.begin, first):
            self.probes.at(sample)
        for icount, verdict in reversed(self.probes.known(question)):
            if icount >= first:
                continue
            if verdict is Verdict.NOT:
                return None
            if verdict is Verdict.HOLDS:
                return icount
        return None

    def _gone_behind(self, question: Question, first: int, last: int) -> int | None:
        """The last moment known, behind `first`, at which it does not hold."""
        for sample in (*_near(first, 1, last), *_spread(first, last)):
            self.probes.at(sample)
        known = self.probes.known(question)
        return max((i for i, v in known if i > first and v is Verdict.NOT), default=None)

    def _not_before(self, question: Question, icount: int) -> int:
        known = self.probes.known(question)
        return max((i for i, v in known if i < icount and v is Verdict.NOT), default=self.begin)

    # The answers -----------------------------------------------------------------------------

    def _never(self, code: str, subject: str | None, began: int) -> Origin:
        return Origin(code, subject, "never", probes=max(self.probes.count - began, 1))

    def _end_only(self, question: Question, finding: Finding, began: int) -> Origin:
        last = self.player.manifest.end.icount
        place = place_of(self.player.kernel(Moment(last)), last)
        return Origin(
            question.code, question.subject, "end-only", place, None, finding,
            self.probes.count - began, len(self._before(question, last + 1)),
        )  # fmt: skip

    def _before(self, question: Question, icount: int) -> list[tuple[int, Verdict]]:
        return [(i, v) for i, v in self.probes.known(question) if i < icount]

    def _origin(self, question: Question, first: int, began: int, status: Status) -> Origin:
        """With the instruction that runs right before `first`, and what it changes."""
        finding = self._found(self.probes.at(first), question)
        before = self._before(question, first)
        if status == "found" and all(v is Verdict.UNTOLD for _, v in before):
            status = "always"
        known = [i for i, v in before if v is Verdict.NOT]
        told = bool(known) and known[-1] == first - 1
        at = max(first - 1, self.begin)
        kernel = self.player.kernel(Moment(at))
        place = place_of(kernel, at)
        entry = finding.where.entry_pa
        words = [] if entry is None else [PhysAddr(entry // WORD * WORD)]
        words += [pa for _, pa in writes_of(kernel)]
        old = {pa: _word(kernel, pa) for pa in words}
        change = None
        if first > self.begin:
            after = self.player.kernel(Moment(first))
            changes = (_change(pa, old[pa], _word(after, pa)) for pa in words)
            change = next((one for one in changes if one is not None), None)
        return Origin(
            question.code, question.subject, status, place, change, finding,
            self.probes.count - began, len(before),
            None if told or not known else known[-1],
            tuple(i for i, v in before if v is Verdict.HOLDS),
        )  # fmt: skip

    @staticmethod
    def _found(seen: Seen, question: Question) -> Finding:
        return next(f for f in seen.findings if question.answers(f))


def in_order(origins: Sequence[Origin]) -> list[Origin]:
    """By instruction count, those without one last."""
    return sorted(
        origins, key=lambda one: (one.place is None, one.place.icount if one.place else 0)
    )


def told_earlier(player: Player) -> Iterator[tuple[Object, int]]:
    """The findings of the stops on the way, as the run's report has them, and the instruction
    count of each stop."""
    history = record(player.beside.get("history"))
    moments = {stop["id"]: stop["seconds"] for stop in objects(history.get("stops"))}
    counts = {round(one.seconds, 3): one.icount for one in player.manifest.stops}
    for finding in objects(history.get("findings")):
        seconds = moments.get(finding["stop"])
        if isinstance(seconds, int | float) and round(seconds, 3) in counts:
            yield finding, counts[round(seconds, 3)]


def _subject(finding: Object) -> str:
    return str(finding["fingerprint"]).partition("@")[2]


def _names(finding: Finding, code: str, subject: str | None) -> bool:
    return Question(code, subject, frozenset()).answers(finding)


def _word(kernel: Kernel, pa: PhysAddr) -> int | None:
    try:
        return int.from_bytes(kernel.stop.memory.read(pa, WORD), "little")
    except ReadError:
        return None


def _change(pa: PhysAddr, before: int | None, after: int | None) -> Change | None:
    if before is None or after is None or before == after:
        return None
    return Change(pa, before, after)


def _near(icount: int, way: int, limit: int) -> Iterator[int]:
    """Moments ever farther away from one, up to a limit."""
    distance = 1
    while (limit - icount) * way >= distance:
        yield icount + way * distance
        distance *= STRIDE


def _spread(low: int, high: int) -> Iterator[int]:
    """Moments spread evenly between two."""
    step = (high - low) / (SPREAD + 1)
    yield from sorted({low + int(step * n) for n in range(1, SPREAD + 1)} - {low, high})
