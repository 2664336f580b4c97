"""The tables of `SQLAlchemyStore`, and the statements that make them.

1. The statements of a version never change once it is released: `migration` is what people's own migrations run.
2. Names are hexadecimal digits, compared byte for byte everywhere: no collation of a database has a say.
3. No table refers to another by a foreign key: what belongs together is deleted together, in one order.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Insert,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    insert,
)
from sqlalchemy.dialects.mysql import LONGBLOB
from sqlalchemy.schema import CreateIndex, CreateTable

from .._options import check_prefix

PREFIX = "msal_logout_"
SCHEMA_VERSION = 1

# Of MySQL and MariaDB. `ascii_bin` compares bytes; all text in the tables is ASCII.
_OPTIONS: dict[str, Any] = {
    f"{name}_{option}": value
    for name in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "ascii"), ("collate", "ascii_bin"))
}


def _name(length: int) -> String:
    return String(length).with_variant(String(length, collation="C"), "postgresql")


_HANDLE = _name(128)
_BLOB = LargeBinary().with_variant(LONGBLOB(), "mysql", "mariadb")  # their BLOB ends at 64 KiB


def _column(name: str, kind: Any, *, primary_key: bool = False, nullable: bool = False) -> Column[Any]:
    return Column(name, kind, primary_key=primary_key, nullable=nullable, autoincrement=False)


class Tables:
    """The tables, with names that begin with a prefix.

    `metadata` is SQLAlchemy's, for a `target_metadata` of your own.

    Args:
        prefix: What the names begin with: up to 20 small letters, digits and `_`.

    Raises:
        ValueError: Something else is in it.
    """

    def __init__(self, prefix: str = PREFIX) -> None:
        check_prefix(prefix)
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,19}", prefix):
            raise ValueError(
                "prefix must be up to 20 small letters, digits and _, and not begin with a digit"
            )
        self.prefix = prefix
        self.metadata = MetaData()
        self.meta = self._table(
            "meta",
            _column("one", Integer, primary_key=True),  # the only row is the number 1
            _column("version", Integer),
            _column("epoch", _name(32)),
            _column("sequence", BigInteger),
            _column("tip", _name(16)),
        )
        self.tips = self._table(
            "tips",  # of earlier endings; the last one's is in `meta`
            _column("sequence", BigInteger, primary_key=True),
            _column("tip", _name(16)),
            _column("expires_at", Double),
            indexes=("expires_at",),
        )
        self.token_caches = self._table(
            "token_caches",
            _column("key", _name(64), primary_key=True),
            _column("data", _BLOB, nullable=True),
            _column("version", _name(32)),
            _column("expires_at", Double),
            indexes=("expires_at",),
        )
        self.records = self._table(
            "records",
            _column("handle", _HANDLE, primary_key=True),
            _column("session", _HANDLE),
            _column("keys", Text),
            _column("issued_at", Double),
            _column("data", _BLOB),
            _column("expires_at", Double),
            # The row of its token cache, if that is its user's alone.
            _column("cache", _name(64), nullable=True),
            indexes=("session", "expires_at"),
        )
        self.record_keys = self._table(
            "record_keys",
            _column("key", _HANDLE, primary_key=True),
            _column("handle", _HANDLE, primary_key=True),
            indexes=("handle",),
        )
        self.marks = self._table(
            "marks",
            _column("sequence", BigInteger, primary_key=True),
            _column("kind", _name(8)),
            _column("value", _HANDLE),
            _column("before", Double),
            _column("expires_at", Double),
            indexes=("expires_at",),
        )
        Index(f"{prefix}marks_value", self.marks.c.value, self.marks.c.kind, unique=True)
        self.jtis = self._table(
            "jtis",
            _column("key", _HANDLE, primary_key=True),
            _column("claimed_by", _name(16)),
            _column("expires_at", Double),
            indexes=("expires_at",),
        )
        self.journal = self._table(
            "journal",
            _column("sequence", BigInteger, primary_key=True),
            _column("name", _name(16)),
            _column("work", _BLOB),
            _column("leased_at", Double),
            _column("leased_until", Double),
            indexes=("name", "leased_until"),
        )
        self.journal_data = self._table(
            "journal_data",
            _column("sequence", BigInteger, primary_key=True),
            _column("number", Integer, primary_key=True),
            _column("data", _BLOB),
        )

    def _table(self, name: str, *columns: Column[Any], indexes: Sequence[str] = ()) -> Table:
        table = Table(f"{self.prefix}{name}", self.metadata, *columns, **_OPTIONS)
        for column in indexes:
            Index(f"{self.prefix}{name}_{column}", table.c[column])
        return table


def migration(version: int, *, prefix: str = PREFIX) -> Sequence[CreateTable | CreateIndex | Insert]:
    """Return the statements that bring the tables from the version before to this one, for a migration of your own.

    Args:
        version: The version to come to; 1 makes the tables.
        prefix: What the names of the tables begin with.

    Raises:
        ValueError: There is no such version.
    """
    if version != SCHEMA_VERSION:
        raise ValueError(f"the tables have version {SCHEMA_VERSION}, and no other")
    tables = Tables(prefix)
    made: list[CreateTable | CreateIndex | Insert] = []
    for table in tables.metadata.sorted_tables:
        made.append(CreateTable(table))
        made += [CreateIndex(index) for index in sorted(table.indexes, key=lambda index: str(index.name))]
    first = {
        "one": 1,
        "version": version,
        "epoch": secrets.token_hex(16),
        "sequence": 0,
        "tip": secrets.token_hex(8),
    }
    return (*made, insert(tables.meta).values(first))
