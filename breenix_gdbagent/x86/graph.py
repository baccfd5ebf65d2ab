"""The page tables of a stop as a graph: every table read once, whose it is, and links that are bad.

What several spaces share is visited once. A link that leads back to a table above it, or to where
there is no RAM, is noted and not followed, so that nothing which the guest does not really map is
taken for a mapping.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from breenix_gdbagent.addresses import PAGE, PhysAddr, VirtAddr, sign_extended
from breenix_gdbagent.errors import Unreadable
from breenix_gdbagent.memory import RamMap
from breenix_gdbagent.x86.paging import ADDRESS, LEVEL, NX, PS, P, Tables, U, W

MOST_TABLES = 1 << 16
"""Tables looked at: 128 MiB of address space by 4 KiB pages each way is far below it."""
MOST_BAD_LINKS = 1 << 12
_RIGHTS = W | U | NX


_PRESENT = bytes(low & P for low in range(256))


def _present(table: memoryview) -> Sequence[int]:
    """Indexes of the entries with P set; found in one string of bytes, since most tables are all or
    nothing."""
    flags = table.tobytes()[0::8].translate(_PRESENT)
    count = flags.count(1)
    if count in (0, 512):
        return range(count)
    found = []
    at = -1
    for _ in range(count):
        at = flags.find(1, at + 1)
        found.append(at)
    return found


@dataclass(frozen=True, slots=True)
class Link:
    """An entry that names a table: `raw`, at `entry_pa`, of a table of `level`, first reached under
    `root` for addresses from `va`."""

    root: PhysAddr
    va: VirtAddr
    raw: int
    entry_pa: PhysAddr
    level: int

    @property
    def table(self) -> PhysAddr:
        """The frame that is named."""
        return PhysAddr(self.raw & ADDRESS)


@dataclass(slots=True)
class Node:
    """One frame used as a table of `level`.

    `link` is how it was first reached (None: a root). `rights` are W and U by AND and NX (inverted)
    by AND over the entries on that way. `kernel` says that it serves a slot of the kernel, `owner`
    under which root it was first reached. `links` are (index, entry) of the entries that name
    tables; of those that map pages `at` has the indexes and `raws` the entries.
    """

    frame: PhysAddr
    level: int
    owner: PhysAddr
    kernel: bool
    link: Link | None
    va: int
    rights: int
    links: list[tuple[int, int]] = field(default_factory=list)
    at: Sequence[int] = ()
    raws: list[int] = field(default_factory=list)

    def leaves(self) -> Iterator[tuple[int, int]]:
        """(index, entry) of the entries that map pages."""
        return zip(self.at, self.raws, strict=True)

    def pages(self) -> list[tuple[int, int, int]]:
        """(index, entry, physical address of the page) of the entries that map pages."""
        bases = ADDRESS & -(1 << LEVEL[self.level].shift)
        return [(index, raw, raw & bases) for index, raw in self.leaves()]

    def frames(self) -> list[int]:
        """The frames that the entries name which map pages, in the order of `leaves`; of a large
        page with its PAT bit."""
        return [raw & ADDRESS for raw in self.raws]

    @property
    def shift(self) -> int:
        """log2 of the bytes that one entry serves."""
        return LEVEL[self.level].shift


@dataclass(frozen=True, slots=True)
class RootPlan:
    """A root to visit: its kernel slots first, then the others, which are its own."""

    root: PhysAddr
    kernel: Sequence[int]
    own: Sequence[int]


class TableGraph:
    """The tables of some roots, in the order given: what is shared belongs to the first.

    Give the master first, then the kernel's slots are its own and not a process's.
    """

    def __init__(
        self, tables: Tables, plans: Iterable[RootPlan], levels: int, ram: RamMap | None
    ) -> None:
        self.tables = tables
        self.levels = levels
        self.ram = ram
        self.nodes: dict[int, Node] = {}
        """By frame and level in one number."""
        self.cycles: list[Link] = []
        self.beyond: list[Link] = []
        self.unreadable: list[Link] = []
        self.sharers: dict[int, list[Link]] = defaultdict(list)
        """Node -> further ways to it from other roots, where it does not serve the kernel alone."""
        self.again: dict[int, list[Link]] = defaultdict(list)
        """Node -> further entries of the same root that name it, below the top level."""
        self.truncated = False
        for plan in plans:
            self.visit(plan)

    @property
    def levels_of(self) -> dict[PhysAddr, list[int]]:
        """Every table frame and the levels at which it is used."""
        found: dict[PhysAddr, list[int]] = {}
        for node in self.nodes.values():
            found.setdefault(node.frame, []).append(node.level)
        return found

    def below(self, node: Node) -> Iterator[Node]:
        """`node` and every table that it leads to, each once."""
        seen = {node.frame | node.level}
        todo = [node]
        while todo:
            here = todo.pop()
            yield here
            for _, raw in here.links:
                key = raw & ADDRESS | here.level - 1
                child = self.nodes.get(key)
                if child is not None and key not in seen:
                    seen.add(key)
                    todo.append(child)

    def visit(self, plan: RootPlan) -> None:
        """One more root, after those before it."""
        root, top = plan.root, self.levels
        try:
            table = self.tables.table(root).tolist()
        except Unreadable:
            self.unreadable.append(Link(root, VirtAddr(0), root, PhysAddr(0), top + 1))
            return
        node = Node(root, top, root, False, None, 0, W | U | NX)
        self.nodes.setdefault(root | top, node)
        shift = LEVEL[top].shift
        for kernel, slots in ((True, plan.kernel), (False, plan.own)):
            seen: set[int] = set()
            for slot in slots:
                raw = table[slot]
                if not raw & P or raw & PS:
                    continue
                node.links.append((slot, raw))
                # 253 slots of Breenix name one table: an alias is no second way to it.
                if raw & ADDRESS in seen:
                    continue
                seen.add(raw & ADDRESS)
                va = slot << shift
                link = self._link(root, va, raw, root + slot * 8, top)
                self._follow(link, va, node, kernel, (root,))

    def _link(self, root: PhysAddr, va: int, raw: int, entry_pa: int, level: int) -> Link:
        return Link(root, sign_extended(va, self.levels), raw, PhysAddr(entry_pa), level)

    def _follow(
        self, link: Link, va: int, parent: Node, kernel: bool, above: tuple[int, ...]
    ) -> None:
        frame = link.table
        level = link.level - 1
        if frame in above:
            self._note(self.cycles, link)
            return
        if self.ram is not None and not self.ram.holds(frame, PAGE):
            self._note(self.beyond, link)
            return
        known = self.nodes.get(frame | level)
        if known is not None:
            self._again(known, link, kernel)
            return
        if len(self.nodes) >= MOST_TABLES:
            self.truncated = True
            return
        rights = parent.rights & (link.raw ^ NX)
        node = Node(frame, level, link.root, kernel, link, va, rights & _RIGHTS)
        self.nodes[frame | level] = node
        self._read(node, (*above, frame))

    def _again(self, known: Node, link: Link, kernel: bool) -> None:
        key = known.frame | known.level
        if known.owner == link.root:
            if link.level < self.levels:
                self.again[key].append(link)
        elif not (known.kernel and kernel):
            self.sharers[key].append(link)

    def _read(self, node: Node, above: tuple[int, ...]) -> None:
        try:
            table = self.tables.table(node.frame)
        except Unreadable:
            assert node.link is not None
            self._note(self.unreadable, node.link)
            return
        present = _present(table)
        if node.level == 1:
            node.at = present
            node.raws = table.tolist() if len(present) == 512 else [table[i] for i in present]
            return
        large = PS if node.level <= 3 else 0
        node.at = [i for i in present if table[i] & large]
        node.raws = [table[i] for i in node.at]
        node.links = [(i, table[i]) for i in present if not table[i] & PS]
        for index, raw in node.links:
            va = node.va + (index << node.shift)
            link = self._link(node.owner, va, raw, node.frame + index * 8, node.level)
            self._follow(link, va, node, node.kernel, above)

    def _note(self, where: list[Link], link: Link) -> None:
        if len(where) < MOST_BAD_LINKS:
            where.append(link)
        else:
            self.truncated = True
