"""The kernel's code in memory against its ELF: where a place in it has been written over, and how
far.

A difference is no damage where the kernel or its loader writes code on purpose: a breakpoint, a
relocation, and in a kernel that patches itself (its sections tell) all that is small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from breenix_gdbagent.addresses import PAGE, PhysAddr, VirtAddr
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.memory.elf_header import PF_W, PT_LOAD, ProgramHeader
from breenix_gdbagent.symbols import LoadedImage
from breenix_gdbagent.symbols.bias import PATCHES
from breenix_gdbagent.x86.control import LONGEST_INSTRUCTION

_EQUAL = 64
"""So many equal bytes end a stretch of differing ones: what lies between is equal by chance."""
_PATCH, _BETWEEN = 128, 4
"""A kernel that patches itself changes less than so many bytes at once, and leaves more than so few
between two places (Linux: alternatives, return thunks, jump labels, static calls)."""
_WORD = 8
_MOST = 64 << 20
_INT3 = 0xCC
_STRANGE = 4
"""An ELF of which less than one part in so many is equal is another kernel's."""
_SAMPLE = 64
_SAMPLES = 64

_Read = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class Overwritten:
    """Code at [start, end) differs from the ELF; `have` and `want` are the bytes at the place that
    was asked for, in memory and in the ELF. `fill` is the byte that all of it has been set to, None
    for anything else. `physical`: by its physical address, as it is not mapped any more."""

    start: VirtAddr
    end: VirtAddr
    at: VirtAddr
    have: bytes
    want: bytes
    fill: int | None
    physical: bool


def overwritten_at(kernel: Kernel, root: int, va: int) -> Overwritten | None:
    """How the code at `va` has been written over; None where it is the ELF's, where the difference
    is one that is meant, where `va` is no code of the ELF, or nothing can be compared."""
    image = kernel.stop.image
    if image is None:
        return None
    link = image.link(va)
    segment = next((s for s in _code(image) if s.vaddr <= link < s.vaddr + s.filesz), None)
    if segment is None:
        return None
    for read, physical in _readers(kernel, image, segment, root):
        want = image.image.read(link, _left(segment, link, LONGEST_INSTRUCTION))
        try:
            have = read(link, len(want or b""))
        except ReadError:
            continue
        if not want or have == want or not _same_kernel(image, read):
            return None
        return _stretch(image, segment, read, link, physical)
    return None


def _code(image: LoadedImage) -> Iterator[ProgramHeader]:
    """Segments that nobody writes: code, and constants beside it."""
    for segment in image.image.segments:
        if segment.type == PT_LOAD and not segment.flags & PF_W:
            yield segment


def _left(segment: ProgramHeader, link: int, most: int) -> int:
    return min(most, segment.vaddr + segment.filesz - link)


def _readers(
    kernel: Kernel, image: LoadedImage, segment: ProgramHeader, root: int
) -> Iterator[tuple[_Read, bool]]:
    """Ways to read code by link address: as `root` maps it, else where an ELF that is linked to one
    place was loaded."""
    memory = kernel.memory_of(root)
    yield lambda link, length: memory.read(image.va(link), length), False
    if not image.image.relocatable:
        delta = segment.paddr - segment.vaddr
        yield lambda link, length: kernel.stop.memory.read(PhysAddr(link + delta), length), True


def _same_kernel(image: LoadedImage, read: _Read) -> bool:
    """Whether enough of the code is equal to say that this ELF is the one that was loaded."""
    equal = total = 0
    for segment in _code(image):
        step = max(segment.filesz // _SAMPLES, _SAMPLE)
        for at in range(segment.vaddr, segment.vaddr + segment.filesz - _SAMPLE, step):
            want = image.image.read(at, _SAMPLE)
            if not want or len(set(want)) < 8:
                continue  # padding proves nothing
            total += 1
            try:
                equal += read(at, _SAMPLE) == want
            except ReadError:
                continue
    return equal * _STRANGE >= total


def _stretch(
    image: LoadedImage, segment: ProgramHeader, read: _Read, link: int, physical: bool
) -> Overwritten | None:
    """The stretch of differing bytes around `link`, None for one that is meant."""
    whole = image.image.read(segment.vaddr, segment.filesz) or b""
    here = _differing(whole, _memory(segment, read), segment.vaddr, link)
    if here is None:
        return None
    first, end, found = here
    if _meant(image, found, whole[first - segment.vaddr : end - segment.vaddr]):
        return None
    size = _left(segment, link, LONGEST_INSTRUCTION)
    return Overwritten(
        start=image.va(first),
        end=image.va(end),
        at=image.va(link),
        have=read(link, size),
        want=whole[link - segment.vaddr :][:size],
        fill=found[0] if len(set(found)) == 1 else None,
        physical=physical,
    )


def _memory(segment: ProgramHeader, read: _Read) -> Callable[[int], bytes | None]:
    """Page of the segment by link address -> its bytes in memory; None where there are none."""

    def page(at: int) -> bytes | None:
        first = max(at, segment.vaddr)
        try:
            return read(first, _left(segment, first, at + PAGE - first))
        except ReadError:
            return None

    return page


def _differing(
    whole: bytes, page: Callable[[int], bytes | None], base: int, link: int
) -> tuple[int, int, bytes] | None:
    """(first, end, bytes in memory) of the differing stretch that holds or follows `link`."""
    marks, parts = list[int](), dict[int, bytes]()
    middle = link & -PAGE
    for pages in (range(middle, base + len(whole), PAGE), range(middle - PAGE, base - PAGE, -PAGE)):
        quiet = 0
        for at in pages:
            have = page(at)
            if have is None or at + PAGE <= base:
                break
            first = max(at, base)
            want = whole[first - base : first - base + len(have)]
            parts[first] = have
            found = [first + i for i, (a, b) in enumerate(zip(have, want, strict=False)) if a != b]
            marks += found
            quiet = 0 if found else quiet + 1
            if quiet or len(parts) * PAGE > _MOST:
                break
    if not marks:
        return None
    marks.sort()
    start = next((m for m in marks if m >= link), marks[-1])
    index = marks.index(start)
    low = high = index
    while low and marks[low] - marks[low - 1] <= _EQUAL:
        low -= 1
    while high + 1 < len(marks) and marks[high + 1] - marks[high] <= _EQUAL:
        high += 1
    first, end = marks[low], marks[high] + 1
    if not first - LONGEST_INSTRUCTION <= link < end:
        return None
    joined = b"".join(parts[at] for at in sorted(parts))
    begin = min(parts)
    return first, end, joined[first - begin : end - begin]


def _meant(image: LoadedImage, found: bytes, want: bytes) -> bool:
    """Whether somebody writes such a difference on purpose."""
    if set(found) == {_INT3} and len(found) == 1:
        return True
    if len(found) <= _WORD and image.image.relocatable:
        return True
    if not any(section.name in PATCHES for section in image.image.sections):
        return False
    return _most_at_once(found, want) < _PATCH and len(set(found)) > 1


def _most_at_once(found: bytes, want: bytes) -> int:
    """The longest run of bytes that differ, but for a few between them."""
    most = begin = last = 0
    for at, (a, b) in enumerate(zip(found, want, strict=True)):
        if a == b:
            continue
        if at - last > _BETWEEN + 1:
            begin = at
        last = at
        most = max(most, at + 1 - begin)
    return most
