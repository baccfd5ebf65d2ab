"""Every error the agent raises, in one tree.

A defect of the *guest* is never an exception: it is a finding (`checks/`).

::

    AgentError                  what happened, why, what to do      exit code 3
    ├── InputError              a file, option or number of the user's     exit code 2
    ├── LinkError               the gdbstub or QMP did not do as asked
    │   ├── ConnectError        nobody answers at that address
    │   ├── LinkTimeout         asked, and no answer by the deadline
    │   ├── LinkProtocolError   the other side broke the protocol
    │   │   └── ResumeRefused   the stub answered a continue or a step, and nothing has moved
    │   ├── LinkClosed          the connection ended under us
    │   ├── StateError          asked for in a state of the guest in which it cannot be done
    │   └── StubError           the stub answered E<nn>
    │       └── BreakpointRefused   QEMU has no room for one more of that kind
    ├── QemuError               QEMU could not be started or died
    │   ├── QemuMissing         not installed, or no firmware for it
    │   ├── QemuDied            ended by itself; carries the tail of its stderr
    │   └── QemuGaveUp          holds the guest in a state of its own failing
    ├── OutputError             a file of ours could not be written
    │   └── SaveIncomplete      a snapshot is written, and lacks memory that was asked for
    └── ReadError               readers raise these; checks turn them into "not checked"
        ├── Unreadable          physical memory that we do not have
        │   └── StopGone        the stop that it is asked of is over: the guest has run since
        ├── NotMapped           a virtual address that the tables do not map
        ├── SymbolNotFound      no such symbol, with the nearest names
        │   └── NoSuchPart      a value without that field, index or key
        └── ValueCorrupt        bytes that are no value of their type
"""

from __future__ import annotations

from breenix_gdbagent.addresses import PhysAddr, VirtAddr, hex64


class Note(str):
    """A line of ours on an exception (PEP 678): told from those that Python puts there itself."""

    __slots__ = ()


class AgentError(Exception):
    """Base of all: `what` happened, `why`, and what to do about it (`fix`)."""

    exit_code = 3

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = _line(what), _line(why), _line(fix)
        super().__init__(self.what)

    def __str__(self) -> str:
        return "\n".join(line for line in (self.what, self.why, self.fix) if line)


def _line(text: str) -> str:
    """One line that a terminal takes: what others say (a library, QEMU, a file's own text) may have
    many, and characters that control it."""
    if text.isprintable():
        return text
    parts = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in parts)


class InputError(AgentError):
    """Something the user gave us is missing or wrong."""

    exit_code = 2


class LinkError(AgentError):
    """The connection to QEMU did not do what was asked of it."""


class ConnectError(LinkError):
    """Nobody answers at the address."""


class LinkTimeout(LinkError):
    """No answer by the deadline: which request, and how long we waited (seconds)."""

    def __init__(self, request: str, seconds: float, fix: str = "") -> None:
        super().__init__(f"no answer to {request} within {seconds:g} s", fix=fix)
        self.request = request
        self.seconds = seconds


class LinkProtocolError(LinkError):
    """The peer sent what the protocol does not allow."""


class ResumeRefused(LinkProtocolError):
    """A continue or a step was answered with another packet than a stop reply: nothing moved."""


class LinkClosed(LinkError):
    """The connection ended while we needed it."""


class StateError(LinkError):
    """The guest is in `state`, and what was asked for needs one of `needed`; nothing was sent."""

    def __init__(
        self, state: str, needed: tuple[str, ...], what: str, why: str = "", fix: str = ""
    ) -> None:
        super().__init__(what, why, fix)
        self.state = state
        self.needed = needed


class StubError(LinkError):
    """The gdbstub refused a request with an error number."""

    def __init__(self, request: str, number: int) -> None:
        super().__init__(f"the gdbstub refused {request} with error {number}")
        self.request = request
        self.number = number


class BreakpointRefused(StubError):
    """QEMU does not put a break- or watchpoint in; the guest has not moved."""

    def __init__(self, kind: str, address: int, number: int) -> None:
        super().__init__(f"a {kind} point at {hex64(address)}", number)
        self.what = f"QEMU refused a {kind} point at {hex64(address)}; the guest has not moved"
        self.why = f"error {number}: no more of that kind"
        self.fix = "delete a point, then try again"
        self.kind = kind
        self.address = address


class QemuError(AgentError):
    """QEMU could not be started, or did not go on."""


class QemuMissing(QemuError):
    """QEMU, or a firmware it needs, is not installed."""


class QemuDied(QemuError):
    """QEMU ended by itself; `status` is its exit status, `stderr` the tail of what it said."""

    def __init__(self, status: int | None, stderr: str, fix: str = "") -> None:
        said = stderr.strip().splitlines()
        super().__init__(
            f"QEMU ended by itself with status {status}", said[-1] if said else "", fix
        )
        self.status = status
        self.stderr = stderr


class QemuGaveUp(QemuError):
    """QEMU itself cannot let the guest go on: `state` is its run state (``internal-error``,
    ``io-error``), `stderr` the tail of what it said, empty where that is not ours to read."""

    def __init__(self, state: str, stderr: str, fix: str) -> None:
        super().__init__(
            f"QEMU stopped the guest by an error of its own: {state}",
            ", ".join(_sentences(stderr)) or "QEMU's own stderr says why",
            fix,
        )
        self.state = state
        self.stderr = stderr


def _sentences(stderr: str) -> list[str]:
    """What QEMU says on stderr in words: without warnings, and the dump of registers behind."""
    out = []
    for line in stderr.splitlines():
        if line[:4] in ("RAX=", "EAX="):
            break
        if line.strip() and "warning:" not in line and not line.startswith("extra data["):
            out.append(line.strip())
    return out


class OutputError(AgentError):
    """A file that we were asked to write could not be written."""


class SaveIncomplete(OutputError):
    """A snapshot that is written without some of the RAM that it was to keep."""

    def __init__(self, file: str, missing: str, reason: str, fix: str) -> None:
        super().__init__(
            f"{file} is written, and lacks {missing} that was asked for", reason, fix
        )
        self.missing = missing
        self.reason = reason


class ReadError(AgentError):
    """A reader could not get at a value of the guest."""


class Unreadable(ReadError):
    """Physical memory that we do not have: outside RAM, MMIO, or not kept in the snapshot."""

    def __init__(self, pa: PhysAddr, length: int, reason: str) -> None:
        super().__init__(f"physical {hex64(pa)} (+{length} bytes) cannot be read: {reason}")
        self.pa = pa
        self.length = length
        self.reason = reason


class StopGone(Unreadable):
    """Memory of a stop after which the guest has run on."""


class NotMapped(ReadError):
    """A virtual address that the tables of `root` do not map; `level` is where the walk ended."""

    def __init__(self, va: VirtAddr, root: PhysAddr, level: int | None, reason: str) -> None:
        super().__init__(f"{hex64(va)} is not mapped under root {hex64(root)}: {reason}")
        self.va = va
        self.root = root
        self.level = level
        self.reason = reason


class SymbolNotFound(ReadError):
    """No symbol of that name; `near` holds the nearest ones there are."""

    exit_code = 1

    def __init__(self, name: str, near: tuple[str, ...] = ()) -> None:
        super().__init__(
            f"no symbol {name!r}", fix=f"did you mean {', '.join(near)}?" if near else ""
        )
        self.name = name
        self.near = near


class NoSuchPart(SymbolNotFound):
    """A field, index or key that a value does not have; `near` are some of those it has."""

    def __init__(self, what: str, near: tuple[str, ...] = ()) -> None:
        super().__init__(what, near)
        self.what = what
        self.fix = f"there are: {', '.join(near)}" if near else ""


class ValueCorrupt(ReadError):
    """Bytes in memory that are no value of the type they should have."""
