"""The shell's commands on a recording: to a moment, and backwards."""

from __future__ import annotations

from breenix_gdbagent.commands.shell.line import Line, arguments, count_of
from breenix_gdbagent.commands.shell.session import Session
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.timeline.travel import Traveller


def traveller(session: Session) -> Traveller:
    """Raises `InputError` where the guest is no recording."""
    found = session.traveller
    if not isinstance(found, Traveller):
        raise InputError(
            "only a recording goes back in time",
            fix="record -o DIR makes one; then: shell --replay DIR",
        )
    return found


def do_goto(session: Session, line: Line) -> int:
    travel = traveller(session)
    if not line.text:
        raise InputError("goto where?", fix="goto COUNT|TIME|MARKER|BOOKMARK|end")
    with session.while_stopped():
        moment = travel.moment(line.text.strip("'\""))
    return session.run(lambda: travel.go_to(moment))


def do_bookmark(session: Session, line: Line) -> int:
    """Without a name: those there are."""
    travel = traveller(session)
    if not line.text:
        for name, moment in travel.bookmarks.items():
            print(f"{name}  {moment.icount:,}")
        return 0
    with session.while_stopped():
        print(f"{line.text} is instruction {travel.mark(line.text).icount:,}")
    return 0


def do_reverse_continue(session: Session, line: Line) -> int:
    arguments(line)
    return session.run(traveller(session).back_to_point)


def do_reverse_step(session: Session, line: Line) -> int:
    arguments(line)
    travel = traveller(session)
    return session.run(lambda: travel.back_line(over=False))


def do_reverse_next(session: Session, line: Line) -> int:
    arguments(line)
    travel = traveller(session)
    return session.run(lambda: travel.back_line(over=True))


def do_reverse_stepi(session: Session, line: Line) -> int:
    count = count_of(arguments(line, ("count", "?")).count, "instructions")
    travel = traveller(session)
    return session.run(lambda: travel.back(count))


def do_reverse_finish(session: Session, line: Line) -> int:
    arguments(line)
    return session.run(traveller(session).back_out)


def do_last(session: Session, line: Line) -> int:
    from breenix_gdbagent.report.writes import write_rows

    travel = traveller(session)
    if not line.text:
        raise InputError("last write of what?", fix="last EXPR, as in: last SCHEDULER.current")
    with session.while_stopped():
        found = travel.last(line.text)
    if found is None:
        print(f"nothing has written {line.text} before this moment")
        return 1
    write, event = found
    print("\n".join(write_rows([write])))
    return session.run(lambda: event)


def do_when(session: Session, line: Line) -> int:
    """Stands there then."""
    from breenix_gdbagent.commands.when import reader
    from breenix_gdbagent.report.moments import origin_text
    from breenix_gdbagent.timeline.player import Moment
    from breenix_gdbagent.timeline.when import When, parse_code

    travel = traveller(session)
    code, subject = parse_code(line.text.strip())
    with session.while_stopped():
        origin = When(travel.player).first(code, subject)
    last = travel.player.manifest.end.icount
    print(origin_text(origin, reader(next(iter(session.sources), None)), last))
    if origin.place is None:
        return 1
    at = origin.place.icount
    session.run(lambda: travel.go_to(Moment(at)))
    return int(origin.status != "found")
