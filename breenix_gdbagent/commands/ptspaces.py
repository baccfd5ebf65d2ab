"""``pt map``, ``who``, ``roots``, ``diff``: whole address spaces."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from breenix_gdbagent.addresses import VirtAddr, hex64
from breenix_gdbagent.arch.spaces import Range
from breenix_gdbagent.commands.examined import kernel_of
from breenix_gdbagent.commands.output import print_json
from breenix_gdbagent.commands.target import Target
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.locations import parse_address, parse_number
from breenix_gdbagent.report.tables import spaces_json, spaces_text
from breenix_gdbagent.views.roots import root_of, root_of_pid


def answer(target: Target, options: argparse.Namespace) -> int:
    """One question about whole spaces."""
    with kernel_of(target) as kernel:
        return VERBS[options.verb](kernel, options)


def _map(kernel: Kernel, options: argparse.Namespace) -> int:
    from breenix_gdbagent.report.mappings import map_json, map_text
    from breenix_gdbagent.views.space_listing import space_listing

    root = root_of(kernel, options.root, options.pid)
    space = kernel.merged.space(root)
    ranges = _filtered(space.ranges, options)
    if options.json:
        print_json(map_json(space, ranges))
    else:
        print(map_text(space_listing(kernel, space, ranges)))
    return 0 if ranges else 1


def _filtered(ranges: Sequence[Range], options: argparse.Namespace) -> list[Range]:
    low, high = 0, 1 << 64
    if options.range is not None:
        first, _, last = options.range.partition("-")
        bounds = parse_number(first), parse_number(last)
        if bounds[0] is None or bounds[1] is None or bounds[0] >= bounds[1]:
            raise InputError(f"--range {options.range!r} is not FROM-TO", fix="write 0x...-0x...")
        low, high = bounds[0], bounds[1]
    return [
        Range(max(r.start, VirtAddr(low)), min(r.end, VirtAddr(high)), *r[2:])
        for r in ranges
        if r.end > low
        and r.start < high
        and (r.w or not options.w)
        and (not r.nx or not options.x)
        and (r.u or not options.u)
        and (not r.u or not options.s)
    ]


def _who(kernel: Kernel, options: argparse.Namespace) -> int:
    if options.va is not None:
        return _in_the_way(kernel, options)
    if options.root is not None or options.pid is not None:
        raise InputError("--root and --pid go with `pt who --va`", fix="leave them out")
    from breenix_gdbagent.report.frame import who_json, who_text
    from breenix_gdbagent.views.frame_users import frame_users

    pa = parse_number(options.pa)
    if pa is None:
        raise InputError(f"{options.pa!r} is no physical address", fix="write it as 0x...")
    who = frame_users(kernel, pa)
    if options.json:
        print_json(who_json(who))
    else:
        print(who_text(who))
    return 0 if who.mappings or who.tables else 1


def _in_the_way(kernel: Kernel, options: argparse.Namespace) -> int:
    from breenix_gdbagent.checks.mapping import obstacle
    from breenix_gdbagent.report.obstacles import obstacle_json, obstacles_text

    va = parse_address(options.va, kernel.stop.image)
    spaces = list(kernel.audited)
    if options.root is not None or options.pid is not None:
        root = root_of(kernel, options.root, options.pid)
        space = kernel.space_of(root)
        if space is None:
            raise InputError(f"{hex64(root)} is no root that is known", fix="see `pt roots`")
        spaces = [space]
    found = [obstacle(kernel, va, space) for space in spaces]
    if options.json:
        print_json(list[Json](obstacle_json(one) for one in found))
    else:
        print(obstacles_text(found) or "no address space is known")
    return 0 if any(one.taken for one in found) else 1


def _diff(kernel: Kernel, options: argparse.Namespace) -> int:
    from breenix_gdbagent.report.mappings import changes_json, changes_text
    from breenix_gdbagent.views.changes import space_changes

    before, after = (_named_root(kernel, text) for text in (options.before, options.after))
    first, second = kernel.merged.space(before), kernel.merged.space(after)
    found, gaps = space_changes(first, second), (*first.gaps, *second.gaps)
    if options.json:
        print_json(changes_json(found, gaps))
    else:
        print(changes_text(found, gaps))
    return 1 if found or gaps else 0


def _named_root(kernel: Kernel, text: str) -> int:
    if text.startswith("pid:"):
        return root_of_pid(kernel, text[4:])
    if text == "master" and kernel.master is not None:
        return kernel.master.root
    root = parse_number(text)
    if root is None:
        raise InputError(f"{text!r} names no address space", fix="write 0x..., pid:N or master")
    return root


def _roots(kernel: Kernel, options: argparse.Namespace) -> int:
    if options.json:
        print_json(spaces_json(kernel.spaces))
    else:
        print(spaces_text(kernel.spaces, kernel.no_roots))
    return 0 if kernel.spaces else 1


VERBS: dict[str, Callable[[Kernel, argparse.Namespace], int]] = {
    "map": _map,
    "who": _who,
    "roots": _roots,
    "diff": _diff,
}
