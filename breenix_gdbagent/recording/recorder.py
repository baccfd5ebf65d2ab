"""Recording one run: the machine is made recordable and started, and after the run the recording
is played once to its end before it is called good."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from breenix_gdbagent.configs import Config, Files
from breenix_gdbagent.errors import AgentError, InputError, LinkError, OutputError, QemuDied
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.live import LiveVm, launch
from breenix_gdbagent.live.elfcode import KernelCode
from breenix_gdbagent.recording import manifest as names
from breenix_gdbagent.recording.counted import CountedVm, RecordingVm
from breenix_gdbagent.recording.log import last_count
from breenix_gdbagent.recording.machine import Recordable, recordable
from breenix_gdbagent.recording.manifest import Chunk, End, Held, Manifest, Waypoint
from breenix_gdbagent.recording.qcow2 import write_copy, write_empty
from breenix_gdbagent.recording.replaying import ReplayVm, copy_sparse, open_replay
from breenix_gdbagent.stop import Stop
from breenix_gdbagent.symbols import Image
from breenix_gdbagent.version import VERSION

STATE_BYTES = 1 << 20
"""Size of the disk that is there for snapshots alone: what they hold lies behind it."""
FULL_BYTES = 1 << 20
ENTRY_SECONDS = 120.0
FEW, MANY = 0.05, 2.0
SNAPSHOTS = 20
MOST_SNAPSHOTS = 32
"""Each takes as much of the disk as the guest uses of its RAM: of more, every second one goes."""
ENTRY = "entry"
MOST_SAMPLES = 400


@dataclass(frozen=True, slots=True)
class Recording:
    """What was recorded: where it is, how long, how large, where it begins, and what was changed
    of the machine to record it."""

    path: Path
    icount: int
    bytes: int
    start: str
    changes: tuple[str, ...]

    def to_json(self) -> dict[str, Json]:
        """As the report's document has it; the path as the user wrote it."""
        return {
            "path": str(self.path),
            "icount": self.icount,
            "bytes": self.bytes,
            "from": self.start,
        }


class Recorder:
    """One recording into a directory of its own."""

    def __init__(self, directory: Path) -> None:
        """Raises `InputError` for a directory that holds something, `OutputError`."""
        self.directory = directory
        self.place = directory.absolute()
        self._plan: Recordable | None = None
        self._elf: Path | None = None
        self._begin = 0
        self.start_at = "reset"
        try:
            if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
                raise InputError(
                    f"{directory} is there already, and not empty", fix="name a new directory"
                )
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_write(directory, error) from error

    # The run ---------------------------------------------------------------------------------

    def start(
        self,
        config: Config,
        *,
        elf: Image,
        image: Path | None = None,
        kernel: Path | None = None,
        disks: Sequence[Path] = (),
        append: str | None = None,
    ) -> LiveVm:
        """As `live.launch`, recorded. Firmware that boots the kernel is passed before recording
        begins, where the kernel is seen to begin. Raises `InputError` for a machine that cannot be
        recorded, `OutputError`, `QemuError`."""
        self._elf = elf.path
        self._plan = plan = recordable(config, Files(image, kernel, tuple(disks), append), elf.path)
        try:
            for name, path in plan.copies.items():
                copy_sparse(path, self.place / name)
            for name, path in plan.disks.items():
                write_copy(self.place / name, path)
            write_empty(self.place / "state.qcow2", STATE_BYTES)
        except OSError as error:
            raise _cannot_write(self.directory, error) from error
        loads = None
        if "kernel" not in config.needs and self._to_entry(plan):
            self.start_at, loads = "kernel-entry", ENTRY
        try:
            vm = self._launch(plan.machine("record", loads), RecordingVm)
        except QemuDied as died:
            if _is_full(self.place):
                raise OutputError(
                    f"{self.directory} cannot hold the recording", died.why,
                    "make room there, or name another directory",
                ) from died  # fmt: skip
            raise
        try:
            self._begin = vm.icount()
        except BaseException:
            vm.close()
            raise
        return vm

    def _launch(self, machine: Config, kind: type[CountedVm]) -> CountedVm:
        where = {"recording": str(self.place), "disks": str(self.place)}
        vm = launch(
            machine, kernel=self.place / names.KERNEL, prepare=lambda run: where, vm_class=kind
        )
        assert isinstance(vm, kind)
        return vm

    def _to_entry(self, plan: Recordable) -> bool:
        """Run to the first instruction of the kernel and keep that moment; whether it was seen."""
        code = KernelCode.read(self.place / names.KERNEL)
        bases = code.bases(identity=False)
        with self._launch(plan.machine(None), CountedVm) as vm:
            for base in bases:
                vm.insert(base + code.entry)
            reason = vm.run((plan.config.success,) if plan.config.success else (), ENTRY_SECONDS)
            if reason.kind != "breakpoint":
                return False
            base = vm.registers[vm.arch.names.pc] - code.entry
            if not code.stands_at(base, code.entry, vm.read_or_none):
                return False
            assert isinstance(vm, CountedVm)
            vm.save_snapshot(ENTRY)
            vm.quit()
        return True

    # Afterwards ------------------------------------------------------------------------------

    def finish(self, vm: LiveVm, stop: Stop, beside: Mapping[str, Json]) -> Recording:
        """End the recording at `stop`, play it once, and write what makes it one. `beside` is what
        a report needs besides the stop. Raises `OutputError` where it does not replay or could not
        be written, `LinkError`."""
        assert isinstance(vm, RecordingVm) and self._plan is not None
        vm.end_samples()
        count = vm.count_of(stop)
        samples = [s for s in vm.samples if count is None or s[0] <= count]
        if count is not None:
            samples.append((count, stop.seconds))
        said = vm.quit()
        if "write error" in said or "No space" in said:
            raise OutputError(
                f"{self.directory} cannot hold the recording", _last(said), "make room there"
            )
        icount = self._count_in_log() if count is None else count
        manifest = self._manifest(vm, stop, icount, count is None, beside)
        try:
            played = self._played(manifest, samples)
            played.write(self.place)
        except OSError as error:
            raise _cannot_write(self.directory, error) from error
        return Recording(
            self.directory,
            played.end.icount,
            sum(held.size for held in played.held),
            self.start_at,
            played.changes,
        )

    def _count_in_log(self) -> int:
        """Where the guest ended QEMU, nobody could be asked."""
        count = last_count(self.place / names.LOG)
        if count is None:
            raise OutputError(
                f"{self.directory} holds no whole recording",
                "QEMU's log ends before the run did",
                "make room there, then record again",
            )
        return count - 1

    def _manifest(
        self, vm: RecordingVm, stop: Stop, icount: int, left: bool, beside: Mapping[str, Json]
    ) -> Manifest:
        plan, reason = self._plan, stop.reason
        assert plan is not None and self._elf is not None
        serial = stop.serial
        (self.place / names.SERIAL).write_bytes(b"".join(c.data for c in serial.chunks))
        rip = None if left or not stop.cpus else stop.cpu.at
        machine = plan.machine("replay")
        config = plan.config
        kernel = self.place / names.KERNEL
        return Manifest(
            form=names.FORM,
            agent=VERSION,
            qemu=vm.qemu_version or "",
            machine=config.name,
            program=config.program,
            arguments=machine.arguments,
            memory=config.settings.memory,
            cpu=config.settings.cpu,
            serial_ports=config.serial_ports,
            boots_kernel="kernel" in config.needs,
            success=config.success,
            progress=config.progress,
            changes=tuple(dict.fromkeys(plan.changes)),
            start=self.start_at,
            kernel=self._elf.name,
            kernel_sha256=_sha256(kernel),
            bias=None if stop.image is None else stop.image.bias,
            disks=("state.qcow2", *plan.disks),
            held=(),
            serial=tuple(Chunk(c.port, c.seconds, len(c.data)) for c in serial.chunks),
            waypoints=(
                Waypoint(self._begin, 0.0, (0,) * config.serial_ports, names.INIT),
            ),
            end=End(
                icount, rip, reason.kind, reason.cpu, reason.vector, reason.text,
                reason.exit_status, reason.resets, left,
            ),
            beside=beside,
            stops=tuple(Waypoint(n, seconds, ()) for n, seconds in vm.stops),
            adapter=None if config.adapter is None else config.adapter.name,
            adapter_text="" if config.adapter is None else config.adapter.text,
        )  # fmt: skip

    def _played(self, manifest: Manifest, samples: Sequence[tuple[int, float]]) -> Manifest:
        """The manifest of the recording played to its end, with the snapshots made on the way."""
        every = min(max(4 * _seconds(samples) / SNAPSHOTS, FEW), MANY)
        timed = replace(manifest, waypoints=_merged(manifest.waypoints, samples))
        vm = open_replay(self.place, timed, in_place=True)
        try:
            with vm:
                ways = _play(vm, every)
                vm.quit()
        except AgentError as error:
            if _is_full(self.place):
                raise OutputError(
                    f"{self.directory} cannot hold the recording", "its disk is full",
                    "make room there, or name another directory",
                ) from error  # fmt: skip
            raise OutputError(
                f"{self.directory} does not replay: {error.what}", error.why, error.fix
            ) from error
        names_held = [names.LOG, names.SERIAL, *manifest.disks, *self._copies]
        held = tuple(self._held(name) for name in names_held)
        return replace(timed, waypoints=_merged(timed.waypoints, ways=ways), held=held)

    @property
    def _copies(self) -> tuple[str, ...]:
        return () if self._plan is None else tuple(self._plan.copies)

    def _held(self, name: str) -> Held:
        path = self.place / name
        kernel = name == names.KERNEL
        return Held(name, path.stat().st_size, _sha256(path) if kernel else None)

    def discard(self) -> None:
        """Remove what was recorded so far."""
        with suppress(OSError):
            shutil.rmtree(self.place)


def _play(vm: ReplayVm, every: float) -> list[Waypoint]:
    """Play to the end, with a snapshot each `every` seconds. Raises `LinkError` where it comes to
    another end or writes another text."""
    ways = []
    while True:
        reason = vm.run(deadline=every)
        if vm.at_end():
            break
        if reason.kind != "deadline":
            raise LinkError("the replay stops by itself", reason.text or reason.kind)
        icount = vm.icount()
        written = vm.written()
        name = f"at{icount}"
        vm.save_snapshot(name)
        ports = range(vm.manifest.serial_ports)
        text = tuple(written.get(port, 0) for port in ports)
        ways.append(Waypoint(icount, vm.seconds_at(icount), text, name))
        if len(ways) >= MOST_SNAPSHOTS:
            for way in ways[::2]:
                vm.delete_snapshot(way.snapshot or "")
            ways, every = ways[1::2], 2 * every
    recorded: dict[int, int] = {}
    for chunk in vm.manifest.serial:
        recorded[chunk.port] = recorded.get(chunk.port, 0) + chunk.length
    if {p: n for p, n in vm.written().items() if n} != recorded:
        raise LinkError("the replay writes less text than the run did")
    return ways


def _merged(
    waypoints: tuple[Waypoint, ...],
    samples: Sequence[tuple[int, float]] = (),
    ways: list[Waypoint] | None = None,
) -> tuple[Waypoint, ...]:
    """Moments in order, one an instruction count; of many samples some."""
    step = max(1, len(samples) // MOST_SAMPLES)
    thinned = (*samples[::step], *samples[-1:])
    found = {icount: Waypoint(icount, seconds, ()) for icount, seconds in thinned}
    found |= {way.icount: way for way in (*waypoints, *(ways or ()))}
    out: list[Waypoint] = []
    for icount in sorted(found):
        way = found[icount]
        if out and way.seconds < out[-1].seconds:
            way = replace(way, seconds=out[-1].seconds)
        out.append(way)
    return tuple(out)


def _seconds(samples: Sequence[tuple[int, float]]) -> float:
    return samples[-1][1] if samples else 0.0


def _is_full(place: Path) -> bool:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize < FULL_BYTES


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""


def _cannot_write(directory: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot record into {directory}", error.strerror or str(error))
