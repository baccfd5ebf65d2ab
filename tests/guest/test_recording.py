"""A run of the lab guest recorded, moved, and gone through again."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from breenix_gdbagent import lab
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.recording import manifest as names
from breenix_gdbagent.timeline import writers as writers_module
from breenix_gdbagent.timeline.player import Moment, Player
from tests.guest.labrun import agent
from tests.guest.live_support import needs_qemu
from tests.schema import validate

pytestmark = needs_qemu

SCENARIO = "kernel-stack-unmapped"
GUILTY = "kernel::scenarios::kernel_stacks::remove_own_stack"
SEEKS = 12
TIMED = ("seconds", "provenance", "recording")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, object]]]:
    """A recording that was moved from where it was made, and the document of its run."""
    place = tmp_path_factory.mktemp("recorded")
    made = agent("record", "--lab", SCENARIO, "-o", str(place / "made"), "--json")
    assert made.code == 1, made.err
    (place / "made").rename(place / "moved")
    yield place / "moved", made.document


def untimed(value: object) -> object:
    """A document without what differs from one run to the next."""
    if isinstance(value, dict):
        return {k: untimed(v) for k, v in value.items() if k not in TIMED}
    return [untimed(one) for one in value] if isinstance(value, list) else value


def test_the_document_names_the_recording(recorded: tuple[Path, dict[str, object]]) -> None:
    directory, document = recorded
    validate(document)
    told = document["recording"]
    assert isinstance(told, dict) and told["from"] == "reset"
    with Player(directory) as player:
        assert told["icount"] == player.end.icount
    files = sum(path.stat().st_size for path in directory.iterdir() if path.name != names.NAME)
    assert told["bytes"] == files


def test_nothing_in_it_knows_where_it_was_made(recorded: tuple[Path, dict[str, object]]) -> None:
    directory = recorded[0]
    here = str(directory.parent).encode()
    assert not [path.name for path in directory.iterdir() if here in path.read_bytes()]


def test_at_its_end_it_is_the_run_that_was_recorded(
    recorded: tuple[Path, dict[str, object]],
) -> None:
    directory, document = recorded
    again = agent("audit", "--replay", str(directory), "--json")
    assert again.code == 1
    assert untimed(again.document) == untimed(document)


def test_every_moment_is_the_same_each_time(recorded: tuple[Path, dict[str, object]]) -> None:
    chosen = random.Random(21)
    with Player(recorded[0]) as player:
        last = player.end.icount
        moments = [chosen.randrange(last) for _ in range(SEEKS)]
        first = {at: player.at(Moment(at)).cpu.registers for at in moments}
        chosen.shuffle(moments)
        for at in (*moments, *sorted(moments)):
            assert player.at(Moment(at)).cpu.registers == first[at]
            assert player.vm.icount() == at
        end = player.at(player.end)
        whole = (recorded[0] / names.SERIAL).read_bytes()
        assert b"".join(chunk.data for chunk in end.serial.chunks) == whole


def test_a_moment_by_its_text_its_time_and_its_count(
    recorded: tuple[Path, dict[str, object]],
) -> None:
    with Player(recorded[0]) as player:
        end = player.at(player.end).seconds
        half = player.at(player.moment(f"{end / 2:.9f}s"))
        assert half.seconds == pytest.approx(end / 2, rel=1e-3)
        assert player.moment(f"{end:.3f}s").icount <= player.end.icount
        with pytest.raises(InputError, match="has no moment at"):
            player.moment(f"{end + 1}s")
        assert player.moment("7_000_000").icount == 7_000_000
        written = player.at(player.moment("Kernel initialization complete!"))
        assert written.serial.port(0).endswith("Kernel initialization complete!")


def test_when_names_the_instruction_that_broke_it(
    recorded: tuple[Path, dict[str, object]],
) -> None:
    directory = recorded[0]
    answer = agent("when", str(directory), "kernel-stack.unmapped", "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["status"] == "found" and GUILTY in found["frames"]
    assert found["change"]["after"] == "0x0" and found["change"]["before"] != "0x0"
    pa = int(found["change"]["pa"], 16)
    with Player(directory) as player:
        for at, value in ((found["icount"], "before"), (found["icount"] + 1, "after")):
            stop = player.at(Moment(at))
            word = int.from_bytes(stop.memory.read(pa, 8), "little")
            assert word == int(found["change"][value], 16)


def test_who_wrote_an_entry_is_what_its_value_tells(
    recorded: tuple[Path, dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every store of the plugin's, against the word itself before and after it; and the last of
    them against what seeks alone find, where no plugin can be loaded."""
    directory = recorded[0]
    answer = agent("when", str(directory), "kernel-slot.diverged", "--json")
    pa = json.loads(answer.out)["change"]["pa"]
    asked = agent("who-wrote", str(directory), pa, "--json")
    assert asked.code == 0, asked.err
    told = json.loads(asked.out)
    assert told["how"] == "plugin" and told["complete"] and told["pa"] == pa
    last = [write for write in told["writes"] if write["kind"] == "store"][-1]
    assert GUILTY in last["frames"]
    with Player(directory) as player:
        for write in told["writes"]:
            for at, value in ((write["icount"], "before"), (write["icount"] + 1, "after")):
                stop = player.at(Moment(at))
                word = int.from_bytes(stop.memory.read(int(pa, 16), 8), "little")
                assert word == int(write[value], 16)
        monkeypatch.setattr(writers_module, "stores_into", lambda *_: None)
        alone = writers_module.writers(player, int(pa, 16))
    assert alone.how == "seek" and not alone.complete and alone.lacking
    assert last["icount"] in [w.place.icount for w in alone.writes if w.kind == "store"]


def test_what_is_no_store_is_seen_too(recorded: tuple[Path, dict[str, object]]) -> None:
    """The accessed bit of an entry that the page walker set."""
    directory = recorded[0]
    asked = agent("who-wrote", str(directory), "entry 0x40000010", "--json")
    assert asked.code == 0, asked.err
    told = json.loads(asked.out)
    walker = [w for w in told["writes"] if w["kind"] == "walker"]
    assert walker and told["complete"]
    for write in walker:
        assert int(write["before"], 16) ^ int(write["after"], 16) in (0x20, 0x40, 0x60)


def _another_elf(directory: Path) -> list[str]:
    return ["audit", "--replay", str(directory), "--kernel", "/bin/true"]


def _cut_short(directory: Path) -> list[str]:
    log = directory / names.LOG
    log.write_bytes(log.read_bytes()[:-1000])
    return ["audit", "--replay", str(directory)]


def _lost_disk(directory: Path) -> list[str]:
    (directory / "state.qcow2").unlink()
    return ["when", str(directory), "--every"]


def _another_qemu(directory: Path) -> list[str]:
    document = json.loads((directory / names.NAME).read_text())
    (directory / names.NAME).write_text(json.dumps({**document, "qemu": "1.0.0"}))
    return ["bt", "--replay", str(directory)]


def _broke_off(directory: Path) -> list[str]:
    (directory / names.NAME).unlink()
    return ["bt", "--replay", str(directory)]


def _beyond_the_end(directory: Path) -> list[str]:
    return ["bt", "--replay", str(directory), "--at", "999_999_999_999"]


def _never_written(directory: Path) -> list[str]:
    return ["bt", "--replay", str(directory), "--at", "NO SUCH TEXT"]


@pytest.mark.parametrize(
    "spoil",
    [
        _another_elf, _cut_short, _lost_disk, _another_qemu, _broke_off, _beyond_the_end,
        _never_written,
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_a_sentence(
    recorded: tuple[Path, dict[str, object]], tmp_path: Path, spoil: object
) -> None:
    directory = tmp_path / "copy"
    shutil.copytree(recorded[0], directory)
    assert callable(spoil)
    refused = agent(*spoil(directory))
    assert refused.code == 2 and not refused.out
    assert 1 < len(refused.err.splitlines()) <= 3, refused.err


def test_a_directory_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    refused = agent("record", "--lab", "-o", str(tmp_path))
    assert refused.code == 2 and "not empty" in refused.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_two_cpus_are_refused_with_what_can_be_done(tmp_path: Path) -> None:
    refused = agent("record", "--lab", "--smp", "2", "-o", str(tmp_path / "r"))
    assert refused.code == 2 and "ci --deterministic --smp N" in refused.err
    assert not (tmp_path / "r").exists()


def test_a_failed_runs_snapshot_tells_when_it_broke(tmp_path: Path) -> None:
    """Without the recording, from the report that the file keeps and made anew."""
    room, file = tmp_path / "r", tmp_path / "f.core"
    failed = agent(
        "ci", "--lab", SCENARIO, "--record-on-failure", str(room), "-o", str(file), "--json"
    )
    assert failed.code == 1, failed.err
    validate(failed.document)
    told = failed.document["recording"]["moments"]
    assert [one["code"] for one in told][:2] == ["kernel-slot.diverged", "kernel-stack.unmapped"]
    assert GUILTY in told[1]["frames"]
    shutil.rmtree(room)
    for more in ((), ("--anew",)):
        again = agent("report", str(file), "--json", *more)
        assert again.document["recording"]["moments"] == told
        text = agent("report", str(file), *more).out
        assert "In the order in which things broke" in text


def test_a_run_that_passes_keeps_no_recording(tmp_path: Path) -> None:
    passed = agent("ci", "--lab", "--record-on-failure", str(tmp_path / "r"))
    assert passed.code == 0, passed.err
    assert not (tmp_path / "r").exists()


def test_it_needs_none_of_the_files_it_was_made_of(tmp_path: Path) -> None:
    """A machine with a disk: the image is gone, the directory moved, and it plays."""
    image, kernel = tmp_path / "disk.img", tmp_path / "kernel.elf"
    image.write_bytes(b"on the disk".ljust(1 << 20, b"\0"))
    shutil.copyfile(lab.elf(False), kernel)
    made = agent(
        "record", "--config", "kernel", "--kernel", str(kernel), "--disk", str(image),
        "--until", lab.MARKER, "-o", str(tmp_path / "made"),
    )  # fmt: skip
    assert made.code == 0, made.err
    image.unlink()
    kernel.unlink()
    (tmp_path / "made").rename(tmp_path / "moved")
    played = agent("audit", "--replay", str(tmp_path / "moved"))
    assert played.code == 0 and lab.MARKER in played.out, played.err
    names_there = {path.name for path in (tmp_path / "moved").iterdir()}
    assert "disk0.qcow2" in names_there


def test_what_a_survived_fault_showed_has_its_moment_too(tmp_path: Path) -> None:
    """At the end of the run nothing of it holds any more."""
    made = agent("record", "--lab", "rsp0-guessed", "-o", str(tmp_path / "r"))
    assert made.code == 1, made.err
    told = agent("when", str(tmp_path / "r"), "tss.rsp0-invalid", "--json")
    found = json.loads(told.out)
    assert told.code == 0 and found["status"] == "found"
    assert "kernel::scenarios::bug_cases::rsp0_guessed" in found["frames"]


def test_a_fault_behind_the_marker_is_recorded_while_it_lingers(tmp_path: Path) -> None:
    """The recording ends at the fault and not at the text that was waited for."""
    directory = tmp_path / "run"
    text = "Kernel initialization complete"
    asked = ("--lab", "guard-page", "--until", text, "--linger", "60", "-o", str(directory))
    done = agent("record", *asked, "--json")
    assert done.code == 1 and done.codes("error") == {"page-fault.guard-page"}
    (cpu,) = json.loads(agent("bt", "--replay", str(directory), "--at", "end", "--json").out)
    assert any("probes::recurse" in str(frame["name"]) for frame in cpu["frames"])
