"""What an editor needs to start us: for VS Code a debugger of type ``breenix``, and launch
configurations that use it."""

from __future__ import annotations

import json

from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.version import VERSION

TYPE = "breenix"
EXTENSION = ".vscode/extensions/breenix-gdbagent/package.json"
LAUNCH = ".vscode/launch.json"
_TEXT: Json = {"type": "string"}
_TEXTS: Json = {"type": "array", "items": {"type": "string"}}
_BOOTED: dict[str, Json] = {
    "lab": {"type": "string", "description": "a scenario of the lab guest"},
    "breenix": {"type": "string", "description": "a built checkout"},
    "image": {"type": "string", "description": "a disk image, with kernel"},
    "kernel": {"type": "string", "description": "the kernel's ELF"},
    "config": {"type": "string", "description": "the machine: a name or a TOML file"},
    "disks": _TEXTS,
    "smp": {"type": "integer"},
    "deterministic": {"type": "boolean"},
    "replay": {"type": "string", "description": "a recording"},
    "snapshot": {"type": "string", "description": "a snapshot or core"},
    "stopOnEntry": {"type": "boolean"},
    "source": {"type": "string", "description": "where the kernel's source lies"},
}
_RUNNING: dict[str, Json] = {
    "gdb": {"type": "string", "description": "unix:PATH or HOST:PORT"},
    "qmp": _TEXT, "ram": _TEXT, "serial": _TEXT, "kernel": _TEXT, "source": _TEXT,
}  # fmt: skip


def extension(program: str) -> str:
    """A local extension that has nothing but the debugger's declaration. `program` is our own."""
    found: Json = {
        "name": "breenix-gdbagent",
        "displayName": "breenix_gdbagent",
        "description": "Debugs the Breenix kernel in QEMU from outside",
        "publisher": "local",
        "version": VERSION.partition(".dev")[0],
        "engines": {"vscode": "^1.89.0"},
        "categories": ["Debuggers"],
        "contributes": {
            "breakpoints": [{"language": "rust"}],
            "debuggers": [
                {
                    "type": TYPE,
                    "label": "Breenix kernel",
                    "program": program,
                    "args": ["dap"],
                    "languages": ["rust"],
                    "configurationAttributes": {
                        "launch": {"properties": _BOOTED},
                        "attach": {"required": ["gdb"], "properties": _RUNNING},
                    },
                }
            ],
        },
    }
    return _written(found)


def launch_configurations() -> str:
    """launch.json: boot this checkout, attach to a QEMU, the lab guest, a recording."""
    common: dict[str, Json] = {"type": TYPE, "source": "${workspaceFolder}"}
    found: Json = {
        "version": "0.2.0",
        "configurations": [
            {
                **common, "name": "Boot this kernel", "request": "launch",
                "breenix": "${workspaceFolder}",
            },
            {
                **common, "name": "Attach to QEMU", "request": "attach", "gdb": "localhost:1234",
                "kernel": "${workspaceFolder}/target/KERNEL_ELF",
            },
            {
                **common, "name": "Replay a recording", "request": "launch",
                "replay": "${workspaceFolder}/run",
            },
            {
                "type": TYPE, "name": "Lab guest: stack overflow", "request": "launch",
                "lab": "guard-page",
            },
        ],
    }  # fmt: skip
    return _written(found)


def _written(found: Json) -> str:
    return json.dumps(found, indent=2) + "\n"
