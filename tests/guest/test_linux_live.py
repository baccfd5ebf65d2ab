"""A kernel that is not ours, attached to while it runs; QEMU's own walks are the judge."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from breenix_gdbagent.kernel.image import with_image
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.live import attach
from breenix_gdbagent.symbols import Image
from tests.guest.labrun import agent
from tests.guest.linuxguest import (
    ENDS,
    OFFSET,
    Leaf,
    Linux,
    gpa,
    leaves,
    linux,
    needs_linux,
    rights,
    vmlinux,
)

pytestmark = needs_linux

MACHINES = {
    "four-levels": ("max,la57=off", "512M", 4),
    "five-levels": ("max", "512M", 5),
    "page-table-isolation": ("qemu64", "512M", 4),
    "above-the-pci-hole": ("max,la57=off", "5G", 4),
}

Rights = tuple[int, int, bool, bool, bool]  # start, end, w, u, nx


@pytest.fixture(scope="module", params=MACHINES)
def guest(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Linux]:
    cpu, memory, levels = MACHINES[request.param]
    with linux(tmp_path_factory.mktemp("linux"), cpu, memory) as running:
        assert running.levels == levels
        yield running


@pytest.fixture
def still(guest: Linux) -> Iterator[Linux]:
    """The guest stopped by the test, so that the agent and the judge see one moment."""
    guest.monitor.ask("stop")
    yield guest
    assert guest.monitor.status == "paused"  # what the agent was to leave
    guest.monitor.ask("cont")


def merged(parts: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for start, end in sorted(parts):
        if out and out[-1][1] == start:
            out[-1] = (out[-1][0], end)
        else:
            out.append((start, end))
    return out


def same_space(ours: Sequence[Rights], theirs: Sequence[Leaf]) -> None:
    """The same addresses, and no right that the leaf does not give."""
    assert theirs
    assert merged([(a, b) for a, b, *_ in ours]) == merged([(t.va, t.va + t.size) for t in theirs])
    position = 0
    for leaf in sorted(theirs, key=lambda one: one.va):
        while ours[position][1] <= leaf.va:
            position += 1
        start, end, w, u, nx = ours[position]
        assert start <= leaf.va and leaf.va + leaf.size <= end, leaf  # one leaf, one set of rights
        assert leaf.w or not w, leaf
        assert leaf.u or not u, leaf
        assert nx or not leaf.nx, leaf


def same_rights(ours: Sequence[Rights], theirs: Sequence[tuple[int, int, bool, bool]]) -> None:
    """W and U over all levels, as `info mem` has them."""
    mask = (1 << 48) - 1
    for w in (False, True):
        for u in (False, True):
            mine = [(a & mask, ((b - 1) & mask) + 1) for a, b, *r in ours if r[:2] == [w, u]]
            assert merged(mine) == merged([(a, b) for a, b, *r in theirs if r == [w, u]]), (w, u)


def mapped(guest: Linux, root: int) -> list[Rights]:
    result = agent("pt", "map", *guest.target, "--root", hex(root), "--json")
    assert result.code == 0, result.err
    return [
        (
            int(r["start"], 16),
            int(r["end"], 16),
            *(r["effective"][k] for k in ("w", "u", "nx")),
        )
        for r in json.loads(result.out)["ranges"]
    ]


@pytest.mark.parametrize("cpu", range(2))
def test_the_whole_space_of_every_cpu(still: Linux, cpu: int) -> None:
    ours = mapped(still, still.monitor.register("CR3", cpu))
    same_space(ours, leaves(still.monitor, cpu))
    if still.levels == 4:
        same_rights(ours, rights(still.monitor, cpu))


@pytest.mark.parametrize("cpu", range(2))
def test_where_addresses_lead(still: Linux, cpu: int) -> None:
    """Every leaf's frame as `info tlb` has it; hundreds of addresses as `gva2gpa` has them."""
    dice = random.Random(cpu)
    monitor = still.monitor
    root = monitor.register("CR3", cpu)
    all_leaves = leaves(monitor, cpu)
    asked = {leaf.va + (k := dice.randrange(leaf.size)): leaf.pa + k for leaf in all_leaves}
    half = 1 << (47 if still.levels == 4 else 56)
    for _ in range(300):
        leaf = dice.choice(all_leaves)
        near = leaf.va + dice.randrange(-leaf.size, 2 * leaf.size)
        far = dice.choice((dice.randrange(half), (1 << 64) - half + dice.randrange(half)))
        for va in (near, far):
            if va < half or (1 << 64) - half <= va < 1 << 64:
                asked[va] = gpa(monitor, va, cpu)  # type: ignore[assignment]
    lines = "\n".join(f"{va:#x} {root:#x}" for va in asked)
    result = agent("pt", "walk", "-", *still.target, "--json", stdin=lines)
    assert result.code in (0, 1), result.err
    answers = json.loads(result.out)
    assert {int(a["va"], 16): a["pa"] and int(a["pa"], 16) for a in answers} == asked
    by_va = {int(a["va"], 16): a for a in answers}
    for leaf in all_leaves:
        (size,) = {by_va[va]["size"] for va in by_va if va == leaf.va} or {leaf.size}
        assert size == leaf.size
    assert {len(a["levels"]) for a in answers if a["pa"]} <= set(range(1, still.levels + 1))


def test_what_runs_is_held_read_and_left_running(guest: Linux) -> None:
    assert guest.monitor.status == "running"
    with attach(guest.gdb, qmp=guest.qmp) as vm:
        kernel = Kernel(vm.stop())
        assert len(kernel.stop.cpus) == 2
        for cpu in kernel.stop.cpus:
            assert cpu.registers["cr3"] == guest.monitor.register("CR3", cpu.index)
            assert cpu.rip == guest.monitor.register("RIP", cpu.index)
            assert cpu.root is not None
            ranges = kernel.merged.space(cpu.root).ranges
            ours = [(int(r.start), int(r.end), r.w, r.u, r.nx) for r in ranges]
            same_space(ours, leaves(guest.monitor, cpu.index))
    assert guest.monitor.stays_running(0.3)


@pytest.mark.parametrize(
    "command",
    [
        ("pt", "roots", "--json"),
        ("pt", "map", "--json"),
        ("pt", "walk", "0xffffffff81000000", "--json"),
        ("audit", "--json"),
        ("threads",),
        ("pt", "who", "0x1000000"),
        ("bt",),
        ("disassemble",),
        ("ci", "--timeout", "1", "--json"),
        ("ci", "--timeout", "1", "--until", "never printed"),
        ("snapshot", "--now", "-o", "/dev/null"),
        ("snapshot", "--timeout", "1", "--until", "never printed", "-o", "/dev/null"),
        ("shell", "-c", "registers all", "-c", "roots", "-c", "walk 0xffffffff81000000"),
        ("shell", "-c", "stepi", "-c", "audit", "-c", "fault"),
    ],
    ids=" ".join,
)
def test_a_command_leaves_it_as_it_was(guest: Linux, command: tuple[str, ...]) -> None:
    assert guest.monitor.status == "running"
    result = agent(*command, *guest.target)
    assert "Traceback" not in result.err
    assert "a defect of the agent" not in result.err + result.out, result.err
    assert result.code in ((4,) if "--timeout" in command else (0, 1)), result.err
    assert guest.monitor.stays_running(0.2)
    with attach(guest.gdb, qmp=guest.qmp) as vm:
        assert vm.stub.ask(b"qqemu.PhyMemMode") == [b"0"]
    assert guest.monitor.status == "running"


def test_no_breakpoint_stays_behind(guest: Linux, tmp_path: Path) -> None:
    """The child spins over this instruction for ever: a breakpoint left there would stop it."""
    result = agent(
        "snapshot", *guest.target, "--at", hex(guest.spin), "--memory", "tables",
        "-o", str(tmp_path / "stop"), "--json",
    )  # fmt: skip
    assert result.code in (0, 1), result.err
    (stop,) = result.document["stops"]
    assert guest.spin in [int(cpu["rip"], 16) for cpu in stop["cpus"]]
    assert guest.monitor.stays_running(0.5)


def test_audit_has_nothing_against_linux(guest: Linux) -> None:
    result = agent("audit", *guest.target, "--json")
    assert result.code == 0, result.err
    assert result.codes("error") == set()
    statuses = {c["name"]: c["status"] for c in result.document["checks"]}
    assert statuses["page-tables"] == statuses["descriptor-tables"] == "passed"
    assert "not_checked" in statuses.values()  # what only Breenix has


def test_every_source_gives_the_same_bytes(still: Linux) -> None:
    """RAM file, QEMU's memory and the stub alone, against the file as the test reads it."""
    dice = random.Random(1)
    seen = []
    for settings in ({"qmp": still.qmp, "ram": still.ram}, {"qmp": still.qmp}, {}):
        with attach(still.gdb, **settings) as vm:
            memory = vm.stop().memory
            assert memory.ram is not None
            if not seen:
                spots = [
                    dice.randrange(r.start, r.end) & ~4095
                    for r in memory.ram.ranges
                    for _ in range(400)
                ]
                pages = sorted({pa for pa in spots if not 0xA0000 <= pa < 0x100000})
                tables = [c.root for c in vm.stop().cpus if c.root is not None]
            seen.append((type(vm.memory()), [bytes(memory.read(p, 4096)) for p in pages + tables]))
    assert len({kind for kind, _ in seen}) == 3
    size = still.ram.stat().st_size
    low = 3 << 30 if size >= 7 << 29 else size  # QEMU hw/i386/pc_piix.c: where the hole begins
    with still.ram.open("rb") as file:
        for index, pa in enumerate(pages + tables):
            file.seek(pa if pa < low else pa - (4 << 30) + low)
            wanted = file.read(4096)
            for kind, read in seen:
                assert read[index] == wanted, (kind, hex(pa))
    assert any(pa >= 4 << 30 for pa in pages) == (size > low)


def test_linux_is_placed_where_it_says_that_it_moved_itself(tmp_path: Path) -> None:
    """An ET_EXEC that KASLR moves and that patches its own text, out of the kernel image. The judge
    is the kernel: it panics, and prints its offset."""
    elf = vmlinux(tmp_path)
    with linux(tmp_path, "max,la57=off", pauses=ENDS, panic=0) as running:
        told = re.search(OFFSET, running.said)
        assert told is not None
        with attach(running.gdb, qmp=running.qmp, ram=running.ram) as vm:
            placed, bias = with_image(vm.stop(), Image.open(elf))
        assert bias is not None, placed.unplaced_why
        assert (bias.value, bias.proved) == (int(told[1], 16), True)
        assert "this kernel patches its own code" in bias.proof
