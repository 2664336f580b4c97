"""What an engine's error means: a sentence for people, and whether to try again.

An engine's own text is never repeated: it quotes the values that it was given, and some drivers' quote the password.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from ...errors import StoreError

_REFUSED = "refuses the store's user or password"
_NOT_THERE = "does not exist: create it, or correct the store's URL"
_FORBIDDEN = (
    "does not allow its user what the store needs: grant SELECT, INSERT, UPDATE and DELETE on its tables,"
    " and CREATE if it is to make them"
)
NO_TABLES = (
    "does not have the store's tables: let the store create them (create_tables=True), or run your migration"
)
_FULL = "cannot grow: the disk is full"
_CROWDED = "has no connection left: allow more, or let the store have fewer"
_SLOW = "took longer than timeout_seconds"
_LOCKED = "is locked by another worker for too long"
_READ_ONLY = "is read-only: the store needs the primary, not a standby"
_AWAY = "cannot be reached: see that it runs, and that the store's URL is right"
_LOST = "has closed the connection"
_DAMAGED = "is damaged: put a backup in its place"

# PostgreSQL's SQLSTATEs; the numbers of MySQL and MariaDB, from 1000 on; and SQLite's, which are small.
_WHAT_IS_WRONG: dict[str | int, str] = {
    **dict.fromkeys(("28P01", "28000", 1045, 1698), _REFUSED),
    **dict.fromkeys(("3D000", 1049), _NOT_THERE),
    **dict.fromkeys(("42501", 1044, 1142), _FORBIDDEN),
    **dict.fromkeys(("42P01", "42703", 1054, 1146, 1), NO_TABLES),
    **dict.fromkeys(("53100", 1021, 1114, 13), _FULL),
    **dict.fromkeys(("53300", 1040, 1203), _CROWDED),
    **dict.fromkeys(("57014", 1969, 3024), _SLOW),
    **dict.fromkeys(("55P03", 1205, 5, 6), _LOCKED),
    **dict.fromkeys(("25006", 1290, 1792, 1836, 8), _READ_ONLY),
    **dict.fromkeys(("57P03", 2002, 2003, 14), _AWAY),
    **dict.fromkeys(("57P01", "57P02", 1053, 2006, 2013, 2055), _LOST),
    **dict.fromkeys(("XX001", "XX002", 11, 26), _DAMAGED),
    1153: "refuses values of that size: raise max_allowed_packet",
    1665: "replicates statements, which READ COMMITTED cannot bear: set binlog_format to ROW or MIXED",
}

# A deadlock, a serialization failure, and what MariaDB says of a row that another has changed meanwhile.
_COLLISIONS = frozenset(["40001", "40P01", 1020, 1213])

# A driver's `connect` says so of what the URL ends in.
_UNKNOWN_OPTION = re.compile(r"unexpected keyword argument '(\w+)'")


class Fault(NamedTuple):
    """What an error means.

    Args:
        sentence: For people: what is wrong, and what to do.
        again: Whether the transaction, from its start, may well succeed.
        tables: Whether it may be that the tables are not there.
    """

    sentence: str
    again: bool = False
    tables: bool = False


def fault(error: Exception, where: str) -> Fault:
    """Return what an error of the engine means.

    Args:
        error: What the engine has raised.
        where: Names the database.

    Raises:
        Exception: It is no engine's error.
    """
    if isinstance(error, StoreError):
        return Fault(str(error))
    database = f"the store's database {where}"
    if isinstance(error, PoolTimeoutError):
        return Fault(f"{database} has no connection to spare: all of the store's are in use for too long")
    if isinstance(getattr(error, "orig", error), TimeoutError):
        return Fault(f"{database} {_SLOW}")
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return Fault(f"{database} {_LOST}", again=True)
    code = _code(error)
    if isinstance(error, IntegrityError) or code in _COLLISIONS:
        return Fault(f"{database} was changed by others at the same moment, again and again", again=True)
    if code in _WHAT_IS_WRONG:
        what = _WHAT_IS_WRONG[code]
        return Fault(f"{database} {what}", tables=what is NO_TABLES)
    if isinstance(error, OSError):
        return Fault(f"{database} {_AWAY}")
    option = _UNKNOWN_OPTION.search(str(error)) if isinstance(error, TypeError) else None
    if option is not None:
        instead = ", which knows it as ssl" if option[1] == "sslmode" else ""
        return Fault(
            f"{database} cannot be reached: its URL has {option[1]}=, not known to the driver{instead}"
        )
    if code is None and not _is_engines(error):
        raise error
    name = type(getattr(error, "orig", None) or error).__name__
    said = name if code is None else f"{name} {code}"
    return Fault(f"{database} {_AWAY if code is None else 'did not do what it was asked for'} ({said})")


def _is_engines(error: Exception) -> bool:
    """Tell whether an error is SQLAlchemy's, or asyncpg's, of which SQLAlchemy wraps none while it connects."""
    return isinstance(error, SQLAlchemyError) or type(error).__module__.partition(".")[0] == "asyncpg"


def _code(error: Exception) -> str | int | None:
    """Return the engine's own code of an error, whoever has wrapped it."""
    found: Any = getattr(error, "orig", None) or error
    first = found.args[0] if found.args else None
    if isinstance(first, int) and isinstance(error, DBAPIError):
        return first  # of MySQL's drivers, some of which have a less exact SQLSTATE as well
    for name in ("sqlstate", "pgcode"):
        if isinstance(code := getattr(found, name, None), str):
            return code
    code = getattr(found, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None


def is_misread(url: URL) -> bool:
    """Tell whether a URL's parts are not what was meant: a plain `@`, `/` or `:` has divided its password."""
    is_file = url.get_backend_name() == "sqlite"
    return not is_file and any("@" in (part or "") for part in (url.host, url.database))


def name_of(url: URL) -> str:
    """Return how a database is named in errors: without its user, its password, or what else the URL says."""
    backend = url.get_backend_name()
    if is_misread(url):  # an engine's: what is left may be of the password
        return f"{backend}://..."
    return URL.create(backend, host=url.host, port=url.port, database=url.database).render_as_string()
