"""``init machine``: a file for another kernel, to be changed by whose kernel it is; the other
kinds of ``init`` are those of `init_clients`."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from breenix_gdbagent import configs
from breenix_gdbagent.commands import Parser
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.patterns import compiled
from breenix_gdbagent.targets.booting import MACHINES, machine_of_image, machine_of_kernel
from breenix_gdbagent.wholefile import appearing

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def run(name: str, argv: list[str]) -> int:
    """``init machine``, see the parser; ``init agent``, ``init editor``."""
    if argv[:1] in (["agent"], ["editor"]):
        from breenix_gdbagent.commands import init_clients

        return (init_clients.agent if argv[0] == "agent" else init_clients.editor)(argv[1:])
    options = build(name).parse_args(argv)
    boot = options.boot or _seen(options.image, options.kernel)
    text = machine_text(boot, options.name, options.success, options.memory, options.smp)
    path: Path = options.output or Path(f"{options.name}.toml")
    if path.exists() and not options.force:
        raise InputError(f"{path} is there already", fix="name another one by -o, or use --force")
    with appearing(path) as out:
        out.write(text.encode())
    image = "" if boot == "kernel" else f" --image {options.image or 'IMG'}"
    print(f"{path}: {configs.load(boot).about}")
    if options.success is None:
        print('  what your kernel prints when all went well: success = "..." under [markers]')
    print("next:")
    print(f"  breenix-gdbagent ci --config {path}{image} --kernel {options.kernel or 'ELF'}")
    return 0


_WHAT = "machine: QEMU's arguments, as TOML; agent, editor: see `init agent --help`"


def build(name: str) -> Parser:
    """The options of `init`."""
    parser = Parser("breenix-gdbagent init")
    parser.add_argument("what", choices=("machine", "agent", "editor"), help=_WHAT)
    add = parser.add_argument
    add("--boot", choices=MACHINES, help="how it boots; else seen in --image or --kernel")
    add("--image", type=Path, metavar="IMG", help="the ISO or disk image that boots")
    add("--kernel", type=Path, metavar="ELF", help="the kernel's ELF")
    add("--name", type=_name, default="mykernel", help="the machine's name (mykernel)")
    add("--success", type=_regex, metavar="REGEX", help="serial text that ends a good run")
    add("--memory", metavar="SIZE", help="RAM, as QEMU has it (256M)")
    add("--smp", type=int, metavar="N", help="CPUs")
    add("-o", "--output", type=Path, metavar="FILE", help="default: NAME.toml")
    add("--force", action="store_true", help="replace a file that is there")
    return parser


def _name(text: str) -> str:
    if _NAME.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no name: small letters, digits, - and _")
    return text


def _regex(text: str) -> str:
    compiled(text, "--success")
    return text


def _seen(image: Path | None, kernel: Path | None) -> str:
    """The machine that fits the files. Raises `InputError` where they do not tell."""
    if image is not None:
        return machine_of_image(image)
    if kernel is None:
        raise InputError(
            "nothing says how it boots",
            fix=f"give --image IMG, --kernel ELF or --boot {'|'.join(MACHINES)}",
        )
    found = machine_of_kernel(kernel)
    if found is None:
        raise InputError(
            f"{kernel.name} is no kernel that QEMU loads by -kernel",
            "it has neither a PVH note nor, as a 32-bit ELF, a multiboot header: "
            "a boot loader starts it",
            "give the ISO or disk image as well: --image IMG",
        )
    return found


def machine_text(
    boot: str, name: str, success: str | None, memory: str | None, smp: int | None
) -> str:
    """The machine `boot` of the package as a file of one's own: it reads as that machine, but for
    what is given. Raises `InputError` for a setting that is none."""
    configs.load(boot).with_settings(memory=memory, smp=smp).settings.memory_bytes  # noqa: B018
    text = (configs.directory() / f"{boot}.toml").read_text("utf-8")
    text = text.replace(f'name = "{boot}"', f'name = "{name}"')
    text = text.replace(f"breenix-gdbagent-{boot}", f"breenix-gdbagent-{name}")
    _, _, rest = text.partition("\n# Placeholders: ")
    first = text.partition("\n")[0]
    text = f"{first}\n# {_PLACEHOLDERS}{rest.partition(chr(10))[2]}"
    if success is not None:
        text = text.replace("[markers]\n", f"[markers]\nsuccess = {_toml(success)}\n")
    if memory is not None:
        text = re.sub(r'(?m)^memory = ".*"$', f'memory = "{memory}"', text)
    if smp is not None:
        text = re.sub(r"(?m)^smp = .*$", f"smp = {smp}", text)
    return text


_PLACEHOLDERS = """One list is one part of QEMU's command line. Placeholders: {accel} {memory} {cpu}
# {smp} (settable), {kernel} {append} {image} {disk} {n} (files of the run), {run} {ram} {gdb_fd}
# {qmp_fd} (how the agent holds the guest), {firmware_code} {firmware_vars}.
"""


def _toml(text: str) -> str:
    """As a TOML string: literal where it can be, so that a regular expression stays readable."""
    if "'" not in text and text.isprintable():
        return f"'{text}'"
    import json

    return json.dumps(text, ensure_ascii=True)
