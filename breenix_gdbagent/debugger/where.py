"""Where the guest was when a signal (Ctrl-C, SIGTERM) ended its run."""

from __future__ import annotations

from breenix_gdbagent.debugger.debugger import Debugger
from breenix_gdbagent.errors import Note
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.story import printable
from breenix_gdbagent.stop import StopReason


def note_where(ended: BaseException, debugger: Debugger) -> BaseException:
    """Note on the exception of a signal where the guest stood, and its last line of serial text;
    whoever says the end says the notes too."""
    vm = debugger.vm
    if vm.running or vm.exited:
        return ended
    kernel = Kernel(debugger.stop(StopReason("interrupt")))
    when = f"{kernel.stop.seconds:.3g} s into its run"
    ended.add_note(Note(f"the guest stood {when} {position(kernel)}"))
    if vm.console.last_line.strip():
        ended.add_note(Note(f"its last line: {printable(vm.console.last_line.strip())}"))
    return ended


def position(kernel: Kernel) -> str:
    """``at 0x10 <idle+0x2>, ring 0, in init (pid 1), thread idle``: where the stop's CPU is."""
    cpu = kernel.stop.cpu
    rip = cpu.at
    space = kernel.space_of(cpu.root) if cpu.paging is not None else None
    thread = kernel.thread_name(cpu)
    said = [f"at {kernel.describe(rip)}" if rip is not None else "at a place that is not known"]
    said += [cpu.privilege]
    said += [f"in {space.label}"] if space is not None else []
    return ", ".join([*said, *([f"thread {thread}"] if thread is not None else [])])
