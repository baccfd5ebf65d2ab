"""A hunt for a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from breenix_gdbagent.fleet.clusters import Association, Cluster
from breenix_gdbagent.fleet.store import Store
from breenix_gdbagent.report.ink import PLAIN, Ink
from breenix_gdbagent.report.page import Page


def render(
    store: Store, clusters: list[Cluster], width: int = 100, ink: Ink = PLAIN,
    tolerated: frozenset[str] = frozenset(),
) -> str:  # fmt: skip
    """What was run, how it ended, each cluster with its rate and what goes with it."""
    page = Page(width, ink)
    about = store.about()
    boots = store.count()
    page.text(headline(store, about, boots))
    outcomes = ", ".join(f"{number} {name}" for name, number in store.outcomes().items())
    page.text(f"outcomes: {outcomes or 'none yet'}")
    if len(store.qemus()) > 1:
        page.text(
            f"caution: {len(store.qemus())} versions of QEMU took part "
            f"({', '.join(store.qemus())}): what differs may be theirs",
            kind="warning",
        )
    page.blank()
    if not clusters:
        page.text(
            f"no cluster: nothing was found in {boots} boots; a fault that comes in "
            f"{percent(_upper(boots))} of boots or more would have shown with 95 % certainty"
            if boots
            else "no boot has ended yet"
        )
    for one in clusters:
        _cluster(page, store, one, boots, one.fingerprint in tolerated)
    return str(page)


def headline(store: Store, about: Mapping[str, object], boots: int) -> str:
    """``hunt of lab guard-page: 20 of 20 boots in 8.1 s by 2 threads; varied: seed (seed 7)``."""
    asked = about.get("boots")
    of = f"{boots} of {asked}" if asked != boots else f"{boots}"
    varied = about.get("vary")
    names = ", ".join(str(v) for v in varied) if isinstance(varied, list) and varied else "nothing"
    return (
        f"hunt of {about.get('shown')}: {of} boots in {about.get('seconds', 0):.1f} s by "
        f"{about.get('engine')}; varied: {names}; seed {about.get('seed')}"
    )


def _upper(boots: int) -> float:
    """What rate would have shown at least once in so many boots with 95 % certainty."""
    return float(1 - 0.05 ** (1 / boots))


def percent(rate: float) -> str:
    """``4.1 %``, with as many digits as a rare one needs."""
    shown = 100 * rate
    return f"{shown:.0f} %" if shown >= 99.95 or not shown else f"{shown:.2g} %"


def _cluster(page: Page, store: Store, one: Cluster, boots: int, tolerated: bool) -> None:
    mark = "  (in the baseline)" if tolerated else ""
    page.line((one.severity, one.severity), f"  {one.fingerprint}{mark}")
    page.text(one.title, "    ")
    at = one.median_seconds
    page.text(
        f"{one.count} of {boots} boots: {percent(one.rate)}, 95 % interval {percent(one.low)} to "
        f"{percent(one.high)}; first in boot {one.first}, last in {one.last}"
        + ("" if at is None else f"; {at:.3g} s to it (median)"),
        "    ",
    )
    for association in one.associations:
        page.text(association_words(association), "    ")
    if one.members:
        page.text(f"only ever with it: {', '.join(one.members)}", "    ", "      ")
    if one.snapshot is not None:
        page.line(f"    snapshot: {one.snapshot}")
    page.blank()


def association_words(one: Association) -> str:
    """``only with 4 CPUs: 12 of 30 boots, without 0 of 70 (chance: 0.0001)``."""
    if one.count and not one.others:
        how = f"only with {one.factor}={one.value}"
    elif one.others and not one.count:
        how = f"never with {one.factor}={one.value}"
    else:
        how = f"{'more' if one.more else 'less'} often with {one.factor}={one.value}"
    return (
        f"{how}: {one.count} of {one.boots} boots, otherwise {one.others} of {one.rest} "
        f"(chance, corrected for all tests: {one.chance:.2g})"
    )
