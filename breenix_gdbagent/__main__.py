"""``breenix-gdbagent`` and ``python -m breenix_gdbagent``."""

from __future__ import annotations

import sys


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code is the contract's."""
    from breenix_gdbagent.commands import run

    return run(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
