"""A hunt on disk: one SQLite file in a directory, beside it a snapshot and a report a cluster.

Each result is one transaction: a process that is killed loses none that was told. Every question
is answered by SQLite, so that ten thousand boots take no more memory than a hundred.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from breenix_gdbagent.errors import InputError, OutputError
from breenix_gdbagent.fleet.result import Evidence, Found, Result
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.wholefile import appearing

FILE = "hunt.sqlite"
CLUSTERS = "clusters"
SCHEMA = 1
_TABLES = """
create table about (name text primary key, value text not null);
create table boots (number integer primary key, settings text not null, outcome text not null,
    exit integer not null, seconds real not null, fault_at real, worker text not null, qemu text,
    came integer not null);
create table findings (number integer not null, fingerprint text not null, code text not null,
    severity text not null, kind text not null, root integer not null, title text not null,
    primary key (number, fingerprint)) without rowid;
create index by_fingerprint on findings (fingerprint, number);
create table evidence (fingerprint text primary key, file text not null, number integer not null);
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """One boot as it is kept. `came`: in which order results came, from 1."""

    number: int
    settings: dict[str, Json]
    outcome: str
    exit: int
    seconds: float
    fault_at: float | None
    worker: str
    qemu: str | None
    came: int


class Store:
    """One hunt's directory, opened. Use as a context manager."""

    def __init__(self, directory: Path, database: sqlite3.Connection) -> None:
        self.directory = directory
        self._database = database

    @classmethod
    def create(cls, directory: Path, about: dict[str, Json]) -> Self:
        """A new one. Raises `InputError` where something is there already, `OutputError`."""
        try:
            if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
                raise InputError(
                    f"{directory} is there already, and not empty",
                    fix=f"name a new directory, or go on: hunt --resume {directory}",
                )
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make {directory}", error.strerror or "") from error
        store = cls(directory, _connected(directory))
        with store._writing() as database:
            for statement in _TABLES.split(";"):
                database.execute(statement)
            told = {"schema": SCHEMA, **about}
            database.executemany(
                "insert into about values (?, ?)", [(k, json.dumps(v)) for k, v in told.items()]
            )
        return store

    @classmethod
    def open(cls, directory: Path) -> Self:
        """One that is there. Raises `InputError`."""
        if not (directory / FILE).is_file():
            raise InputError(
                f"{directory} is no hunt: it has no {FILE}", fix="make one: hunt -o DIR"
            )
        store = cls(directory, _connected(directory))
        try:
            schema = store.about().get("schema")
        except sqlite3.DatabaseError as error:
            store.close()
            raise InputError(f"{directory / FILE} cannot be read", str(error)) from error
        if schema != SCHEMA:
            store.close()
            raise InputError(
                f"{directory} is a hunt of schema {schema}, this agent reads {SCHEMA}",
                "" if schema else "it was ended before it had begun",
            )
        return store

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()

    def close(self) -> None:
        """The file is let go."""
        self._database.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction. Raises `OutputError`: what was kept before stays."""
        try:
            self._database.execute("begin immediate")
            try:
                yield self._database
            except BaseException:
                self._database.rollback()
                raise
            self._database.commit()
        except sqlite3.OperationalError as error:
            raise OutputError(
                f"{self.directory / FILE} cannot be written",
                str(error),
                f"what came before is kept; make room, then: hunt --resume {self.directory}",
            ) from error

    # What the hunt is ------------------------------------------------------------------------

    def about(self) -> dict[str, Json]:
        """What was asked for, and how it was made."""
        rows = self._database.execute("select name, value from about")
        return {name: json.loads(value) for name, value in rows}

    def note(self, **values: Json) -> None:
        """More about it, in place of what was said before."""
        with self._writing() as database:
            for name, value in values.items():
                database.execute(
                    "insert or replace into about values (?, ?)", (name, json.dumps(value))
                )

    # Results ---------------------------------------------------------------------------------

    def add(self, result: Result) -> bool:
        """Keep one; False where that boot is kept already. Raises `OutputError`."""
        with self._writing() as database:
            known = database.execute(
                "select 1 from boots where number = ?", (result.number,)
            ).fetchone()
            if known:
                return False
            database.execute(
                "insert into boots values (?, ?, ?, ?, ?, ?, ?, ?, "
                "(select coalesce(max(came), 0) + 1 from boots))",
                (
                    result.number, json.dumps(dict(result.settings)), result.outcome, result.exit,
                    result.seconds, result.fault_at, result.worker, result.qemu,
                ),
            )  # fmt: skip
            database.executemany(
                "insert into findings values (?, ?, ?, ?, ?, ?, ?)",
                [
                    (result.number, f.fingerprint, f.code, f.severity, f.kind, f.root, f.title)
                    for f in result.found
                ],
            )
            new = [f for f in result.found if f.root and self._lacks(f)]
            if new and result.evidence is not None:
                file = self._write(new[0], result.evidence)
                for found in new:
                    database.execute(
                        "insert into evidence values (?, ?, ?)",
                        (found.fingerprint, file, result.number),
                    )
        return True

    def _lacks(self, found: Found) -> bool:
        row = self._database.execute(
            "select 1 from evidence where fingerprint = ?", (found.fingerprint,)
        )
        return row.fetchone() is None

    def _write(self, found: Found, evidence: Evidence) -> str:
        """The cluster's files; the snapshot's name in the directory."""
        folder = self.directory / CLUSTERS
        folder.mkdir(exist_ok=True)
        name = slug(found.fingerprint)
        for ending, data in (
            (".json", evidence.json.encode()),
            (".txt", evidence.text.encode()),
            (".core", evidence.core),
        ):
            with appearing(folder / f"{name}{ending}") as out:
                out.write(data)
        return f"{CLUSTERS}/{name}.core"

    def known(self) -> frozenset[str]:
        """Fingerprints that have a snapshot."""
        return frozenset(f for (f,) in self._database.execute("select fingerprint from evidence"))

    def done(self, numbers: range) -> set[int]:
        """Which of these boots are kept."""
        rows = self._database.execute(
            "select number from boots where number >= ? and number < ?",
            (numbers.start, numbers.stop),
        )
        return {number for (number,) in rows}

    def count(self) -> int:
        """How many boots are kept."""
        return int(self._database.execute("select count(*) from boots").fetchone()[0])

    def has(self, code: str) -> bool:
        """Whether any boot found that code, or that fingerprint."""
        found = self._database.execute(
            "select 1 from findings where code = ? or fingerprint = ? limit 1", (code, code)
        )
        return found.fetchone() is not None

    def boots(self) -> Iterator[Kept]:
        """All, in order of their numbers."""
        rows = self._database.execute("select * from boots order by number")
        for number, settings, *rest in rows:
            yield Kept(number, json.loads(settings), *rest)

    def boot(self, number: int) -> Kept:
        """One that is kept."""
        row = self._database.execute("select * from boots where number = ?", (number,)).fetchone()
        number, settings, *rest = row
        return Kept(number, json.loads(settings), *rest)

    def roots_of(self, number: int) -> list[str]:
        """Fingerprints that one boot found and nothing explains."""
        rows = self._database.execute(
            "select fingerprint from findings where number = ? and root", (number,)
        )
        return [fingerprint for (fingerprint,) in rows]

    def count_of(self, fingerprint: str) -> int:
        """In how many boots it was found, as a cause or as a consequence."""
        row = self._database.execute(
            "select count(*) from findings where fingerprint = ?", (fingerprint,)
        )
        return int(row.fetchone()[0])

    def came(self, fingerprint: str) -> list[int]:
        """Which results showed it as a cause, counted from 1 in the order in which they came."""
        rows = self._database.execute(
            "select b.came from boots b join findings f on b.number = f.number "
            "where f.fingerprint = ? and f.root order by 1",
            (fingerprint,),
        )
        return [came for (came,) in rows]

    def outcomes(self) -> dict[str, int]:
        """How many boots ended how, most first."""
        rows = self._database.execute(
            "select outcome, count(*) from boots group by outcome order by 2 desc, 1"
        )
        return dict(rows.fetchall())

    def seconds(self) -> float:
        """Of all boots, one after the other."""
        return float(
            self._database.execute("select coalesce(sum(seconds), 0) from boots").fetchone()[0]
        )

    def qemus(self) -> list[str]:
        """The versions that took part."""
        rows = self._database.execute(
            "select distinct qemu from boots where qemu is not null order by 1"
        )
        return [version for (version,) in rows]

    # Clusters --------------------------------------------------------------------------------

    def roots(self) -> list[tuple[str, str, str, str, str, int, int, int]]:
        """What no other finding caused: (fingerprint, code, severity, kind, title, boots, first,
        last), most first."""
        return self._database.execute(
            "select fingerprint, code, severity, kind, title, count(*), min(number), max(number) "
            "from findings where root group by fingerprint order by 6 desc, 1"
        ).fetchall()

    def together(self) -> dict[tuple[str, str], int]:
        """In how many boots two roots were both found, by (first, second) of the alphabet."""
        rows = self._database.execute(
            "select a.fingerprint, b.fingerprint, count(*) from findings a join findings b "
            "on a.number = b.number and a.fingerprint < b.fingerprint "
            "where a.root and b.root group by 1, 2"
        )
        return {(a, b): number for a, b, number in rows}

    def median_time(self, fingerprint: str) -> float | None:
        """Seconds of the guest's run to the deciding stop, over the boots that found it."""
        row = self._database.execute(
            "select avg(at) from (select b.fault_at at, row_number() over (order by b.fault_at) r,"
            " count(*) over () n from boots b join findings f on b.number = f.number "
            "where f.fingerprint = ? and f.root and b.fault_at is not null) "
            "where r in ((n + 1) / 2, (n + 2) / 2)",
            (fingerprint,),
        )
        found = row.fetchone()[0]
        return None if found is None else float(found)

    def snapshot(self, fingerprint: str) -> Path | None:
        """The snapshot of the first boot that found it, where one was kept."""
        row = self._database.execute(
            "select file from evidence where fingerprint = ?", (fingerprint,)
        ).fetchone()
        return None if row is None else self.directory / str(row[0])


def slug(fingerprint: str) -> str:
    """A file name for it: what can be read of it, and a hash that tells it from all others."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", fingerprint).strip("-.")[:60]
    return f"{plain}-{hashlib.sha256(fingerprint.encode()).hexdigest()[:8]}"


def _connected(directory: Path) -> sqlite3.Connection:
    try:
        database = sqlite3.connect(directory / FILE, isolation_level=None, timeout=30)
        database.execute("pragma synchronous = normal")
    except sqlite3.OperationalError as error:
        raise OutputError(f"{directory / FILE} cannot be opened", str(error)) from error
    except sqlite3.DatabaseError as error:
        raise InputError(f"{directory / FILE} cannot be read", str(error)) from error
    return database
