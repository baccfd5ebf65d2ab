"""What shows a finding, as typed columns: each family of checks has a frozen dataclass of its own.

The type of a field says how every output has it: an address, a register or a table entry is a
`VirtAddr`, `PhysAddr` or `Hex`, a number that is counted an ``int``, and a `Walk` or a `Space` is
itself. A type that evidence has in words (`AddressKind`) has its phrase in report/wording. Markers
in ``Annotated`` say the rest::

    deviation: Annotated[str, IF_KNOWN] = ""          left out where there is nothing
    list_heap: Annotated[Bump | None, SPREAD] = None  its columns among these, none where None
    spaces: Annotated[tuple[Space, ...], SHORT]       by their labels alone
    symbol: Annotated[str | None, ASIDE]              for the sentence, and in no evidence
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Column(Enum):
    """How a field is shown where its type does not say so."""

    IF_KNOWN = "left out where it is None or empty"
    SPREAD = "the columns of these facts among those of the facts that hold them"
    SHORT = "address spaces by their labels"
    ASIDE = "told in the sentences only"


IF_KNOWN, SPREAD, SHORT, ASIDE = Column.IF_KNOWN, Column.SPREAD, Column.SHORT, Column.ASIDE


@dataclass(frozen=True, slots=True)
class Place:
    """An address with the symbol there."""

    va: int
    symbol: str | None


@dataclass(frozen=True, slots=True)
class Facts:
    """The base of them all, and the facts of a finding that has none besides its place."""

    @property
    def about(self) -> str | None:
        """The stable name of the thing that is wrong, where the finding's subject is another (the
        space in which a stack is missing): two checks that say the same of it say it once."""
        return None
