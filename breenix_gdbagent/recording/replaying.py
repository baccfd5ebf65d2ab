"""A recording that is played: stand at any instruction of it, go on from there, look.

A replay is the run itself once more, so nothing that is done in it (breakpoints, steps, reading)
changes it; what it writes to its serial lines is compared with what was recorded.
"""

from __future__ import annotations

import os
import subprocess
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.configs import Config, Settings
from breenix_gdbagent.errors import InputError, LinkError, QemuMissing
from breenix_gdbagent.link.gdbstub import RunState
from breenix_gdbagent.link.stopreply import StopReply
from breenix_gdbagent.live import launch
from breenix_gdbagent.live.clock import RunClock
from breenix_gdbagent.live.guest import Holds
from breenix_gdbagent.recording import manifest as names
from breenix_gdbagent.recording.counted import MONITOR_SECONDS, CountedVm
from breenix_gdbagent.recording.manifest import Manifest, Waypoint
from breenix_gdbagent.stop import AdapterSource, SerialChunk, SerialText, Stop, StopReason

if TYPE_CHECKING:
    from breenix_gdbagent.live.fault import OnFault, OnHit

STALL_SECONDS = 20.0
"""So long the count of a replay may stand still before it is called stuck: a wait of the guest's
is replayed without waiting."""
_MOST_PHASES = 8
_PIECE = 1 << 20
AT_END, AT_LIMIT = "the recording ends here", "the run was to come to here"


class ReplayVm(CountedVm):
    """A guest that is played from a recording. `begin` is to be called first; `limit` is the
    instruction count before which a run ends, None for the recording's end."""

    def __init__(self, holds: Holds, clock: RunClock) -> None:
        super().__init__(holds, clock)
        self.recorded: tuple[SerialChunk, ...] = ()
        self._expected: dict[int, bytes] = {}
        self._base: dict[int, int] = {}
        self._taken = 0
        self._aimed: int | None = None
        self.limit: int | None = None
        self._exact: tuple[int, int] | None = None
        self._fresh = True

    def begin(self, manifest: Manifest, serial: bytes) -> None:
        """What is played, and all that it writes to its serial ports."""
        self.manifest = manifest
        chunks, at = [], 0
        for one in manifest.serial:
            chunks.append(SerialChunk(one.port, one.seconds, serial[at : at + one.length]))
            at += one.length
        self.recorded = tuple(chunks)
        for chunk in chunks:
            self._expected[chunk.port] = self._expected.get(chunk.port, b"") + chunk.data
        self.ways = [w for w in manifest.waypoints if w.snapshot is not None]

    # Where it stands -----------------------------------------------------------------------

    def seconds_at(self, icount: int) -> float:
        """The time of the run at an instruction count, between the moments that are known."""
        points = self.manifest.waypoints
        at = bisect_right(points, icount, key=lambda w: w.icount)
        if at == 0:
            return 0.0
        before = points[at - 1]
        if at == len(points):
            return before.seconds
        after = points[at]
        part = (icount - before.icount) / max(after.icount - before.icount, 1)
        return before.seconds + part * (after.seconds - before.seconds)

    def count_at(self, seconds: float) -> int:
        """The instruction count at a time of the run; what lies behind its end is the end."""
        points = self.manifest.waypoints
        at = bisect_right(points, seconds, key=lambda w: w.seconds)
        if at == 0 or at == len(points):
            return self.manifest.begin if at == 0 else self.manifest.end.icount
        before, after = points[at - 1], points[at]
        part = (seconds - before.seconds) / max(after.seconds - before.seconds, 1e-9)
        return before.icount + int(part * (after.icount - before.icount))

    @property
    def serial(self) -> SerialText:
        """What the guest had written by where it stands, with the times of the recorded run.
        Raises `LinkError` where the replay has written something else."""
        left = self.written()
        out = []
        for chunk in self.recorded:
            data = chunk.data[: left.get(chunk.port, 0)]
            if data:
                left[chunk.port] -= len(data)
                out.append(chunk._replace(data=data))
        return SerialText(tuple(out))

    def written(self) -> dict[int, int]:
        """How many bytes each port had written by where it stands. Raises `LinkError`, see
        `serial`."""
        self.console.sync()
        chunks = self.console.text.chunks
        for chunk in chunks[self._taken :]:
            at = self._base.get(chunk.port, 0)
            expected = self._expected.get(chunk.port, b"")[at : at + len(chunk.data)]
            if expected != chunk.data:
                raise LinkError(
                    "the replay has left the recording: it writes other text",
                    f"port {chunk.port}, from byte {at}: {chunk.data[:40]!r}, "
                    f"not {expected[:40]!r}",
                    "record again, and report it",
                )
            self._base[chunk.port] = at + len(chunk.data)
        self._taken = len(chunks)
        return dict(self._base)

    def stop(self, reason: StopReason | None = None, *, hidden: bool = True) -> Stop:
        """The guest as it stands, with the time and the text of the recorded run."""
        stop = super().stop(reason, hidden=hidden)
        return stop._replace(seconds=self.seconds_at(self.icount()), serial=self.serial)

    @property
    def end_reason(self) -> StopReason:
        """Why the recorded run stopped at its end."""
        end = self.manifest.end
        return StopReason(end.kind, end.cpu, end.vector, end.text, end.exit_status, end.resets)

    # Moving --------------------------------------------------------------------------------

    def seek(self, icount: int) -> None:
        """Stand before the instruction number `icount`. Raises `InputError` for one that was not
        recorded, `LinkError`."""
        first, last = self.manifest.begin, self.manifest.end.icount
        if not first <= icount <= last:
            raise InputError(
                f"the recording has no instruction {icount}", f"it has {first} to {last}"
            )
        here = self.icount()
        if self._exact == (icount, self.epoch):
            return
        way = self.ways[bisect_right(self.ways, icount, key=lambda w: w.icount) - 1]
        with self.ledger.nothing_wanted():
            if icount <= here or here < way.icount or self.stub.state is not RunState.STOPPED:
                self._load(way)
                here = way.icount
            if here < icount:
                self._play_to(icount)
        self._exact = icount, self.epoch

    def seek_end(self) -> StopReason:
        """Stand where the recorded run ended, and why it did."""
        self.seek(self.manifest.end.icount)
        self._settle()
        return self.end_reason

    def _load(self, way: Waypoint) -> None:
        """Back (or on) to a snapshot. Raises `LinkError` with QEMU's words."""
        if self._fresh:
            # A QEMU that has not run since it took a snapshot takes another one, and dies when it
            # is to run it (7.2, with virtio disks).
            self._play_to(min(self.icount() + 1, self.manifest.end.icount))
        self.written()
        with self._uncut():
            said = self.monitor.hmp(f"loadvm {way.snapshot}", MONITOR_SECONDS).strip()
        if said:
            raise LinkError(f"QEMU does not load the snapshot at {way.icount}", said)
        self._fresh = True
        self.console.sync()
        self._taken = len(self.console.text.chunks)
        self._base = dict(enumerate(way.serial))
        self.stub.was_reset()
        self._at.clear()
        self._pending = None
        self.was_changed()

    def _play_to(self, icount: int) -> None:
        self._aim(icount)
        while True:
            before = self.icount()
            super().run(deadline=STALL_SECONDS)
            here = self.icount()
            if here == icount:
                return
            if self.interrupted:
                raise KeyboardInterrupt
            if here > icount or here == before or self.exited:
                raise LinkError(
                    f"the replay does not come to instruction {icount}",
                    f"it stands at {here}",
                    "record again, and report it",
                )

    def _aim(self, icount: int) -> None:
        self._fresh = False
        self.monitor.execute("replay-break", {"icount": icount}, MONITOR_SECONDS)
        self._aimed = icount

    def _go(self) -> None:
        """Never beyond the end: QEMU ends there, and some of its versions cannot come back."""
        if self._aimed is None:
            self._aim(self.manifest.end.icount if self.limit is None else self.limit)
        super()._go()

    def _paused(self, reply: StopReply) -> StopReason:
        """Where QEMU was told to stop."""
        if self._aimed is not None and self.icount() == self._aimed:
            self._aimed = None
            return StopReason("interrupt", reply.cpu, text=AT_END if self.at_end() else AT_LIMIT)
        return super()._paused(reply)

    def at_end(self) -> bool:
        """Whether it stands at the last instruction of the recording."""
        return not self.exited and self.icount() >= self.manifest.end.icount

    def run(
        self,
        patterns: Sequence[str] = (),
        deadline: float | None = None,
        on_fault: OnFault | None = None,
        on_hit: OnHit | None = None,
    ) -> StopReason:
        """See `LiveVm.run`. The end of the recording stops it for the reason for which the
        recorded run was stopped there."""
        if self._aimed is None and self.limit is not None and self.icount() >= self.limit:
            return StopReason("interrupt", text=AT_LIMIT)
        if self._aimed is None and self.at_end():
            return self._ended_here()
        reason = super().run(patterns, deadline, on_fault, on_hit)
        self._aimed = None
        if reason.text == AT_END and self.at_end():
            return self._ended_here()
        return reason

    def step(self, cpu: int = 0) -> StopReason:
        """See `LiveVm.step`; at the end it stands still."""
        if self.at_end() and self.pc() == self.manifest.end.rip:
            return self.end_reason
        return super().step(cpu)

    def _writes_port(self, rip: int | None) -> bool:
        """What a step over an OUT may make of the machine is known: the recorded run went on. A
        shutdown that QEMU told of is that of the recording's end."""
        return False

    def _ended_here(self) -> StopReason:
        self._settle()
        return self.end_reason

    def _settle(self) -> None:
        """From before the last instruction to the moment of it at which the run was stopped: an
        exception that was delivered then is no instruction of its own. Raises `LinkError`."""
        end = self.manifest.end
        with self.ledger.nothing_wanted():
            for _ in range(_MOST_PHASES):
                if end.rip is None or self.pc() == end.rip:
                    return
                if self.icount() != end.icount:
                    break
                super().step(end.cpu)
        raise LinkError(
            f"the replay does not end at {hex64(end.rip or 0)}",
            f"at instruction {end.icount} it is at {hex64(self.registers.get('rip', 0))}",
            "record again, and report it",
        )


# Opening ----------------------------------------------------------------------------------------


def open_replay(
    directory: Path,
    manifest: Manifest,
    *,
    in_place: bool = False,
    more: Sequence[str] = (),
    values: Mapping[str, str] | None = None,
) -> ReplayVm:
    """Start QEMU to play a recording from its beginning. It works on copies of the disks, so that
    the directory is only read; `in_place` on themselves. `more` are further words for QEMU, with
    placeholders that `values` fill in. Raises `InputError` for another QEMU than it was recorded
    with, `QemuError`, `OutputError`."""
    check_qemu(manifest)
    held = {one.name: one for one in manifest.held}

    def prepare(run: Path) -> Mapping[str, str]:
        if not in_place:
            for name in manifest.disks:
                copy_sparse(directory / name, run / name)
        disks = directory if in_place else run
        return {**(values or {}), "recording": str(directory), "disks": str(disks)}

    room = 0 if in_place else sum(held[name].size for name in manifest.disks if name in held)
    vm = launch(
        _config(manifest, more),
        kernel=directory / names.KERNEL,
        prepare=prepare,
        room=room,
        vm_class=ReplayVm,
    )
    assert isinstance(vm, ReplayVm)
    try:
        vm.begin(manifest, (directory / names.SERIAL).read_bytes())
    except OSError as error:
        vm.close()
        raise InputError(f"cannot read {names.SERIAL}", error.strerror or "") from error
    return vm


def _config(manifest: Manifest, more: Sequence[str]) -> Config:
    settings = Settings(memory=manifest.memory, cpu=manifest.cpu)
    needs = ("kernel",) if manifest.boots_kernel else ()
    return Config(
        name=manifest.machine,
        about="a recording",
        program=manifest.program,
        arguments=(*manifest.arguments, *more),
        when={},
        settings=settings,
        serial_ports=manifest.serial_ports,
        needs=needs,
        success=manifest.success,
        progress=manifest.progress,
        adapter=None
        if manifest.adapter is None
        else AdapterSource(manifest.adapter, manifest.adapter_text),
    )


def check_qemu(manifest: Manifest) -> None:
    """Raises `InputError` unless this machine's QEMU is of the version that recorded."""
    here = qemu_version(manifest.program)
    if here != manifest.qemu:
        raise InputError(
            f"this was recorded by QEMU {manifest.qemu}, and {manifest.program} here is {here}",
            "only the same version plays a recording",
            f"put QEMU {manifest.qemu} first into PATH",
        )


def qemu_version(program: str) -> str:
    """As it says itself (``7.2.22``). Raises `QemuMissing`."""
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise QemuMissing(
            f"there is no {program} that runs on this machine", fix="see: breenix-gdbagent doctor"
        ) from error
    words = done.stdout.split()
    return words[words.index("version") + 1] if "version" in words else "of no known version"


def copy_sparse(source: Path, target: Path) -> None:
    """A copy that takes no more room than the file; holes stay holes. Raises `OSError`."""
    with source.open("rb") as old, target.open("xb") as new:
        end = os.fstat(old.fileno()).st_size
        at = 0
        while at < end:
            try:
                at = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            hole = os.lseek(old.fileno(), at, os.SEEK_HOLE)
            old.seek(at)
            new.seek(at)
            while at < hole:
                data = old.read(min(hole - at, _PIECE))
                if not data:
                    break
                new.write(data)
                at += len(data)
        new.truncate(end)
