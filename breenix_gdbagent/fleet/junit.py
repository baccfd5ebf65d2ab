"""A hunt for test dashboards and for GitHub: a case, or an annotation, a cluster."""

from __future__ import annotations

from xml.etree import ElementTree

from breenix_gdbagent.fleet.clusters import Cluster
from breenix_gdbagent.fleet.store import Store
from breenix_gdbagent.fleet.text import association_words, headline, percent
from breenix_gdbagent.report.github import command
from breenix_gdbagent.report.junit import SUITE, xml_safe


def junit(store: Store, clusters: list[Cluster], tolerated: frozenset[str]) -> str:
    """One case a cluster, which has failed unless it is tolerated; one more for the boots that
    passed, so that a hunt that found nothing has a case."""
    boots = store.count()
    failing = [c for c in clusters if c.severity == "error" and c.fingerprint not in tolerated]
    totals = {
        "name": SUITE, "tests": str(len(clusters) + 1),
        "failures": str(len(failing)), "errors": "0",
    }  # fmt: skip
    top = ElementTree.Element("testsuites", totals)
    suite = ElementTree.SubElement(top, "testsuite", {**totals, "skipped": "0"})
    whole = {"classname": "hunt", "name": xml_safe(headline(store, store.about(), boots))}
    ElementTree.SubElement(suite, "testcase", whole)
    for one in clusters:
        name = {"classname": "hunt.cluster", "name": xml_safe(one.fingerprint)}
        case = ElementTree.SubElement(suite, "testcase", name)
        place = "system-out"
        if one in failing:
            place = "failure"
        told = ElementTree.SubElement(case, place)
        if place == "failure":
            told.set("type", one.code)
            told.set("message", xml_safe(f"{one.title}: {_rate(one, boots)}"))
        told.text = xml_safe("\n".join(_said(one, boots)))
    ElementTree.indent(top)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(top, "unicode") + "\n"


def annotate(store: Store, clusters: list[Cluster], tolerated: frozenset[str]) -> str:
    """``::error title=FINGERPRINT::...`` a cluster; a tolerated one is a notice."""
    boots = store.count()
    lines = []
    for one in clusters:
        kind = "notice" if one.fingerprint in tolerated else one.severity
        title = {"title": f"breenix-gdbagent hunt: {one.fingerprint}"}
        lines.append(command(kind, title, "\n".join((one.title, *_said(one, boots)))))
    return "".join(line + "\n" for line in lines)


def markdown(store: Store, clusters: list[Cluster]) -> str:
    """For the step's summary."""
    boots = store.count()
    lines = [f"### {headline(store, store.about(), boots)}", ""]
    if not clusters:
        return "\n".join([*lines, "Nothing was found.", ""])
    lines += ["| severity | cluster | boots | rate | 95 % interval |", "|---|---|---|---|---|"]
    lines += [
        f"| {c.severity} | `{c.fingerprint.replace('|', '/').replace('`', '')}` "
        f"| {c.count} of {boots} | {percent(c.rate)} | {percent(c.low)} to {percent(c.high)} |"
        for c in clusters
    ]
    return "\n".join([*lines, ""])


def _rate(one: Cluster, boots: int) -> str:
    return (
        f"{one.count} of {boots} boots, {percent(one.rate)} "
        f"({percent(one.low)} to {percent(one.high)})"
    )


def _said(one: Cluster, boots: int) -> list[str]:
    said = [f"{_rate(one, boots)}; first in boot {one.first}"]
    said += [association_words(a) for a in one.associations]
    if one.members:
        said.append(f"only ever with it: {', '.join(one.members)}")
    if one.snapshot is not None:
        said.append(f"snapshot: {one.snapshot}")
    return said
