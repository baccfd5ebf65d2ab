"""What the typed readers share: values found by the newest name first, and small decoders.

Breenix changes weekly: a reader never asks for a version. It tries the newest shape and takes the
older one when a name is not there.
"""

from __future__ import annotations

from breenix_gdbagent.errors import InputError, ReadError, SymbolNotFound
from breenix_gdbagent.symbols.values import Value, Values


def static_of(values: Values, *paths: str) -> Value:
    """The first of the statics that the kernel has.

    Raises `ReadError` (`SymbolNotFound` for the first name) when it has none of them.
    """
    missing: ReadError | None = None
    for path in paths:
        try:
            return values.static(path)
        except SymbolNotFound as error:
            missing = missing or error
        except InputError as ambiguous:
            missing = missing or ReadError(ambiguous.what)
    assert missing is not None
    raise missing


def field(value: Value, *names: str) -> Value | None:
    """The first of the fields that the value has, None when it has none of them."""
    for name in names:
        found = value.field(name)
        if found is not None:
            return found
    return None


def number(value: Value, *names: str) -> int | None:
    """A number in the first of the fields that is there."""
    found = field(value, *names)
    return None if found is None else found.integer()


def optional(value: Value, *names: str) -> int | None:
    """The number in an `Option` field; None when it is None or there is no such field."""
    found = field(value, *names)
    inside = None if found is None else found.some()
    return None if inside is None else inside.integer()


def flag(value: Value, name: str) -> bool | None:
    """A bool field, None when there is none of that name."""
    found = value.field(name)
    return None if found is None else found.boolean()


def numbers(value: Value | None, limit: int) -> tuple[int, ...]:
    """The integers in a vector or queue, at most `limit`."""
    if value is None:
        return ()
    return tuple(item.integer() for item in value.items(limit))


def held(value: Value) -> bool | None:
    """Whether the lock around a static is taken, None when there is no lock."""
    lock = value.lock
    return None if lock is None else lock.held
