"""What each command is for, with examples: of ``--help``, of the man page and of the docs.

Read only where help is wanted. The options say themselves what they do, where they are declared.
"""

from __future__ import annotations

from typing import NamedTuple

PROGRAM = "breenix-gdbagent"


class Page(NamedTuple):
    """One command: what it does, and commands to copy, each with what it is for."""

    text: str
    examples: tuple[tuple[str, str], ...]


PAGES = {
    "ci": Page(
        "Boots a kernel (or watches one that runs), lets it run until serial text matches or the "
        "time is up, and asserts that nothing faulted and that every table is sound. Exit 0: it "
        "is; 1: a finding of severity error; 4: the deadline passed and nothing worse was found.",
        (
            ("the lab guest, into a fault", "ci --lab guard-page"),
            (
                "a job: snapshot, JUnit and annotations",
                "ci --breenix . --timeout 120 -o fault.snapshot --junit junit.xml --github",
            ),
            ("a fault that has to come", "ci --lab guard-page --expect page-fault.guard-page"),
        ),
    ),
    "record": Page(
        "Does what ci does, and keeps the run in a directory of which any moment can be had again.",
        (
            ("record a run of the lab guest", "record --lab kernel-stack-unmapped -o run"),
            ("record your kernel", "record --breenix ~/breenix --timeout 120 -o run"),
        ),
    ),
    "when": Page(
        "Finds the first moment of a recording at which a finding holds, and the instruction that "
        "made it hold. Exit 1 where there is no such moment.",
        (
            ("all findings of the end", "when run --every"),
            ("one of them, as JSON", "when run kernel-stack.unmapped --json"),
        ),
    ),
    "who-wrote": Page(
        "Lists every write of a physical place over a recording, by whatever address it was made, "
        "oldest first. Exit 1 where nothing wrote it.",
        (
            ("who wrote a word of RAM", "who-wrote run 0x300118"),
            ("who wrote the page-table entry", "who-wrote run 'entry 0xffffc90000022ed0'"),
        ),
    ),
    "last": Page(
        "Walks back over the writes of a variable in a recording. Exit 1 where nothing wrote it.",
        (
            ("the last ten", "last run SCHEDULER.current_thread"),
            ("the last before a moment", "last run SCHEDULER.current_thread --at 1.5s --count 1"),
        ),
    ),
    "trace": Page(
        "Prints values at places of a recorded run, as if the kernel had printed them there.",
        (
            ("a register at each system call", "trace run 'syscall_entry rax'"),
            ("only where it counts", "trace run 'syscall_entry rax, rdi if rax != 39'"),
        ),
    ),
    "profile": Page(
        "Says where the instructions of a recorded run went, by function: it looks at moments "
        "that are spread evenly, the same ones each time.",
        (
            ("a thousand moments", "profile run"),
            ("finer, as JSON", "profile run --samples 5000 --json"),
        ),
    ),
    "snapshot": Page(
        "Boots or attaches, stops at the first unexpected fault (or --now, --until, --at), "
        "examines the stop and writes one file, breenix.snapshot if -o names no other. The file is "
        "an ELF core that gdb opens, and it keeps the report.",
        (
            ("boot to the first fault", "snapshot --breenix ~/breenix -o fault.snapshot"),
            (
                "a QEMU that runs, as it stands",
                "snapshot --gdb unix:gdb.sock --qmp qmp.sock -o now.snapshot",
            ),
        ),
    ),
    "report": Page(
        "Shows a snapshot's report again, offline: the one that the file keeps, or with --anew one "
        "that is made of its memory again.",
        (
            ("in the terminal", "report fault.snapshot"),
            ("for a browser", "report fault.snapshot --html report.html"),
        ),
    ),
    "shell": Page(
        "Interactive debugging: breakpoints, steps, frames, variables, page tables, and the fault "
        "explained at every stop. `help` inside lists the commands. Without a target it takes the "
        "lab guest.",
        (
            ("your kernel", "shell --breenix ~/breenix"),
            (
                "a script: run to the fault, explain it",
                "shell --lab guard-page -c continue -c fault",
            ),
        ),
    ),
    "audit": Page(
        "Makes all checks on any target: what ci says of a run, report of a file, snapshot of a "
        "guest as it stands. Exit 1 for a finding of severity error.",
        (
            ("a snapshot", "audit --snapshot fault.snapshot"),
            (
                "a QEMU that runs; it goes on afterwards",
                "audit --gdb unix:gdb.sock --qmp qmp.sock --kernel kernel.elf",
            ),
        ),
    ),
    "diff": Page(
        "Compares two snapshots, of a run that works and of one that does not: spaces, mappings, "
        "findings, processes. Exit 1 where they differ.",
        (
            ("in the terminal", "diff good.snapshot bad.snapshot"),
            ("for a browser", "diff good.snapshot bad.snapshot --html diff.html"),
        ),
    ),
    "log": Page(
        "Shows the serial text of a run or a snapshot, as lines with level and port. Exit 1 where "
        "no line matches.",
        (
            ("errors of a snapshot", "log fault.snapshot --level error"),
            ("what came around a finding", "log fault.snapshot --around double-fault"),
        ),
    ),
    "explain": Page(
        "Explains a finding code (how it arises, how to confirm and mend it), a page-fault error "
        "code, or a fault line pasted from a log. Exit 1 where it is none of them.",
        (
            ("a finding code", "explain kernel-stack.unmapped"),
            ("an error code of #PF", "explain 0x6"),
        ),
    ),
    "pt": Page(
        "Asks page tables of any target. Without a target it takes the lab guest.",
        (
            ("where an address leads", "pt walk 0xffffc90000032ff8 --snapshot fault.snapshot"),
            ("every address space", "pt roots --lab"),
        ),
    ),
    "pt walk": Page(
        "Shows where addresses lead, level by level, with the rights of the whole way. Exit 1 "
        "where one is not mapped.",
        (
            ("an address in a process", "pt walk 0x40000000 --pid 2 --lab"),
            ("a thousand, one a line", "pt walk - --snapshot fault.snapshot --json"),
        ),
    ),
    "pt map": Page(
        "Lists all that one address space maps, merged by rights. Exit 1 where that is nothing.",
        (
            ("the CPU's own space", "pt map --snapshot fault.snapshot"),
            ("what is writable and executable", "pt map -w -x --pid 2 --lab"),
        ),
    ),
    "pt who": Page(
        "Says who maps a physical address; or, with --va, what a mapping of a virtual address "
        "would meet in each space. Exit 1 for nobody.",
        (
            ("who maps a frame", "pt who 0x2ad000 --snapshot fault.snapshot"),
            ("what stands in the way", "pt who --va 0x40000000 --lab"),
        ),
    ),
    "pt roots": Page(
        "Lists every address space that is found, with its role, its process, and whether it is "
        "alive.",
        (
            ("of the lab guest", "pt roots --lab"),
            ("of a snapshot, as JSON", "pt roots --snapshot fault.snapshot --json"),
        ),
    ),
    "pt diff": Page(
        "Compares two spaces of one stop, or the spaces of two saved stops. Exit 1 where they "
        "differ.",
        (
            (
                "a process against the master",
                "pt diff master pid:2 --snapshot fault.snapshot",
            ),
            ("two snapshots", "pt diff good.snapshot bad.snapshot"),
        ),
    ),
    "bt": Page(
        "Shows stack frames: of the CPUs, of a process, a thread, or of all; inlined calls and "
        "frames below an exception included.",
        (
            ("every CPU and thread", "bt --all --snapshot fault.snapshot"),
            ("with variables", "bt full --lab guard-page"),
        ),
    ),
    "ps": Page(
        "Lists the kernel's processes.",
        (
            ("at the lab guest's end", "ps --lab"),
            ("of a snapshot, as JSON", "ps --snapshot fault.snapshot --json"),
        ),
    ),
    "threads": Page(
        "Lists the kernel's threads, both copies where two exist.",
        (
            ("at the lab guest's end", "threads --lab"),
            ("of a snapshot", "threads --snapshot fault.snapshot"),
        ),
    ),
    "locks": Page(
        "Lists the locks that are taken, the CPUs that spin on them, and who holds each where a "
        "backtrace shows the guard.",
        (
            ("of a guest that hangs", "locks --lab lock-deadlock --timeout 10"),
            ("of a snapshot, as JSON", "locks --snapshot hang.snapshot --json"),
        ),
    ),
    "heap": Page(
        "Shows the kernel heap: what is used, what is free, and whether its list is whole.",
        (
            ("at the lab guest's end", "heap --lab"),
            ("of a snapshot", "heap --snapshot fault.snapshot"),
        ),
    ),
    "frames": Page(
        "Shows the frame allocator: what it has, what is used, what is free.",
        (
            ("at the lab guest's end", "frames --lab"),
            ("of a snapshot", "frames --snapshot fault.snapshot"),
        ),
    ),
    "symbol": Page(
        "Gives the address of a name, or the name of an address. Exit 1 where there is none. With "
        "--kernel alone no guest is needed.",
        (
            ("a name", "symbol kernel_main --kernel kernel.elf"),
            ("an address of a stop", "symbol 0x8000027f77 --snapshot fault.snapshot"),
        ),
    ),
    "print": Page(
        "Prints a value of the kernel: a static, a field of it, a register, an expression.",
        (
            ("a static", "print SCHEDULER --lab"),
            (
                "a field, in hexadecimal",
                "print --format x SCHEDULER.current_thread --snapshot fault.snapshot",
            ),
        ),
    ),
    "type": Page(
        "Shows the layout of a Rust type: fields, offsets, sizes, variants. With --kernel alone no "
        "guest is needed.",
        (
            ("by its last name", "type Thread --kernel kernel.elf"),
            ("as JSON", "type Scheduler --lab --json"),
        ),
    ),
    "list": Page(
        "Shows source lines around RIP or a location. With --kernel alone no guest is needed.",
        (
            ("where the CPU stands", "list --snapshot fault.snapshot --source ~/breenix"),
            ("a function", "list kernel_main --kernel kernel.elf --source ~/breenix"),
        ),
    ),
    "disassemble": Page(
        "Shows instructions around RIP or at a location. With --kernel alone no guest is needed.",
        (
            ("where the CPU stands", "disassemble --snapshot fault.snapshot"),
            ("a function", "disassemble syscall_entry --count 20 --kernel kernel.elf"),
        ),
    ),
    "hunt": Page(
        "Boots a kernel many times with settings that are drawn (seed, memory, CPUs, clock, "
        "delays), and puts what fails into clusters, with how often each came. Exit 1 for an "
        "error.",
        (
            ("a hundred boots of the lab guest", "hunt --lab log-error --boots 100 -o hunted"),
            ("until a double fault comes", "hunt --breenix . --until-found double-fault -o hunted"),
            ("go on with one", "hunt --resume hunted"),
        ),
    ),
    "hunt report": Page(
        "Tells a hunt that was made, again: terminal, JSON, HTML, JUnit, annotations.",
        (
            ("in the terminal", "hunt report hunted"),
            ("for a browser", "hunt report hunted --html hunt.html"),
        ),
    ),
    "lint": Page(
        "Reads the code of every gate, of system calls and of the switch, without booting: "
        "registers that are lost, a stack that is not aligned, swapgs that does not pair, a "
        "missing cld. Exit 1 where something is wrong.",
        (
            ("a kernel", "lint --kernel kernel.elf"),
            ("as JSON", "lint --kernel kernel.elf --json"),
        ),
    ),
    "mcp": Page(
        "Serves the Model Context Protocol on stdio: tools by which a coding agent launches a "
        "kernel, runs it, and asks why it faulted. Needs the extra [mcp].",
        (
            ("as a client starts it", "mcp"),
            ("with the kernel's source, and writing", "mcp --source ~/breenix --write"),
        ),
    ),
    "dap": Page(
        "Serves the Debug Adapter Protocol on stdio, for editors; `init editor` writes what VS "
        "Code needs to start it.",
        (
            ("as an editor starts it", "dap"),
            ("with the kernel's source", "dap --source ~/breenix"),
        ),
    ),
    "lab": Page(
        "Lists the lab guest's scenarios: what each shows, and the codes that ci must give for it.",
        (
            ("all of them", "lab"),
            ("one, as JSON", "lab guard-page --json"),
        ),
    ),
    "init": Page(
        "Writes files for a kernel of your own: a machine's TOML (`machine`), a skill for coding "
        "agents (`agent`), launch configurations for an editor (`editor`).",
        (
            ("a machine, seen in the ELF", "init machine --kernel kernel.elf --name mine"),
            ("a machine that boots an ISO", "init machine --image os.iso --success 'login:'"),
        ),
    ),
    "init agent": Page(
        "Writes a skill folder and a section of AGENTS.md into a kernel's repository, which teach "
        "coding agents the command line.",
        (
            ("into the repository here", "init agent"),
            ("into another, for another client", "init agent ~/breenix --skills .agents/skills"),
        ),
    ),
    "init editor": Page(
        "Writes launch configurations of VS Code into a kernel's repository, and the local "
        "extension that declares the debugger.",
        (
            ("into the repository here", "init editor"),
            ("anew into another", "init editor ~/breenix --force"),
        ),
    ),
    "selftest": Page(
        "Runs the page-fault matrix on this machine's QEMU: every combination of access and "
        "rights, what the CPU pushed against what the tables say. Exit 1 where they differ.",
        (
            ("the matrix", "selftest"),
            ("as JSON", "selftest --json"),
        ),
    ),
    "doctor": Page(
        "Says what this machine has and lacks, with the line that installs it; and what a kernel's "
        "ELF offers. Exit 1 where something needed is missing.",
        (
            ("this machine", "doctor"),
            ("and a kernel", "doctor --kernel kernel.elf"),
        ),
    ),
    "completion": Page(
        "Prints the completion of a shell, for commands, options, scenarios and finding codes.",
        (
            (
                "bash, from the next session on",
                "completion bash > ~/.local/share/bash-completion/completions/breenix-gdbagent",
            ),
            (
                "zsh, in a directory of $fpath",
                "completion zsh > ~/.zfunc/_breenix-gdbagent",
            ),
            (
                "fish",
                "completion fish > ~/.config/fish/completions/breenix-gdbagent.fish",
            ),
        ),
    ),
}  # fmt: skip


def page_of(program: str) -> Page | None:
    """The page of a parser's `prog`; None for one that is no command of ours."""
    return PAGES.get(program.removeprefix(PROGRAM).strip())


def examples(page: Page) -> str:
    """The examples as ``--help`` shows them."""
    lines = [f"  {PROGRAM} {line}\n      {what}" for what, line in page.examples]
    return "\n".join(("examples:", *lines)) + "\n"
