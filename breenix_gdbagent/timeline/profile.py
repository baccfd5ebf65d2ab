"""Where the instructions of a recording went: the function at many moments, evenly spread."""

from __future__ import annotations

from collections import Counter

from breenix_gdbagent.timeline.player import Player

FIRMWARE = "code outside of the kernel"


def profile(player: Player, samples: int) -> Counter[str]:
    """How many of the moments lie in each function; ring 3 is one. It is one replay forwards.
    Raises `LinkError`."""
    begin, end = player.manifest.begin, player.manifest.end.icount
    found: Counter[str] = Counter()
    bias = player.manifest.bias
    image = None if bias is None else player.image.loaded(bias)
    for number in range(samples):
        player.vm.seek(begin + (end - begin) * number // samples)
        registers = player.vm.registers
        if registers.get("cs", 0) & 3:
            found["ring 3"] += 1
            continue
        name = None if image is None else image.name_of(player.vm.pc() or 0)
        found[FIRMWARE if name is None else name.rpartition("+")[0] or name] += 1
    return found
