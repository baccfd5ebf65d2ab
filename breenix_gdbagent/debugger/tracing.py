"""A stretch of code, instruction by instruction, with the registers that each changes."""

from __future__ import annotations

from breenix_gdbagent.addresses import counted, hex64
from breenix_gdbagent.debugger.debugger import Debugger
from breenix_gdbagent.debugger.stop_event import Say, StopEvent
from breenix_gdbagent.evaluation.places import Place
from breenix_gdbagent.stop import StopReason


class Tracing:
    """One CPU from the next hit of `begin` to `end`, at most `limit` instructions; `say` is told
    each. Where something else stops the guest first, that is what the trace comes to."""

    def __init__(
        self, debugger: Debugger, cpu: int, begin: Place, end: Place, limit: int, say: Say
    ) -> None:
        self.debugger = debugger
        self.cpu = cpu
        self.begin = begin
        self.end = end
        self.limit = limit
        self.say = say

    def run(self) -> StopEvent:
        """Raises `LinkError`, `QemuDied`."""
        debugger = self.debugger
        debugger.begin()
        addresses = debugger.table.addresses(self.begin)
        if debugger.vm.pc(self.cpu) not in addresses:
            with debugger.passage(addresses, lambda evaluation: True) as passage:
                event = debugger.go_on()
                if passage not in debugger.hits.stopping or event.points:
                    return event
            self.cpu = event.reason.cpu
        ends = debugger.table.addresses(self.end)
        return self._steps(ends)

    def _steps(self, ends: tuple[int, ...]) -> StopEvent:
        debugger, vm = self.debugger, self.debugger.vm
        for number in range(self.limit):
            before = dict(vm.registers_of(self.cpu))
            at = before.get(debugger.vm.arch.names.pc, 0)
            if at in ends and number:
                return debugger.stopped(StopReason("step", self.cpu, text="trace"))
            event = debugger.step_on(self.cpu)
            after = vm.registers_of(self.cpu)
            changed = ", ".join(
                f"{name} {hex64(value)}"
                for name, value in after.items()
                if name != debugger.vm.arch.names.pc and before.get(name, value) != value
            )
            self.say(f"{self._where(at)}  {self._text(at):<32} {changed}".rstrip())
            if event is not None:
                return event
        self.say(f"the end was not met within {counted(self.limit, 'instruction')}: --limit N")
        return debugger.stopped(StopReason("step", self.cpu, text="trace"))

    def _where(self, at: int) -> str:
        image = self.debugger.loaded
        name = None if image is None else image.name_of(at)
        return f"{hex64(at)} <{name}>" if name else hex64(at)

    def _text(self, at: int) -> str:
        vm = self.debugger.vm
        code = vm.read_or_none(at, min(vm.arch.longest, 0x1000 - (at & 0xFFF)))
        found = next(iter(vm.arch.disassemble(code or b"", at, 1)), None)
        return "(unreadable)" if found is None else found.text
