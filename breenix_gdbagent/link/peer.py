"""Which process is at the other end of a socket: QEMU's own memory is read by its number."""

from __future__ import annotations

import os
import socket
import struct
import sys
from pathlib import Path

from breenix_gdbagent.errors import LinkError

_ESTABLISHED = "01"


def stopped(pid: int) -> bool:
    """Whether that process was stopped by a signal (SIGSTOP, a debugger of its own). Linux only:
    False elsewhere, and where it is not known."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] in ("T", "t")


def with_cause(error: LinkError, pid: int) -> LinkError:
    """The error, with the reason and the remedy where QEMU (`pid`) is seen to be stopped."""
    if pid > 0 and stopped(pid):
        error.why = f"QEMU (process {pid}) is stopped by a signal"
        error.fix = f"let it go on (kill -CONT {pid}), then try again"
    return error


def unix_peer(sock: socket.socket) -> int:
    """Process id behind a unix socket, as the kernel vouches for it (Linux); 0 where not known."""
    if sys.platform != "linux" or sock.family != socket.AF_UNIX:
        return 0
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(struct.unpack("iII", credentials)[0])


def peer(sock: socket.socket) -> int:
    """The same, also for a TCP connection within this host; 0 where it cannot be told (another
    host, another user's process, no Linux). Looks through /proc: milliseconds."""
    if sys.platform != "linux":
        return 0
    try:
        if sock.family == socket.AF_UNIX:
            return unix_peer(sock)
        ours, theirs = sock.getsockname()[1], sock.getpeername()[1]
        host = sock.getpeername()[0]
        if not host.startswith(("127.", "::1", "::ffff:127.")):
            return 0
        inode = _inode(local=theirs, remote=ours)
        return 0 if inode is None else _holder(f"socket:[{inode}]")
    except OSError:
        return 0


def _inode(*, local: int, remote: int) -> str | None:
    """Of the socket that has these two ports (Linux Documentation/networking/proc_net_tcp.rst)."""
    for table in ("tcp", "tcp6"):
        path = Path("/proc/net", table)
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            row = line.split()
            ports = tuple(int(one.rpartition(":")[2], 16) for one in row[1:3])
            if ports == (local, remote) and row[3] == _ESTABLISHED:
                return row[9]
    return None


def _holder(name: str) -> int:
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal() or process.name == str(os.getpid()):
            continue
        try:
            if any(str(fd.readlink()) == name for fd in (process / "fd").iterdir()):
                return int(process.name)
        except OSError:  # another user's, or it has ended
            continue
    return 0
