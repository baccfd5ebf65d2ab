"""From what the CPU did back to the first event: every candidate is played forward and compared.

A prediction (the instruction, the interrupt that may have come) is delivered step by step as the
CPU does it; the candidate whose end is the end that was observed explains it. Nothing of what was
pushed goes into a prediction, so that agreement proves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from breenix_gdbagent.cpumodel.confidence import Confidence
from breenix_gdbagent.cpumodel.context import DF, GP, NP, PF, RFLAGS_AC, Context, Raised
from breenix_gdbagent.cpumodel.delivery import IDT_ERROR, Course, run
from breenix_gdbagent.cpumodel.prediction import Prediction, interrupts, possible, predict
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.x86.exceptions import PF_FETCH
from breenix_gdbagent.x86.paging import ZeroBeyondRam

_EXT = 1
_AC_COUNTS = (
    "TCG lets RFLAGS.AC count for the CPU's own accesses from ring 0, which the SDM forbids"
)
_ZEROS = "QEMU reads zeros from a table that lies in no RAM, where hardware may read ones"


@dataclass(frozen=True, slots=True)
class Observed:
    """What the CPU did: the vector whose handler starts (None: shutdown), the error code that was
    pushed, CR2, and RSP at the handler's first instruction; None for what is not known."""

    vector: int | None
    error_code: int | None
    cr2: int | None
    entry_rsp: int | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """`course` is the candidate that ends as observed, None when none does.

    `deviation` names a known difference of the emulator that was allowed for, else empty.
    `doubt` says in words why the confidence is not ``proved``.
    """

    context: Context
    observed: Observed
    prediction: Prediction
    course: Course | None
    confidence: Confidence
    deviation: str = ""
    doubt: str = ""

    @property
    def first(self) -> Raised | None:
        """The event that it began with."""
        return self.course.first if self.course is not None else None

    @property
    def chain(self) -> tuple[str, ...]:
        """The events in order, the last with the error code that was really pushed; empty where
        no course is known."""
        if self.course is None:
            return ()
        words, last, pushed = self.course.chain, self.course.last.event, self.observed.error_code
        if pushed is not None and (self.deviation or last.error_code is None):
            words = (*words[:-1], replace(last, error_code=pushed).text)
        return words


@dataclass(frozen=True, slots=True)
class _Match:
    """A course that what was seen agrees with, but for `deviation`."""

    course: Course
    deviation: str
    sure: bool  # raised by the instruction as it stands, and nothing earlier


def explain(context: Context, observed: Observed) -> Explanation:
    """Play every candidate forward and choose. Never raises: what cannot be read is a doubt."""
    prediction = predict(context)
    matches, gaps = _matches(context, prediction, observed)
    if not matches and context.rflags & RFLAGS_AC and context.mode.smap:
        matches, _ = _matches(replace(context, ac_counts=True), prediction, observed, _AC_COUNTS)
    if not matches and not isinstance(context.tables, ZeroBeyondRam):
        beyond = replace(context, tables=ZeroBeyondRam(context.tables.memory))
        found = explain(beyond, observed)
        if found.course is not None:
            return replace(found, deviation=found.deviation or _ZEROS)
    if not matches:
        return Explanation(context, observed, prediction, None, "possible", doubt="; ".join(gaps))
    best = matches[0]
    doubt = _doubt(prediction, best, matches[1:], gaps)
    confidence: Confidence = "likely" if doubt else "proved"
    return Explanation(
        context, observed, prediction, best.course, confidence, best.deviation, doubt
    )


def _matches(
    context: Context, prediction: Prediction, observed: Observed, allowing: str = ""
) -> tuple[list[_Match], list[str]]:
    """The candidates that end as observed, and what could not be judged."""
    matches: list[_Match] = []
    gaps = [prediction.gap] if prediction.gap else []
    for first, sure in _candidates(context, prediction):
        try:
            course = run(context, first)
        except ReadError as lacking:
            gaps.append(lacking.what)
            continue
        deviation = _ends_as(context, course, observed)
        if deviation is not None:
            matches.append(_Match(course, deviation or allowing, sure))
    return matches, gaps


def _candidates(context: Context, prediction: Prediction) -> Iterator[tuple[Raised, bool]]:
    """What the instruction raises, then what may have come from outside, then what it may raise
    depending on state that we do not have."""
    first = prediction.raised[0] if prediction.raised else None
    for raised in prediction.raised:
        # A read-modify-write may fault as a read or as a write of the same place.
        # And TCG raises #GP where the manual has #SS (see `prediction`).
        together = (
            first is not None
            and raised.address is not None
            and (raised.address == first.address and raised.vector in (first.vector, GP))
        )
        yield raised, raised is first or together
    for raised in interrupts(context):
        yield raised, first is None
    for raised in possible(context, prediction):
        yield raised, False


def _doubt(prediction: Prediction, best: _Match, others: list[_Match], gaps: list[str]) -> str:
    if not best.sure:
        if best.course.first.origin == "interrupt" and prediction.raised:
            return f"the instruction would have raised {prediction.raised[0].text} by itself"
        if best.course.first.own:
            return "the selector that it loads is not known any more"
        if prediction.gap and not prediction.raised:
            return "what the instruction there does could not be judged"
        return prediction.gap or f"{best.course.first.text} is possible there, and is not seen"
    defect = best.course.attempts[0].step
    if any(m.course.attempts[0].step != defect for m in others if m.sure):
        return "another first event would have ended in the same way"
    if best.course.first.origin == "interrupt" and gaps:
        return gaps[0]
    return ""


def _ends_as(context: Context, course: Course, observed: Observed) -> str | None:
    """None when the course ends otherwise than observed; else the emulator's deviation that had to
    be allowed for, mostly empty."""
    if course.vector != observed.vector:
        return None
    if (
        course.cr2 is not None
        and observed.cr2 is not None
        and (observed.vector in (None, DF, PF) and course.cr2 != observed.cr2)
    ):
        return None
    if observed.vector is None:
        return ""
    entry = course.last.entry_rsp
    if entry is not None and observed.entry_rsp is not None and entry != observed.entry_rsp:
        return None
    have = observed.error_code
    if have is not None and have & IDT_ERROR and _names_no_vector(course):
        return ""
    if have is None or course.last.event.error_code in (None, have):
        return "" if (have is None) == (course.last.event.error_code is None) else None
    return deviation_of(context, course.last.event, have)


def _names_no_vector(course: Course) -> bool:
    """Whether it ends with an exception whose error code names the vector of an interrupt that is
    not known."""
    event = course.last.event
    return course.first.vector < 0 and event.vector in (GP, NP) and event.error_code is None


def deviation_of(context: Context, predicted: Raised, pushed: int) -> str | None:
    """Whether `pushed` is the predicted error code after all, and by which known deviation of
    hardware or emulator. None: it is another one."""
    want = predicted.error_code or 0
    if predicted.vector != PF:
        if want & IDT_ERROR and pushed == (want >> 3) * 16 + IDT_ERROR:
            return "TCG of QEMU 7 pushes 16 * vector + 2, where the SDM says 8 * vector + 2"
        ext = want ^ pushed == _EXT and want > 1
        return "EXT set, as hardware does during a delivery" if ext else None
    if pushed in predicted.also:
        return "TCG reports a reserved bit with P=0, where the SDM says P=1"
    if want ^ pushed == PF_FETCH and context.mode.nxe is None and not context.mode.smep:
        return "EFER is not known here: the fetch bit is pushed only with NXE or SMEP"
    return None
