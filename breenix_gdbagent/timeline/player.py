"""A recording as a guest that can be stood at any moment of: places in it, and stops there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.patterns import compiled
from breenix_gdbagent.recording import manifest as names
from breenix_gdbagent.recording.manifest import Manifest, read
from breenix_gdbagent.recording.replaying import ReplayVm, open_replay
from breenix_gdbagent.stop import Stop, StopReason
from breenix_gdbagent.symbols import Image

_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?)s")
_COUNT = re.compile(r"[0-9][0-9_,]*")


class Moment(NamedTuple):
    """A moment of a recording: before the instruction number `icount`; `at_end` its last one,
    where the recorded run was stopped."""

    icount: int
    at_end: bool = False


class Player:
    """One recording, played. As a context manager it ends QEMU."""

    def __init__(self, directory: Path, kernel: Path | None = None, *, more: tuple[str, ...] = ()):
        """`kernel` is the ELF, where another file than the recording's own is to be used; it has to
        be the same. `more` are further words for QEMU. Raises `InputError`, `QemuError`."""
        self.directory = directory
        self.manifest: Manifest = read(directory)
        self.image = _image(directory, self.manifest, kernel)
        self.vm: ReplayVm = open_replay(directory.absolute(), self.manifest, more=more)

    def __enter__(self) -> Self:
        self.vm.__enter__()
        return self

    def __exit__(self, *ended: object) -> None:
        self.vm.__exit__(*ended)

    def close(self) -> None:
        """End QEMU. Twice does no harm."""
        self.vm.close()

    @property
    def end(self) -> Moment:
        """The last moment."""
        return Moment(self.manifest.end.icount, True)

    @property
    def beside(self) -> Mapping[str, Json]:
        """What a report needs besides the stop at the end."""
        return self.manifest.beside

    def at(self, moment: Moment) -> Stop:
        """The guest at that moment, which it stands at then. Raises `InputError`, `LinkError`."""
        if moment.at_end:
            return self.here(self.vm.seek_end())
        self.vm.seek(moment.icount)
        return self.here(StopReason("attached"))

    def kernel(self, moment: Moment) -> Kernel:
        """The kernel in that stop."""
        return Kernel(self.at(moment))

    def here(self, reason: StopReason) -> Stop:
        """The guest as it stands, with the kernel's ELF where it runs."""
        return self.placed(self.vm.stop(reason))

    def placed(self, stop: Stop) -> Stop:
        """The stop with the ELF at the bias that the run had; unplaced before 64-bit mode."""
        bias = self.manifest.bias
        if bias is None or stop.paging is None:
            return stop._replace(unplaced=self.image)
        return stop._replace(image=self.image.loaded(bias), unplaced=None)

    # Places in time ------------------------------------------------------------------------

    def moment(self, text: str) -> Moment:
        """``end``, an instruction count, a time (``1.5s``), or a regular expression of serial
        text: the moment at which it had been written. Raises `InputError`."""
        if text == "end":
            return self.end
        if _COUNT.fullmatch(text):
            return self._within(int(re.sub("[_,]", "", text)))
        if found := _TIME.fullmatch(text):
            return self._at_time(float(found[1]))
        return self._written(text)

    def _at_time(self, seconds: float) -> Moment:
        last = self.vm.seconds_at(self.end.icount)
        # Reports give times to the millisecond: the end's, rounded up, is still the end.
        if seconds > round(last, 3):
            raise InputError(
                f"the recording has no moment at {seconds:g} s", f"it ends at {last:.3f} s"
            )
        return self._within(self.vm.count_at(seconds))

    def _within(self, icount: int) -> Moment:
        first, last = self.manifest.begin, self.manifest.end.icount
        if not first <= icount <= last:
            raise InputError(
                f"the recording has no instruction {icount}", f"it has {first} to {last}"
            )
        return Moment(icount)

    def _written(self, text: str) -> Moment:
        """Raises `InputError` for text that the guest did not write."""
        pattern = compiled(text, "the marker", flags=re.MULTILINE)
        recorded: dict[int, bytes] = {}
        self.vm.seek(self.manifest.begin)
        for chunk in self.vm.recorded:
            recorded[chunk.port] = recorded.get(chunk.port, b"") + chunk.data
        for port, data in sorted(recorded.items()):
            # One character a byte, so that what is found counts bytes.
            found = pattern.search(data.decode("latin-1"))
            if found is not None:
                return Moment(self._first_written(port, found.end()))
        raise InputError(
            f"no serial text of this recording matches {text!r}",
            fix="a moment is: end, an instruction count, 1.5s, or text that the guest wrote",
        )

    def _first_written(self, port: int, length: int) -> int:
        """The first instruction count at which a port had written so many bytes."""
        low, high = self.manifest.begin, self.manifest.end.icount
        while high - low > 1:
            middle = (low + high) // 2
            self.vm.seek(middle)
            if self.vm.written().get(port, 0) >= length:
                high = middle
            else:
                low = middle
        return high


def _image(directory: Path, manifest: Manifest, kernel: Path | None) -> Image:
    """The ELF that ran, under the name that it had. Raises `InputError` for another one."""
    image = Image.open(directory / names.KERNEL if kernel is None else kernel)
    if image.sha256 != manifest.kernel_sha256:
        which = f"{directory}/{names.KERNEL}" if kernel is None else kernel.name
        raise InputError(
            f"{which} is not the ELF that was recorded: its SHA-256 differs",
            f"the recording is of {manifest.kernel}, SHA-256 {manifest.kernel_sha256[:16]}...",
            "leave --kernel away: the recording has it",
        )
    return image
