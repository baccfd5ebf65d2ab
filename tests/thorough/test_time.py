"""Recordings counted: every structural scenario named by its own function, a thousand seeks, and
`who-wrote` held against reverse execution."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

from breenix_gdbagent import lab
from breenix_gdbagent.checks.finding import CODES
from breenix_gdbagent.checks.register import all_codes
from breenix_gdbagent.recording import manifest as names
from breenix_gdbagent.timeline.player import Moment, Player
from breenix_gdbagent.timeline.travel import Traveller, debugger_of
from breenix_gdbagent.timeline.writers import writers
from tests.guest.labrun import agent
from tests.guest.live_support import needs_qemu

pytestmark = needs_qemu

SEEKS = 1000
ENTRIES = 20
NAMED = 48
FAMILIES = Path(__file__).parents[2] / "fixtures" / "labguest" / "src" / "scenarios"


def structural() -> list[str]:
    """Scenarios with a finding about the state of the guest: not about what the CPU did, nor about
    how the run ended."""
    all_codes()
    return [
        name
        for name, one in lab.scenarios().items()
        if any(CODES[code].kind == "state" and code != "log.error" for code in one.codes)
    ]


def guilty() -> dict[str, str]:
    """Scenario -> the module of the guest's source that has what it does: its functions are no
    other family's."""
    found: dict[str, str] = {}
    for path in sorted(FAMILIES.glob("*.rs")):
        for name in re.findall(r'name: "([\w-]+)"', path.read_text("utf-8")):
            found[name] = f"kernel::scenarios::{path.stem}::"
    return found


def recorded(scenario: str, place: Path) -> Path:
    made = agent("record", "--lab", scenario, "--timeout", "20", "-o", str(place / scenario))
    assert made.code in (0, 1, 4), made.err
    return place / scenario


def test_every_structural_scenario_is_named(qemu: Path, tmp_path: Path) -> None:
    """By the frames at the first moment of one of its findings."""
    functions = guilty()
    named, wrong = [], []
    scenarios = [name for name in structural() if name in functions]
    for scenario in scenarios:
        directory = recorded(scenario, tmp_path)
        answer = json.loads(agent("when", str(directory), "--every", "--json").out)
        frames = [frame for moment in answer["moments"] for frame in moment["frames"]]
        own = any(frame.startswith(functions[scenario]) for frame in frames)
        (named if own else wrong).append(scenario)
    told = f"{len(named)} of {len(scenarios)} named; not named: {wrong}"
    assert len(named) >= min(NAMED, len(scenarios) - 2), told


def test_a_thousand_seeks(qemu: Path, tmp_path: Path) -> None:
    directory = recorded("kernel-stack-unmapped", tmp_path)
    chosen = random.Random(2121)
    with Player(directory) as player:
        last = player.end.icount
        known: dict[int, object] = {}
        moments = [chosen.randrange(last) for _ in range(SEEKS // 2)] * 2
        chosen.shuffle(moments)
        for at in moments:
            player.vm.seek(at)
            assert player.vm.icount() == at
            registers = dict(player.vm.registers)
            assert known.setdefault(at, registers) == registers


def test_who_wrote_against_reverse_execution(qemu: Path, tmp_path: Path) -> None:
    """Each entry's last write, found by a watchpoint run backwards through its own alias."""
    directory = recorded("kernel-stack-unmapped", tmp_path)
    chosen = random.Random(20)
    with Player(directory) as player:
        kernel = player.kernel(player.end)
        space = next(s for s in kernel.audited if s.role == "process")
        places = []
        for stack in kernel.stacks:
            for page in stack.pages:
                entries = kernel.walk(space.root, page).entries
                places += [entry.entry_pa for entry in entries]
        wanted = chosen.sample(sorted(set(places)), ENTRIES)
        debugger = debugger_of(player)
        travel = Traveller(player, debugger)
        for pa in wanted:
            stores = [w for w in writers(player, pa).writes if w.kind == "store"]
            changing = [w for w in stores if w.before != w.after]
            if not changing:
                continue
            last = changing[-1]
            assert last.va is not None
            travel.go_to(Moment(last.place.icount + 1))
            debugger.vm.insert(last.va, "write", 8)
            event = travel.back_to_point()
            assert event.reason.kind == "breakpoint", (hex(pa), event)
            assert travel.position == last.place.icount
            for one in list(debugger.vm.ledger.of("caller")):
                debugger.vm.remove(one)


def test_a_thousand_hits_change_nothing(qemu: Path, tmp_path: Path) -> None:
    """A checkpoint in a replay leaves serial text and count as they were recorded."""
    directory = recorded("many", tmp_path)
    with Player(directory) as player:
        player.vm.seek(player.manifest.begin)
        hits = 0
        (link,) = player.image.addresses_of("syscall_entry")
        assert player.manifest.bias is not None
        player.vm.insert(player.manifest.bias + link)

        def passes(hit: object) -> bool:
            nonlocal hits
            hits += 1
            return True

        player.vm.run(on_hit=passes, on_fault=lambda fault: True)
        assert hits > 100 and player.vm.icount() == player.end.icount
        whole = (directory / names.SERIAL).read_bytes()
        assert b"".join(chunk.data for chunk in player.vm.serial.chunks) == whole
