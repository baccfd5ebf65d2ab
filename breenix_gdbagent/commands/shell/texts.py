"""The shell's commands as a table: what `help` says, what completion offers, what the README lists.

A command's function is ``do_NAME`` in the module it names, imported when it is first used.
"""

from __future__ import annotations

import difflib
import textwrap
from dataclasses import dataclass
from typing import Literal

from breenix_gdbagent.errors import InputError

USAGE = 34  # columns of a command with what it takes, in the list

Takes = Literal[
    "", "symbol", "code", "value", "point", "check", "command", "space", "file", "topic"
]


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `takes` says what its arguments are, for completion; `raw`: it reads its line
    itself, quotes and all; `formats`: a ``/`` and a format may stand behind its name; `more` is
    what `help NAME` adds; `gdb` are words of gdb's, pwndbg's, drgn's or crash's for it."""

    name: str
    usage: str
    help: str
    module: str
    takes: Takes = ""
    raw: bool = False
    more: str = ""
    formats: bool = False
    gdb: tuple[str, ...] = ()

    @property
    def function(self) -> str:
        return f"do_{self.name.replace('-', '_')}"


LOCATIONS = (
    "LOCATION is 0x..., a symbol, symbol+offset, file.rs:12 or 12, a line of the file where the "
    "CPU stands; a function that was inlined "
    "everywhere is each of its copies."
)
CONDITIONS = (
    "COND compares registers (rdi, $cr2), the thread and process (thread.id, process.name, pid, "
    "tid), cpu, ring, statics (SCHEDULER.current_thread), memory (u64[rsp]) and addresses (&name) "
    "with == != < <= > >=, joined by and, or, not; arithmetic as in Rust."
)

EXPRESSIONS = (
    "Registers (rdi, $pc), arguments and locals of the frame, statics (SCHEDULER.current_thread), "
    "functions, u64[rsp], u64[rsp..rsp+32], *pointer, &name, items [2] and [2..5], conversions "
    "(rdi as u32, *(rdi as *const kernel::task::thread::Thread)), arithmetic as in Rust."
)

GROUPS: dict[str, tuple[Command, ...]] = {
    "running": (
        Command(
            "continue", "[REGEX|N] [--for S]",
            "run to a fault, a point, or serial text to come that matches; N: to the N-th hit from "
            "now of the point it stands at",
            "control", raw=True,
        ),
        Command("step", "[COUNT]", "to the next source line, into calls", "control"),
        Command("next", "[COUNT]", "to the next source line, over calls", "control"),
        Command("stepi", "[COUNT]", "one instruction, or several", "control"),
        Command("nexti", "[COUNT]", "one instruction, over calls", "control"),
        Command("finish", "", "until this function, or inlined call, has returned", "control"),
        Command(
            "until", "[LOCATION]", "to a line further down, or to a location in this frame",
            "control", "code",
        ),
        Command(
            "trace", "FROM..TO [--limit N]", "from the next hit on, each instruction with what it "
            "changes", "control", "code", True,
        ),
        Command(
            "interrupt", "[timer|VECTOR at LOCATION]", "stop the guest (Ctrl-C does the same); or "
            "give it that interrupt just there, with --write", "control", "code", True,
            "interrupt timer at LOCATION [process P] [cpu N] [count N] [if COND]: the guest stands "
            "at the handler then, as if the interrupt had come before that instruction.",
        ),
        Command("wait", "REGEX [SECONDS]", "run until serial text matches", "control", raw=True),
        Command("reset", "", "reset the machine; breakpoints stay", "control"),
    ),
    "in time": (
        Command(
            "goto", "COUNT|TIME|MARKER|end", "to a moment of a recording", "intime", raw=True,
            more="goto 7_839_317   before that instruction (bare digits, _ and , allowed)\n"
            "goto 1.5s        a time of the run\n"
            "goto TEXT        the first moment at which the guest had written text that matches\n"
            "goto NAME        a bookmark",
        ),
        Command("reverse-continue", "", "back to the last point or fault", "intime"),
        Command("reverse-step", "", "back to the line before, into calls", "intime"),
        Command("reverse-next", "", "back to the line before, over calls", "intime"),
        Command("reverse-stepi", "[COUNT]", "instructions back", "intime"),
        Command("reverse-finish", "", "back to the call of this function", "intime"),
        Command(
            "last", "EXPR", "back to the last write of a value; again: to the one before", "intime",
            "value", True,
        ),
        Command(
            "when", "CODE[@SUBJECT]", "to the instruction that made a finding hold", "intime",
            raw=True,
        ),
        Command("bookmark", "[NAME]", "name this moment; without a name: list them", "intime"),
    ),
    "points": (
        Command(
            "break", "[LOCATION] [WHEN]", "stop at a location; without one: list all points",
            "points", "code", True,
            "break LOCATION [process PID|NAME] [cpu N] [count N] [if COND]\n"
            f"break exception VECTOR [...]\n{LOCATIONS}\n{CONDITIONS}",
        ),
        Command(
            "tbreak", "LOCATION [WHEN]", "a breakpoint for one stop", "points", "code", True
        ),
        Command(
            "watch", "VALUE|VA [LENGTH]", "stop when a static or memory changes", "points",
            "value", True,
            "watch [-r|-a] PATH        a static or a field of it: read, or any access\n"
            "watch [-r|-a] VA LENGTH   bytes at a virtual address\n"
            "watch entry VA [process PID|NAME]   the page-table entries, of every level, that map "
            "VA in that process, through every mapping of their tables that is known",
        ),
        Command(
            "checkpoint", "LOCATION [EXPR, ...] [if COND]", "print values there and go on",
            "points", "code", True,
            "checkpoint [--quiet] [--limit N] LOCATION [EXPR, EXPR...] [if COND]: each hit with "
            "what has changed since the one before, equal ones counted; N are told\n"
            "checkpoint NUMBER   the last hits, how many, how often\n" + CONDITIONS,
        ),
        Command(
            "invariant", "CHECK at LOCATION", "run a check there, stop when it fails", "points",
            "check", True,
            "CHECK is one of the audit's checks, or `audit` for all of them.",
        ),
        Command(
            "commands", "[NUMBER]", "what to do when a point stops the guest, up to `end`",
            "scripting", "point", more="`silent` as the first line shows nothing of the stop.",
        ),
        Command(
            "catch", "[all|unexpected|none]", "which faults stop the guest", "points",
            more="unexpected (as it begins) passes copy-on-write and stack growth",
        ),
        Command("delete", "[NUMBER...]", "remove points, or all", "points", "point"),
        Command("enable", "[NUMBER...]", "put points in again", "points", "point"),
        Command("disable", "[NUMBER...]", "take points out, and keep them", "points", "point"),
        Command("ignore", "NUMBER COUNT", "pass that many hits of a point", "points", "point"),
        Command(
            "condition", "NUMBER [COND]", "change when a point counts", "points", "point", True,
            CONDITIONS,
        ),
    ),
    "looking": (
        Command("context", "", "where the guest stands, as after a stop", "looking"),
        Command("registers", "[all]", "registers of the CPU, or of all; * has changed", "looking"),
        Command("cpu", "[NUMBER]", "every CPU, or choose one", "looking"),
        Command("percpu", "", "the per-CPU block of every CPU", "looking"),
        Command("walk", "VA [ROOT]", "where an address leads, level by level", "looking", "symbol"),
        Command("roots", "", "every address space", "looking"),
        Command("map", "[ROOT]", "all that one space maps, merged by rights", "looking", "space"),
        Command(
            "who", "PA", "who maps a physical address", "looking",
            more="A register or a symbol is taken for the virtual address that it is, and said so.",
        ),
        Command("stacks", "", "kernel and IST stacks, their owners, who stands on them", "looking"),
        Command("stack", "[COUNT]", "words on the stack, with the symbols they name", "looking"),
        Command("memory", "VA [LENGTH]", "bytes at a virtual address", "looking", "symbol"),
        Command(
            "x", "/NFU [ADDRESS]", "memory as in gdb: x/4gx rsp, x/10i rip, x/s rdi", "examine",
            "value", True,
            "N how many, F one of x d u o t a c z f i s, U the size: b h w g. Without an address "
            "it goes on.",
            formats=True,
        ),
        Command(
            "xp", "/NFU [PA]", "the same by physical address, as QEMU's xp", "examine", "value",
            True, formats=True,
        ),
        Command(
            "search", '"TEXT"|BYTES|POINTER', "where it occurs in the CPU's space, or in RAM",
            "examine", more='search "text", search 48 8b 05, search &NAME\n'
            "--ram: in physical memory; --pid N, --root CR3: in another space; --limit N",
        ),
        Command("telescope", "[ADDRESS [COUNT]]", "words, each followed as far as it leads",
                "examine", "value", True, "telescope registers: what each register leads to."),
        Command("idt", "[VECTOR]", "the gates of the IDT", "tables"),
        Command("gdt", "", "the segments of the GDT, and who uses them", "tables"),
        Command("tss", "", "stacks of every CPU's TSS", "tables"),
        Command("msr", "", "model-specific registers, as far as QEMU tells", "tables"),
        Command("irq", "", "what interrupts lead to, what is pending or masked", "tables"),
        Command("locks", "[all]", "locks that are held, by whom, and who spins on them", "tables"),
        Command("blame", "", "module and function to blame, and a bucket id", "blaming"),
        Command("audit", "[-v]", "all checks on this stop; -v: consequences in full", "looking"),
        Command("fault", "", "the fault that the guest stopped at and its cause", "looking"),
        Command(
            "info", "[WHAT] [...]", "as in gdb: info registers, locals, line, functions REGEX, ...",
            "info", "topic", True, "info alone lists what there is.",
        ),
        Command(
            "serial", "[LINES|off|on]",
            "the last lines of serial text; off: it is not shown as it comes", "looking",
        ),
    ),
    "names": (
        Command(
            "bt", "[COUNT] [full] [--all|--pid N|...]", "stack frames", "named",
            more="bt 5     the innermost five; bt -5 the outermost\n"
            "bt full  with arguments and locals\n"
            "bt --all | --pid N | --thread N | --cpu N   of others\n"
            "bt --root CR3   stacks read under that root",
        ),
        Command(
            "frame", "[NUMBER]", "choose a frame of bt: its registers and variables are meant then",
            "stackframes", more="A call inlined in frame 3 is 3, what it was inlined into 3.1.",
        ),
        Command("up", "[COUNT]", "the frame that called this one", "stackframes"),
        Command("down", "[COUNT]", "the frame that this one called", "stackframes"),
        Command("args", "", "the arguments of the frame", "stackframes"),
        Command("locals", "", "the local variables of the frame", "stackframes"),
        Command("ps", "", "processes", "named"),
        Command("threads", "", "threads, both copies where two exist", "named"),
        Command("heap", "", "the kernel heap", "named"),
        Command("frames", "", "the frame allocator", "named"),
        Command(
            "symbol", "NAME|ADDRESS", "address of a name, name of an address", "named", "symbol"
        ),
        Command(
            "print", "[/F] EXPR", "a value: of the kernel, a register, an expression", "named",
            "value", True,
            f"{EXPRESSIONS}\n"
            "print/x and /d /u /o /t /a /c /z /f as in gdb. $ is the value printed last, $$ the "
            "one before, $1 the first.",
            formats=True,
        ),
        Command("type", "PATH", "layout of a Rust type", "named"),
        Command("list", "[LOCATION]", "source lines", "named", "code", more=LOCATIONS),
        Command("disassemble", "[LOCATION]", "instructions", "named", "code"),
    ),
    "guest's console": (
        Command(
            "console", "[PORT]", "type into the serial line; Ctrl-] comes back", "console",
        ),
        Command("send", "TEXT", "type a line into the first serial port", "console", raw=True),
        Command("script", "FILE", "lines `send TEXT` and `expect REGEX`", "console", "file"),
    ),
    "outside": (
        Command("set", "PLACE = EXPR", "a register or memory; $name keeps a value", "writing",
                "value", True, "Registers and memory only with `shell --write`.\n"
                "set rax = 1; set u64[rsp] = 0; set SCHEDULER.current_thread = 2; set $x = rdi"),
        Command(
            "gdb", "[EXPR]", "let your own gdb in, or ask a gdb of ours", "outside", "value", True,
            "gdb           opens a socket for `target remote`, beside us\n"
            "gdb EXPR      what gdb says of an expression\n"
            "gdb !COMMAND  what gdb prints for a command",
        ),
        Command("save", "FILE [tables|kernel|all]", "this stop as a snapshot", "outside", "file"),
        Command("ipython", "", "Python with `vm`, `stop` and `kernel` bound", "outside"),
    ),
    "session": (
        Command(
            "source", "DIR|FILE", "where the kernel's source lies; commands of a file", "scripting",
            "file",
        ),
        Command(
            "define", "NAME", "a command of your own, of the lines up to `end`", "scripting",
            more="$arg0, $arg1 and $argc in its lines are the words behind its name.",
        ),
        Command("display", "[/FMT] [EXPR]", "show it at every stop", "scripting", "value", True,
                "display/x rax, display/i rip; display alone lists.", formats=True),
        Command("undisplay", "[NUMBER...]", "show it no more", "scripting"),
        Command(
            "foreach", "process|thread|cpu COMMAND", "a command for each; {} is its number",
            "scripting", raw=True,
        ),
        Command("pipe", "COMMAND | SHELL", "an answer through a command of the system's",
                "scripting", raw=True, more="COMMAND | SHELL alone does for what takes no EXPR."),
        Command("shell", "COMMAND", "a command of the system's; short: !COMMAND", "scripting",
                raw=True),
        Command("help", "[COMMAND]", "this list, or one command", "session_commands", "command"),
        Command(
            "quit", "", "leave; a guest that we started ends, another is left as it was",
            "session_commands",
        ),
    ),
}  # fmt: skip

COMMANDS: dict[str, Command] = {c.name: c for group in GROUPS.values() for c in group}

ALIASES = {
    "rc": "reverse-continue", "rs": "reverse-step", "rn": "reverse-next",
    "rsi": "reverse-stepi",
    "c": "continue", "cont": "continue", "n": "next", "s": "step", "si": "stepi", "ni": "nexti",
    "b": "break", "tb": "tbreak", "i": "info", "f": "frame",
    "r": "registers", "regs": "registers", "q": "quit", "exit": "quit", "p": "print",
    "disas": "disassemble", "l": "list", "?": "help", "h": "help", "d": "delete", "!": "shell",
    "|": "pipe", "inspect": "print", "call": "print", "tele": "telescope", "vmmap": "map",
    "dq": "x", "find": "search",
    "backtrace": "bt", "where": "bt", "k": "context", "fin": "finish", "u": "until",
    "python": "ipython", "points": "break",
}  # fmt: skip


ELSEWHERE = {
    "log": "serial", "snapshot": "save", "report": "audit", "explain": "fault", "run": "continue",
    "pt": "walk, map, who, roots", "start": "continue", "thread": "threads",
"examine": "x", "dump": "memory",
}  # fmt: skip
"""What the command line and gdb call it, and the command here that comes nearest."""


def find(word: str, rest: str = "") -> Command:
    """The command of that name, or the only one that begins so. Raises `InputError`, which names
    the nearest; `rest` is what follows on the line, as in ``pt roots`` or ``info threads``."""
    word = ALIASES.get(word, word)
    if word in COMMANDS:
        return COMMANDS[word]
    begin = [name for name in COMMANDS if name.startswith(word)]
    if len(begin) == 1:
        return COMMANDS[begin[0]]
    near = begin or difflib.get_close_matches(word, [*COMMANDS, *ALIASES], 3)
    word_of = word.partition("/")[0]
    inner = rest.partition(" ")[0]
    if word_of in ELSEWHERE:
        near = [inner] if word_of == "pt" and inner in COMMANDS else [ELSEWHERE[word_of]]
    elif word_of in ALIASES:
        near = [ALIASES[word_of]]
    raise InputError(
        f"no command {word!r}", fix=f"did you mean {', '.join(near)}?" if near else "see: help"
    )


def overview(width: int = 100) -> str:
    """`help`: every command with one sentence."""
    lines = []
    for group, commands in GROUPS.items():
        lines.append(f"{group}:")
        for one in commands:
            head = f"  {f'{one.name} {one.usage}':<{USAGE}} "
            lines += _wrapped(f"{head}{one.help}", width, " " * (USAGE + 3))
    lines += _wrapped(
        "A command may be cut short; an empty line repeats a step. See: help COMMAND.", width, ""
    )
    return "\n".join(lines)


def explained(one: Command, width: int = 100) -> str:
    """`help COMMAND`."""
    short = [alias for alias, name in ALIASES.items() if name == one.name]
    lines = [f"{one.name} {one.usage}".rstrip(), *_wrapped(f"  {one.help}", width, "  ")]
    for line in one.more.splitlines():
        lines += _wrapped(f"  {line}", width, "    ")
    if short:
        lines.append(f"  short: {', '.join(short)}")
    return "\n".join(lines)


def _wrapped(text: str, width: int, hanging: str) -> list[str]:
    return textwrap.wrap(
        text, max(width, 2 * USAGE), subsequent_indent=hanging, break_on_hyphens=False
    )
