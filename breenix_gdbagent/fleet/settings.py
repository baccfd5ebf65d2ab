"""What differs between the boots of a hunt, drawn from one seed: boot N has the same settings
wherever and whenever it runs."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.jsonvalue import Json

Settings = Mapping[str, Json]
"""One boot's settings by their dimension; what is not varied is not in it."""

SHIFTS = range(11)
"""2**shift nanoseconds an instruction; QEMU takes 0 to 10 (docs/devel/tcg-icount)."""
CPUS = (1, 2, 4)
MEMORY_STEPS = range(16, 65)
"""Sixteenths of the machine's own RAM."""
PAUSES = 4
EARLIEST, LATEST = 0.02, 20.0
"""Seconds from the start between which the guest is disturbed, each octave as often."""
SHORTEST, LONGEST = 0.0005, 0.02
"""Seconds that a pause lasts: from a tenth of a tick to some of them."""
KINDS = ("none", "key", "serial", "nmi")


def _seed(rng: random.Random, memory: int) -> Json:
    """For ``-seed``: what the guest gets from RDRAND, RDSEED and virtio-rng."""
    return rng.randrange(1 << 32)


def _memory(rng: random.Random, memory: int) -> Json:
    """MiB: the machine's own, or up to four times as much."""
    return max(1, (memory >> 24) * rng.choice(MEMORY_STEPS))


def _smp(rng: random.Random, memory: int) -> Json:
    return rng.choice(CPUS)


def _clock(rng: random.Random, memory: int) -> Json:
    """The instruction counter's shift: how many instructions there are between two ticks."""
    return rng.choice(SHIFTS)


def _delay(rng: random.Random, memory: int) -> Json:
    """Pauses [at, for] in seconds: the guest stands still and its clock goes on."""
    return [[_moment(rng), round(_octaves(rng, SHORTEST, LONGEST), 5)] for _ in range(PAUSES)]


def _irq(rng: random.Random, memory: int) -> Json:
    """{kind, at}: a device interrupt, and when."""
    kind = rng.choice(KINDS)
    times = [] if kind == "none" else sorted(_moment(rng) for _ in range(PAUSES))
    return {"kind": kind, "at": cast("list[Json]", times)}


def _moment(rng: random.Random) -> float:
    return round(_octaves(rng, EARLIEST, LATEST), 4)


def _octaves(rng: random.Random, low: float, high: float) -> float:
    return low * math.exp(math.log(high / low) * rng.random())


DIMENSIONS: dict[str, Callable[[random.Random, int], Json]] = {
    "seed": _seed,
    "memory": _memory,
    "smp": _smp,
    "clock": _clock,
    "delay": _delay,
    "irq": _irq,
}


def parse_vary(text: str) -> tuple[str, ...]:
    """``seed,memory``: dimensions, in their own order. Raises `InputError`."""
    named = [word.strip() for word in text.split(",") if word.strip()]
    for word in named:
        if word not in DIMENSIONS:
            raise InputError(
                f"--vary {text}: there is no {word!r} to vary",
                fix=f"some of {', '.join(DIMENSIONS)}",
            )
    if not named:
        raise InputError("--vary names nothing", fix=f"some of {', '.join(DIMENSIONS)}")
    return tuple(name for name in DIMENSIONS if name in named)


def draw(seed: int, number: int, vary: Sequence[str], memory: int) -> dict[str, Json]:
    """The settings of boot `number`. `memory` is the machine's own, in bytes. A dimension's value
    is the same whatever others are varied."""
    return {
        name: DIMENSIONS[name](random.Random(f"{seed}/{number}/{name}"), memory) for name in vary
    }


def factors(settings: Settings) -> dict[str, str]:
    """Settings as what can be told apart in a table: few values each. A seed has none, for no two
    are alike; pauses are told by how long the guest stood in all."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if name == "memory":
            low = 1 << (cast(int, value).bit_length() - 1)
            found["memory"] = f"{low} to {2 * low - 1} MiB"
        elif name == "smp":
            found["smp"] = f"{value} CPU" + "s" * (value != 1)
        elif name == "clock":
            found["clock"] = f"shift {value}"
        elif name == "irq":
            found["irq"] = str(cast("dict[str, Json]", value)["kind"])
        elif name == "delay":
            stood = sum(cast(float, pause[1]) for pause in cast("list[list[Json]]", value))
            found["delay"] = "pauses of 20 ms and more" if stood >= 0.02 else "shorter pauses"
    return found
