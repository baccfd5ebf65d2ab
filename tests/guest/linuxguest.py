"""A Debian cloud kernel in a QEMU that the agent did not start, and what QEMU says of its tables.

The kernel is ``LINUX_KERNEL`` or the newest ``/boot/vmlinuz-*-cloud-amd64``; its only program is
built here (fixtures/linux/README.md says what it does). The judge is QEMU's own monitor, on a
connection of the test's: the agent has another.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

INIT = r"""
static long call(long n, long a, long b, long c, long d, long e, long f) {
    long r;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8),
                     "r"(r9) : "rcx", "r11", "memory");
    return r;
}
static volatile char *room(void) { return (volatile char *)call(9, 0, 1 << 16, 3, 0x22, -1, 0); }
void _start(void) {
    volatile char *pages[4];
    for (int i = 0; i < 4; i++) {
        pages[i] = room();
        for (long at = 0; at < 1 << 16; at += 4096) pages[i][at] = 1;
    }
    call(10, (long)pages[1], 1 << 16, 1, 0, 0, 0);
    call(10, (long)pages[2], 1 << 16, 5, 0, 0, 0);
    call(10, (long)pages[3], 1 << 16, 0, 0, 0, 0);
    if (call(57, 0, 0, 0, 0, 0, 0) == 0) {
        pages[0][0] = 2;
        __asm__ volatile(".globl spin\nspin: incb 1(%0)\njmp spin" : : "r"(pages[0]) : "memory");
    }
    call(1, 1, (long)"LINUX UP\n", 9, 0, 0, 0);
    for (;;) call(34, 0, 0, 0, 0, 0, 0);
}
"""
UP = b"LINUX UP"


def kernel() -> Path | None:
    """The kernel image, or None."""
    named = os.environ.get("LINUX_KERNEL")
    if named:
        return Path(named)
    found = sorted(Path("/boot").glob("vmlinuz-*-cloud-amd64"))
    return found[-1] if found else None


def missing() -> str | None:
    """What these tests lack here, or None."""
    image = kernel()
    if image is None:
        return "no Debian cloud kernel: set LINUX_KERNEL (fixtures/linux/README.md)"
    if not image.is_file():
        return f"LINUX_KERNEL names no file: {image}"
    for tool in ("qemu-system-x86_64", "gcc"):
        if shutil.which(tool) is None:
            return f"no {tool}"
    return None


needs_linux = pytest.mark.skipif(missing() is not None, reason=str(missing()))


PAUSES, SPINS = "call(34, 0, 0, 0, 0, 0, 0);", "pages[0][2]++;"


ENDS = "call(60, 0, 0, 0, 0, 0, 0);"
OFFSET = rb"Kernel Offset: (0x[0-9a-f]+) from 0x[0-9a-f]+.*\n"
"""What a Linux that panics says of where it has moved itself."""


def build_init(room: Path, pauses: str = PAUSES) -> tuple[Path, int]:
    """(initramfs, address of the spinning instruction) of the one program. `pauses` is what the
    parent does for ever: with `SPINS` each of two CPUs is in ring 3, with `ENDS` Linux panics."""
    source, program = room / "init.c", room / "init"
    assert PAUSES in INIT
    source.write_text(INIT.replace(PAUSES, pauses))
    flags = "-O1 -static -nostdlib -ffreestanding -fno-stack-protector -fno-pie -no-pie"
    subprocess.run(["gcc", *flags.split(), str(source), "-o", str(program)], check=True)
    names = subprocess.run(["nm", str(program)], capture_output=True, text=True, check=True).stdout
    spin = int(re.search(r"^([0-9a-f]+) T spin$", names, re.MULTILINE)[1], 16)  # type: ignore[index]
    archive = room / "initramfs"
    archive.write_bytes(
        _entry("dev", 0o40755, b"", 1)
        + _entry("dev/console", 0o20600, b"", 2, device=(5, 1))
        + _entry("init", 0o100755, program.read_bytes(), 3)
        + _entry("TRAILER!!!", 0, b"", 4)
    )
    return archive, spin


def _entry(
    name: str, mode: int, data: bytes, inode: int, device: tuple[int, int] = (0, 0)
) -> bytes:
    """One file of a cpio archive, format newc (Linux, Documentation/driver-api/early-userspace)."""
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % value for value in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


class Monitor:
    """The test's own QMP connection; no code of the agent's."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(str(path))
        self.pending = b""
        self.events: list[str] = []
        self._message()
        self.ask("qmp_capabilities")

    def _message(self) -> dict[str, Any]:
        while b"\n" not in self.pending:
            more = self.socket.recv(1 << 16)
            if not more:
                raise ConnectionError("QEMU has left")
            self.pending += more
        line, _, self.pending = self.pending.partition(b"\n")
        return dict(json.loads(line))

    def ask(self, command: str, **arguments: object) -> Any:
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            message = self._message()
            if "event" in message:
                self.events.append(message["event"])
            elif "error" in message:
                raise AssertionError(message["error"])
            else:
                return message["return"]

    def hmp(self, line: str, cpu: int) -> str:
        return str(self.ask("human-monitor-command", **{"command-line": line, "cpu-index": cpu}))

    @property
    def status(self) -> str:
        return str(self.ask("query-status")["status"])

    def register(self, name: str, cpu: int) -> int:
        text = self.hmp("info registers", cpu)
        return int(re.search(rf"\b{name}=\s*([0-9a-f]+)", text)[1], 16)  # type: ignore[index]

    def stays_running(self, seconds: float) -> bool:
        """Whether no STOP comes: a breakpoint that was left would bring one."""
        if self.status != "running":  # and so what came before now is read
            return False
        self.events.clear()
        limit = time.monotonic() + seconds
        while (left := limit - time.monotonic()) > 0:
            select.select([self.socket], [], [], left)
            if self.status != "running":
                return False
        return "STOP" not in self.events


@dataclass(frozen=True)
class Linux:
    """A running Linux, its sockets and the test's monitor."""

    process: subprocess.Popen[bytes]
    room: Path
    monitor: Monitor
    spin: int
    levels: int
    said: bytes = b""
    cpus: range = field(default=range(2))

    @property
    def gdb(self) -> str:
        return f"unix:{self.room}/gdb"

    @property
    def qmp(self) -> str:
        return str(self.room / "qmp")

    @property
    def ram(self) -> Path:
        return self.room / "ram"

    @property
    def target(self) -> tuple[str, ...]:
        return ("--gdb", self.gdb, "--qmp", self.qmp)


@contextmanager
def linux(
    room: Path, cpu: str, memory: str = "512M", *, pauses: str = PAUSES, panic: int = -1
) -> Iterator[Linux]:
    """Debian's kernel on two CPUs, up to its program's greeting, or to the end of its panic."""
    archive, spin = build_init(room, pauses)
    line = [
        *("qemu-system-x86_64", "-display", "none", "-nodefaults", "-no-user-config"),
        *("-machine", "pc,accel=tcg,memory-backend=ram", "-m", memory, "-smp", "2", "-cpu", cpu),
        *("-object", f"memory-backend-file,id=ram,size={memory},mem-path={room}/ram,share=on"),
        *("-chardev", f"socket,path={room}/gdb,server=on,wait=off,id=g", "-gdb", "chardev:g"),
        *("-qmp", f"unix:{room}/qmp,server=on,wait=off"),
        *("-qmp", f"unix:{room}/monitor,server=on,wait=off"),
        *("-chardev", "stdio,id=s,signal=off", "-serial", "chardev:s"),
        *("-kernel", str(kernel()), "-initrd", str(archive)),
        *("-append", f"console=ttyS0 panic={panic}"),
    ]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        said = _wait_for(process, OFFSET if pauses == ENDS else UP, 120)
        monitor = Monitor(room / "monitor")
        levels = 5 if monitor.register("CR4", 0) & 1 << 12 else 4
        yield Linux(process, room, monitor, spin, levels, said)
        monitor.socket.close()
    finally:
        process.kill()
        process.communicate()


def _wait_for(process: subprocess.Popen[bytes], pattern: bytes, seconds: float) -> bytes:
    assert process.stdout is not None
    seen, limit = b"", time.monotonic() + seconds
    while not re.search(pattern, seen):
        left = limit - time.monotonic()
        assert left > 0, seen[-2000:].decode(errors="replace")
        if select.select([process.stdout], [], [], left)[0]:
            more = os.read(process.stdout.fileno(), 1 << 16)
            assert more, seen[-2000:].decode(errors="replace")
            seen += more
    return seen


def vmlinux(room: Path) -> Path:
    """The ELF that is packed in the kernel image (Documentation/x86/boot.rst: `payload_offset`,
    `payload_length`), in LZ4's legacy frame as Debian has it. Skips where it is not."""
    image = kernel()
    data = image.read_bytes() if image is not None else b""
    start, length = struct.unpack_from("<II", data, 0x248)
    packed = data[(data[0x1F1] + 1) * 512 + start :][:length]
    if not packed.startswith(b"\x02\x21\x4c\x18") or shutil.which("lz4") is None:
        pytest.skip("no lz4 here, or the kernel is packed in another way")
    (room / "packed").write_bytes(packed)
    # The last four bytes are the length, which is no part of the frame: lz4 may complain of them.
    subprocess.run(["lz4", "-d", "-f", "packed", "vmlinux"], cwd=room, capture_output=True)
    return room / "vmlinux"


@dataclass(frozen=True)
class Leaf:
    """One line of ``info tlb``: the leaf's own bits, nothing of the levels above it."""

    va: int
    pa: int
    size: int
    w: bool
    u: bool
    nx: bool


_TLB = re.compile(r"^([0-9a-f]{16}): ([0-9a-f]{16}) (\S{9})\s*$", re.MULTILINE)


def leaves(monitor: Monitor, cpu: int) -> list[Leaf]:
    """Every leaf of the CPU's CR3. `info tlb` says large, not how large: a 1 GiB leaf is the one
    whose second 2 MiB no other line explains and which `gva2gpa` still finds."""
    rows = [(int(v, 16), int(p, 16), f) for v, p, f in _TLB.findall(monitor.hmp("info tlb", cpu))]
    starts = {va for va, _, _ in rows}
    found = []
    for va, pa, flags in rows:
        size = 1 << 12
        if flags[2] == "P":
            size = 1 << 21
            if not (va | pa) & ((1 << 30) - 1) and va + size not in starts:
                size = 1 << 30 if gpa(monitor, va + size, cpu) == pa + size else size
        found.append(Leaf(va, pa, size, flags[8] == "W", flags[7] == "U", flags[0] == "X"))
    return found


def gpa(monitor: Monitor, va: int, cpu: int) -> int | None:
    """``gva2gpa``: QEMU's own walk."""
    text = monitor.hmp(f"gva2gpa {va:#x}", cpu)
    match = re.search(r"gpa: (?:0x)?([0-9a-f]+)", text)
    assert match or "Unmapped" in text, text
    return int(match[1], 16) if match else None


def rights(monitor: Monitor, cpu: int) -> list[tuple[int, int, bool, bool]]:
    """``info mem``: (start, end, w, u) in 48 bits, AND over all levels. Four levels only: with
    five it blocks the monitor for most of a minute (QEMU 7.2)."""
    found = re.findall(
        r"^([0-9a-f]{16})-([0-9a-f]{16}) [0-9a-f]{16} (\S{3})\s*$",
        monitor.hmp("info mem", cpu),
        re.MULTILINE,
    )
    mask = (1 << 48) - 1
    return [
        (int(a, 16) & mask, ((int(b, 16) - 1) & mask) + 1, f[2] == "w", f[0] == "u")
        for a, b, f in found
    ]
