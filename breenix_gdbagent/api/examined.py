"""An examination that tells itself: as text, as a page, as the report document."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from breenix_gdbagent import run_report
from breenix_gdbagent.addresses import counted
from breenix_gdbagent.checks.examine import Examination
from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.checks.run import facts_of
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.document import History, RunRecord
from breenix_gdbagent.report.model import Report


class ReportOf:
    """The report of one stop."""

    def __init__(self, document: Report, kernel: Kernel) -> None:
        self.document = document
        self.kernel = kernel

    @property
    def json(self) -> dict[str, Json]:
        """The report document."""
        return self.document.to_json()

    def text(self, width: int = 100) -> str:
        """As a terminal shows it."""
        from breenix_gdbagent.report.text import render

        return render(self.document, width)

    def html(self) -> str:
        """The page in one file."""
        from breenix_gdbagent.report.html import render
        from breenix_gdbagent.views.stop_detail import stop_detail

        return render(self.document, stop_detail(self.kernel))

    def __repr__(self) -> str:
        found = counted(len(self.document.findings), "finding")
        return f"<Report: {self.document.run.outcome}, {found}>"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(self.text())}</pre>"


class Examined(Examination):
    """What was found in one stop; iterated, its findings."""

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        failed = sum(one.status == "failed" for one in self.checks)
        unknown = sum(one.status == "not_checked" for one in self.checks)
        parts = [counted(len(self.findings), "finding")]
        parts += [f"{counted(failed, 'check')} failed"] if failed else []
        parts += [f"{counted(unknown, 'check')} not made"] if unknown else []
        return f"<Examined: {', '.join(parts)}>"

    def report(self) -> ReportOf:
        """The report of the stop."""
        return self._report

    @cached_property
    def _report(self) -> ReportOf:
        stop = self.kernel.stop
        record, facts = RunRecord(seconds=stop.seconds), facts_of(stop.reason)
        document = run_report.finish(
            self.kernel, {"kind": "python"}, record, facts, History(), self
        )
        return ReportOf(document, self.kernel)
