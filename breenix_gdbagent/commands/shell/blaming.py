"""``blame``: what WinDbg's ``!analyze`` ends with: module, function, bucket."""

from __future__ import annotations

from breenix_gdbagent.commands.shell.line import Line, arguments
from breenix_gdbagent.commands.shell.session import Session
from breenix_gdbagent.views.blame import blame


def do_blame(session: Session, line: Line) -> int:
    arguments(line)
    with session.while_stopped():
        found = blame(session.examine(), session.kernel)
    if found is None:
        print("nothing to blame: no finding of severity error")
        return 1
    print(f"MODULE    {found.module}")
    print(f"FUNCTION  {found.function}" + (f"  ({found.place})" if found.place else ""))
    print(f"BUCKET    {found.bucket}")
    return 0
