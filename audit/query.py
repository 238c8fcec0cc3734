"""Run one query of a user against a run's database, read-only, and stream what it answers.

Only one statement at a time, and only statements that read. Read-only access and the shut-in connection of
``open_readonly`` are what protects; the check of the statement is there for a clear message.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from duckdb.sqltypes import DuckDBPyType

from roclip_audit.audit.relations import RELATIONS
from roclip_audit.audit.store import first_line, is_damage, open_readonly, store_error
from roclip_audit.core.errors import ConfigError, StoreError
from roclip_audit.core.run import RunFolder

BATCH_ROWS = 8192

_READING = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
_ALLOWED = "SELECT, WITH, FROM, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN"
# What Python carries as it is; everything else (times beyond Python's, intervals, maps, unions, ...) comes as the text
# that DuckDB itself would print. Parquet carries some more.
_NUMBERS = frozenset({
    "tinyint", "smallint", "integer", "bigint", "hugeint", "utinyint", "usmallint", "uinteger", "ubigint", "uhugeint",
    "float", "double", "decimal",
})  # fmt: skip
_PLAIN = _NUMBERS | {"boolean", "varchar"}
_PARQUET = _PLAIN | {
    "blob", "date", "enum", "time", "timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns",
    "timestamp with time zone", "uuid",
}  # fmt: skip


def _consists_of(kind: DuckDBPyType, allowed: frozenset[str]) -> bool:
    if kind.id in {"list", "array", "struct"}:
        # Of the children, the size of an array is a number and the names are text.
        inner = (child for _, child in kind.children if isinstance(child, DuckDBPyType))
        return all(_consists_of(child, allowed) for child in inner)
    return kind.id in allowed


def _with_text_for_others(relation: duckdb.DuckDBPyRelation, allowed: frozenset[str]) -> duckdb.DuckDBPyRelation:
    """Turn the columns of other types into text."""
    fits = [_consists_of(kind, allowed) for kind in relation.types]
    if all(fits):
        return relation
    return relation.project(", ".join(f"#{i}" if fit else f"#{i}::varchar" for i, fit in enumerate(fits, 1)))


@dataclass(frozen=True, slots=True)
class ResultColumn:
    """One column of an answer; names are unique within it."""

    name: str
    is_number: bool


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The answer to one query, streamed; valid inside the ``with`` of ``run_query``.

    Attributes:
        columns: in order.
        is_plan: True for EXPLAIN: the last column holds a drawing over several lines.
    """

    columns: tuple[ResultColumn, ...]
    is_plan: bool
    _database: Path = field(repr=False)
    _relation: duckdb.DuckDBPyRelation = field(repr=False)

    def arrow(self) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """Return the Arrow schema, with the unique column names, and the batches; call once.

        Raises:
            ConfigError: the query fails, at once or on the way.
            StoreError: the database turns out to be damaged.
        """
        return self._read(_PARQUET)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield the rows as Python values: None, bool, int, float, str, or list and dict of these; call once.

        Raises:
            ConfigError: the query fails, at once or on the way.
            StoreError: the database turns out to be damaged.
        """
        for batch in self._read(_PLAIN)[1]:
            yield from zip(*(_values(column) for column in batch.columns), strict=True)

    def _read(self, allowed: frozenset[str]) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        with clear_errors(self._database):
            reader = _with_text_for_others(self._relation, allowed).to_arrow_reader(BATCH_ROWS)
        names = [column.name for column in self.columns]
        schema = pa.schema([one.with_name(name) for one, name in zip(reader.schema, names, strict=True)])
        return schema, self._batches(reader, schema)

    def _batches(self, reader: pa.RecordBatchReader, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        while True:
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                return
            except (OSError, pa.ArrowException, duckdb.Error) as error:  # Arrow hands on DuckDB's errors as its own
                raise clear_error(error, self._database) from error
            yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)


def _values(column: pa.Array) -> list[Any]:
    kind = column.type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_boolean(kind):
        return column.to_pylist()  # type: ignore[no-any-return]
    return [_value(value) for value in column.to_pylist()]


def _value(value: object) -> object:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() and value.as_tuple().exponent == 0 else float(value)
    if isinstance(value, list):
        return [_value(item) for item in value]
    if isinstance(value, dict):
        return {key: _value(item) for key, item in value.items()}
    return value


def finite(value: object) -> object:
    """Replace what JSON has no word for, NaN and the infinities, by None, also inside lists and dictionaries."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return value


def _unique(names: list[str]) -> list[str]:
    """Number repeated column names: a, a_2, a_3."""
    seen: set[str] = set()
    found = []
    for name in names:
        unique, n = name, 1
        while unique in seen:
            n += 1
            unique = f"{name}_{n}"
        seen.add(unique)
        found.append(unique)
    return found


def _hint(error: Exception) -> str:
    text = str(error)
    if "Table with name" in text:
        names = ", ".join(relation.name for relation in RELATIONS if "." not in relation.name)
        return f" (tables and views: {names})"
    if "Referenced column" in text:
        candidates = next((line for line in text.splitlines() if line.startswith("Candidate")), "")
        return f" ({candidates})" if candidates else ""
    if "file system operations are disabled" in text:
        return " (`roclip-audit sql --allow-external` lets a query read and write files)"
    return ""


def clear_error(error: Exception, database: Path) -> ConfigError | StoreError:
    """Translate an error of DuckDB: one line about the query, with a hint where there is one, or about the database."""
    if is_damage(error, database):
        return store_error(database, error)
    return ConfigError(first_line(error) + _hint(error))


@contextmanager
def clear_errors(database: Path) -> Iterator[None]:
    """Translate DuckDB's errors inside the block.

    Raises:
        ConfigError: the query is wrong.
        StoreError: the database is damaged.
    """
    try:
        yield
    except duckdb.Error as error:
        raise clear_error(error, database) from error


def _single_statement(connection: duckdb.DuckDBPyConnection, sql: str, *, allow_external: bool) -> duckdb.Statement:
    """Parse a query and refuse all that is not one reading statement."""
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise ConfigError(f"expected one SQL statement, found {len(statements) or 'none'}")
    kind = statements[0].type
    if kind not in ((*_READING, duckdb.StatementType.COPY) if allow_external else _READING):
        name = "PIVOT and other composed" if kind == duckdb.StatementType.MULTI else str(kind).rsplit(".", 1)[-1]
        hint = "; --allow-external allows `copy (select ...) to 'file'`" if kind == duckdb.StatementType.COPY else ""
        raise ConfigError(f"{name} statements are refused, the database is only read here: use {_ALLOWED}{hint}")
    if statements[0].named_parameters:
        raise ConfigError("the query has parameters ($1, ?); write the values into it")
    return statements[0]


@contextmanager
def run_query(run: RunFolder, sql: str, *, allow_external: bool = False) -> Iterator[QueryResult]:
    """Run one query, read-only.

    Args:
        run: the run folder.
        sql: one SELECT, WITH, FROM, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN statement.
        allow_external: let it read and write files, and let it be ``copy ... to``.

    Raises:
        ConfigError: the statement is refused, or DuckDB finds it wrong; the message is one line.
        StoreError: the database is missing, damaged or locked.
    """
    with open_readonly(run, allow_external=allow_external) as connection, clear_errors(run.database):
        statement = _single_statement(connection, sql, allow_external=allow_external)
        relation = connection.sql(statement.query)
        columns = tuple(
            ResultColumn(name=name, is_number=kind.id in _NUMBERS)
            for name, kind in zip(_unique(relation.columns), relation.types, strict=True)
        )
        is_plan = statement.type == duckdb.StatementType.EXPLAIN
        yield QueryResult(columns=columns, is_plan=is_plan, _database=run.database, _relation=relation)
