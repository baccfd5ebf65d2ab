"""Steps by source line, as gdb takes them (gdb/infrun.c, process_event_stop_test).

Instructions are stepped one by one; a call that is not to be entered is run through to its return
address, told from other stacks by RSP. Interrupts are held off while QEMU single-steps, and arrive
while a call is run through.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from breenix_gdbagent.arch.cpu import Arch
from breenix_gdbagent.debugger.debugger import Debugger
from breenix_gdbagent.debugger.stop_event import StopEvent
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.evaluation.source import Source, SourcePosition
from breenix_gdbagent.kernel import trace
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import StopReason
from breenix_gdbagent.symbols.backtrace import Frame

MOST_STEPS = 200_000
_MASK = (1 << 64) - 1
SourceLine = tuple[str | None, int | None]


@dataclass(frozen=True, slots=True)
class Instruction:
    """What a step must know of the instruction at RIP: kind is ``call``, ``rep`` (repeats until
    RCX is 0), ``halt`` or ``other``."""

    kind: str
    size: int
    text: str


class Stepper:
    """Steps of one CPU. `position` is where it stood last, with the inlined calls gone into."""

    def __init__(self, debugger: Debugger, cpu: int = 0) -> None:
        self.debugger = debugger
        self.cpu = cpu
        self.position: SourcePosition | None = None
        self._source: Source | None = None
        self._command = ""
        self._code: dict[int, Instruction] = {}
        self._decode: Callable[[bytes, int], Instruction] | None = None

    # The commands --------------------------------------------------------------------------

    def instruction(self, count: int = 1, *, over: bool = False) -> StopEvent:
        """``stepi`` and, with `over`, ``nexti``."""
        self._begin("nexti" if over else "stepi")
        for _ in range(count):
            event = self._one(over=over)
            if event is not None:
                return event
        return self._arrived()

    def line(self, *, over: bool) -> StopEvent:
        """``step`` and, with `over`, ``next``: to the start of another line; out of a function
        that has none. One instruction where no symbol is known."""
        self._begin("next" if over else "step")
        position = self._position_now()
        if position.row is None:
            extent = self._extent(position.pc)
            if extent is None:
                return self._one(over=over) or self._arrived()
            return self._lines(position, extent, over=over)
        if position.hidden and not over:
            # Into an inlined call that begins here: nothing moves.
            self.position = self._source_now().position(position.pc, position.hidden - 1)
            return self._arrived(keep=True)
        return self._lines(position, (position.row.start, position.row.end), over=over)

    def until(self) -> StopEvent:
        """``until``: as ``next``, but not back to an earlier address of the same function."""
        self._begin("until")
        position = self._position_now()
        if position.row is not None:
            span = self._function_start(position), position.row.end
            return self._lines(position, span, over=True)
        extent = self._extent(position.pc)
        if extent is None:
            return self._one(over=True) or self._arrived()
        return self._lines(position, (extent[0], position.pc + 1), over=True)

    def finish(self, kernel: Kernel) -> StopEvent:
        """Until the innermost frame shown is left. Raises `ReadError` when there is no caller."""
        self._begin("finish")
        position = self._position_now()
        if position.inlined:
            return self._leave_inlined(position)
        caller = self._caller(kernel)
        event = self._run_to(caller.pc, caller.sp)
        if event is not None:
            return event
        arrived = self._arrived()
        returned = self.debugger.vm.registers_of(self.cpu).get("rax")
        interrupted = caller.how == "interrupt-frame"
        return StopEvent(
            arrived.reason, arrived.points, arrived.notes, None if interrupted else returned
        )

    def to(self, addresses: tuple[int, ...], kernel: Kernel) -> StopEvent:
        """``until LOCATION``: there, or where the current frame returns to."""
        self._begin("until")
        places = {address: None for address in addresses}
        back: tuple[int, int] | None = None
        try:
            caller = self._caller(kernel)
            back = caller.pc, caller.sp
        except ReadError:
            back = None

        def accept(evaluation: Evaluation) -> bool:
            at = evaluation.cpu.rip
            return at in places or (back is not None and (at, evaluation.cpu.rsp) == back)

        every = (*places, *([back[0]] if back is not None and back[0] not in places else []))
        return self._passage(every, accept) or self._arrived()

    def stopped(self, event: StopEvent) -> None:
        """A run has ended: where it left the CPU. A breakpoint at an address shows the innermost
        inlined call that begins there, one at a function that function (gdb/infrun.c,
        stopped_by_user_bp_inline_frame)."""
        self._renew()
        if self._source is None or event.reason.cpu != self.cpu:
            self.position = None
            return
        position = self._source.position(self._pc)
        for point in event.points:
            if self._pc in point.place.fixed:
                position = self._source.position(self._pc, 0)
                break
            for hidden in range(position.hidden):
                if position.spots[hidden].function.endswith(point.place.text):
                    position = self._source.position(self._pc, hidden)
                    break
        self.position = position

    # One move ------------------------------------------------------------------------------

    def _begin(self, command: str) -> None:
        self._command = command
        self.debugger.begin()
        self._code.clear()
        self._renew()

    def _renew(self) -> None:
        """The source of the kernel that runs now."""
        image = self.debugger.loaded
        if image is not None and (self._source is None or self._source.image != image):
            self._source = Source(image)

    def _source_now(self) -> Source:
        assert self._source is not None
        return self._source

    @property
    def _arch(self) -> Arch:
        return self.debugger.vm.arch

    @property
    def _pc(self) -> int:
        return self.debugger.vm.pc(self.cpu) or 0

    @property
    def _sp(self) -> int:
        vm = self.debugger.vm
        return vm.registers_of(self.cpu).get(vm.arch.names.sp, 0)

    def _position_now(self) -> SourcePosition:
        if self.position is not None and self.position.pc == self._pc:
            return self.position
        if self._source is None:
            return SourcePosition(self._pc, (), (), None, 0)
        return self._source.position(self._pc)

    def _arrived(self, *, keep: bool = False) -> StopEvent:
        """A step that came where it was to."""
        if not keep:
            self.position = None if self._source is None else self._source.position(self._pc)
        return self.debugger.stopped(StopReason("step", self.cpu, text=self._command))

    def _one(self, *, over: bool) -> StopEvent | None:
        """One instruction, or a whole call; None when it came to its end."""
        at = self._instruction_at(self._pc)
        if at is not None and (at.kind in ("halt", "rep") or (over and at.kind == "call")):
            # An instruction that does not come to its end by itself, or a call not gone into.
            behind = (self._pc + at.size) & _MASK
            return self._run_to(behind, self._sp if at.kind == "call" else None)
        if self.debugger.vm.asked_to_stop:
            return self.debugger.stopped(StopReason("interrupt", self.cpu))
        return self.debugger.step_on(self.cpu)

    def _run_to(self, address: int, sp: int | None) -> StopEvent | None:
        """Run until this CPU's stack is at `sp` at `address`; None when it got there."""

        def accept(evaluation: Evaluation) -> bool:
            return sp is None or evaluation.cpu.stack == sp

        return self._passage((address,), accept)

    def _passage(
        self, addresses: tuple[int, ...], accept: Callable[[Evaluation], bool]
    ) -> StopEvent | None:
        with self.debugger.passage(addresses, accept) as passage:
            event = self.debugger.go_on()
            reached = passage in self.debugger.hits.stopping
        if reached and not event.points and event.reason.kind == "breakpoint":
            return None
        return event

    def _instruction_at(self, pc: int) -> Instruction | None:
        """Read once in a command: a loop in the line is stepped round by round."""
        if pc in self._code:
            return self._code[pc]
        code = self.debugger.vm.read_or_none(pc, min(self._arch.longest, 0x1000 - (pc & 0xFFF)))
        if code is None:
            return None
        if self._decode is None:
            self._decode = _decoder(self._arch)
        found = self._code[pc] = self._decode(code, pc)
        return found

    def _caller(self, kernel: Kernel) -> Frame:
        traced = trace.of_cpu(kernel, kernel.stop.cpu)
        if len(traced.frames) < 2:
            raise ReadError("there is no caller to return to", traced.end)
        return traced.frames[1]

    # By line -------------------------------------------------------------------------------

    def _lines(
        self,
        begin: SourcePosition,
        span: tuple[int, int],
        line: SourceLine | None = None,
        *,
        over: bool,
        leaving: int | None = None,
    ) -> StopEvent:
        """gdb's rules, in gdb's order. `begin` is the frame that is stepped in, `line` the line
        (of `begin`) and `span` where that is; all move on when the middle of another line is come
        to. `leaving` is an inlined call that has to be left first, wherever its parts lie."""
        source = self._source_now()
        start, end = span
        if over:
            # A row may hold code of several calls: the one that begins here is stepped over.
            end = min(end, source.end_of_calls(begin) or end)
        line = begin.line if line is None else line
        for _ in range(MOST_STEPS):
            before = self._instruction_at(self._pc)
            entering = before is not None and before.kind == "call" and not over
            back = (self._pc + before.size) & _MASK if before is not None else 0
            sp = self._sp
            event = self._one(over=over)
            if event is not None:
                return event
            if entering:
                entered = self._enter(back, sp)
                if entered is not None:
                    return entered
            # The entry of an interrupt counts as a signal trampoline, which gdb steps through.
            if start <= self._pc < end or source.is_entry(self._pc):
                continue
            if leaving is not None and source.inside(self._pc, leaving):
                continue
            leaving = None
            position = source.position(self._pc)
            rest = _rest(position, begin, line, over=over)
            if isinstance(rest, SourcePosition):
                self.position = rest
                return self._arrived(keep=True)
            if rest == "middle" and position.row is not None:
                begin, line = position, position.line
                start, end = position.row.start, position.row.end
        return self.debugger.stopped(
            StopReason("step", self.cpu, text=f"the line did not end in {MOST_STEPS} instructions")
        )

    def _enter(self, back: int, sp: int) -> StopEvent | None:
        """Behind a call: to the body of a function that has lines, through any other. None when
        the step goes on, at the call's return address."""
        body = self._source_now().body(self._pc)
        if body is None:
            return self._run_to(back, sp)
        if body != self._pc:
            event = self._run_to(body, None)
            if event is not None:
                return event
        return self._arrived()

    def _leave_inlined(self, begin: SourcePosition) -> StopEvent:
        """Over calls until a statement of the caller's begins: as a step in the caller's frame,
        out of no line (gdb/infcmd.c, finish_command). The code of an inlined call may lie in
        several parts: from one to the next it is not left, as gdb 13 has it."""
        caller = replace(begin, hidden=begin.hidden + 1)
        return self._lines(
            caller, (begin.pc, begin.pc), (None, None), over=True, leaving=begin.shown[-1]
        )

    def _extent(self, pc: int) -> tuple[int, int] | None:
        return None if self._source is None else self._source.extent(pc)

    def _function_start(self, position: SourcePosition) -> int:
        source = self._source_now()
        lines = source.image.image.debug.lines
        function = lines.function_at(source.image.link(position.pc))
        return source.image.va(function.low) if function is not None else position.pc


def _rest(
    position: SourcePosition, begin: SourcePosition, line: SourceLine, *, over: bool
) -> SourcePosition | Literal["on", "middle"]:
    """Where a step that has left its row comes to rest: there, further ``on``, or it goes on from
    the ``middle`` of another line. `begin` is the frame and `line` the line that is stepped in."""
    if position.row is None:
        return position
    same_frame = position.shown == begin.shown
    if same_frame and position.hidden:
        # At a call that is inlined, out of the line that was stepped in, or of another one.
        if position.line != line:
            return position
        return "on" if over else replace(position, hidden=position.hidden - 1)
    deeper = len(position.shown) > len(begin.shown)
    if position.inlined and deeper and position.shown[: len(begin.shown)] == begin.shown:
        return "on" if over else position
    if position.pc == position.row.start and position.line != line:
        if position.row.statement:
            return position
        if same_frame:
            return "on"
    return "middle"


def _decoder(arch: Arch) -> Callable[[bytes, int], Instruction]:
    def decode(code: bytes, pc: int) -> Instruction:
        for found in arch.disassemble(code, pc, 1):
            mnemonic = found.mnemonic
            kind = "other"
            if mnemonic in arch.calls:
                kind = "call"
            elif mnemonic in arch.halts:
                kind = "halt"
            elif mnemonic.startswith("rep"):
                kind = "rep"
            return Instruction(kind, found.size, found.text)
        return Instruction("other", 1, "(bad)")

    return decode
