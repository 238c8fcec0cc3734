"""Turn a rule and people's decisions into a selection: a parquet file that says of every pair whether it stays.

Columns: shard, ordinal, uid, keep, reason (null where kept); one row per pair of the run, shards in the order of the
scan, then by ordinal. ``curate`` reads it. Precedence: a decision, then the rule, then being unscored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from roclip_audit.audit.query import BATCH_ROWS, clear_errors
from roclip_audit.audit.store import open_readonly
from roclip_audit.core.errors import ConfigError
from roclip_audit.core.run import RunFolder, write_atomic
from roclip_audit.core.schema import Column
from roclip_audit.core.tables import arrow_schema

SELECTION: tuple[Column, ...] = (
    Column("shard", "VARCHAR", "Name of the shard"),
    Column("ordinal", "UINTEGER", "Position of the pair in its shard, from 0"),
    Column("uid", "VARCHAR", "Identity of the pair"),
    Column("keep", "BOOLEAN", "False if the pair is to be removed"),
    Column("reason", "VARCHAR", "Why it is removed; null where kept"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionReport:
    """What a selection removes.

    Attributes:
        path: the selection file.
        where: the rule.
        n_pairs: pairs of the run; n_kept + n_removed.
        n_kept: pairs that stay.
        n_removed: n_by_rule + n_by_decision + n_unscored_removed.
        n_by_rule: removed by the rule.
        n_by_decision: removed because somebody decided so.
        n_spared_by_decision: the rule names them, but somebody decided to keep them.
        n_unscored: pairs without evidence, whatever becomes of them.
        n_unscored_removed: those of them that are removed for it.
        expected_sound_removed: expected number of sound pairs among the removed ones that are scored.
        expected_mismatched_kept: expected number of mismatched pairs among the kept ones that are scored.
    """

    path: Path
    where: str
    n_pairs: int
    n_kept: int
    n_removed: int
    n_by_rule: int
    n_by_decision: int
    n_spared_by_decision: int
    n_unscored: int
    n_unscored_removed: int
    expected_sound_removed: float
    expected_mismatched_kept: float


def _shape(connection: duckdb.DuckDBPyConnection, condition: str) -> object:
    """Parse a query around a condition and return everything of its tree but the condition."""
    sql = f"select 1 from suspicion where (\n{condition}\n)"  # noqa: S608  # only parsed
    found = connection.execute("select json_serialize_sql(?)", [sql]).fetchall()[0][0]
    tree = json.loads(found)
    if tree.get("error"):
        message = str(tree.get("error_message", "cannot be parsed")).split("\n", 1)[0]
        raise ConfigError(f"--where: {message}: {condition}")
    for statement in tree["statements"]:
        statement["node"].pop("where_clause", None)
    return tree


def check_predicate(connection: duckdb.DuckDBPyConnection, where: str) -> None:
    """Refuse everything but one condition over the columns of ``suspicion``.

    A text that closes the parenthesis around it and goes on (with a union, a group, another statement) changes the rest
    of the query; a condition changes nothing but the condition.

    Raises:
        ConfigError: it is no condition, or not a boolean one, or names what does not exist.
    """
    if not where.strip() or _shape(connection, where) != _shape(connection, "true"):
        raise ConfigError(f"--where takes one condition over the columns of the view suspicion, not: {where!r}")
    kind = connection.sql(f"select (\n{where}\n) from suspicion limit 0").types[0]  # noqa: S608  # checked above
    if kind.id != "boolean":
        raise ConfigError(
            f"--where takes a condition that is true or false, this is of type {kind.id.upper()}: {where}"
        )


def _verdicts(where: str) -> str:
    """Return the SQL of a temporary table with one row per pair, in order."""
    return f"""
        create temp table verdicts as
        with hit as (select uid from suspicion where (\n{where}\n)),
        trouble as (
            select shard, ordinal, arg_min(reason, rowid) as reason from problems
            where fatal and ordinal is not null group by shard, ordinal
        )
        select p.pair, p.shard, p.ordinal, p.uid, p.scored, d.verdict, h.uid is not null as hit, s.suspicion,
            case
                when d.verdict = 'keep' then null
                when d.verdict = 'drop' then 'decision: drop'
                when h.uid is not null then 'where: ' || $where
                when not p.scored and $remove_unscored then 'unscored: ' || coalesce(t.reason, 'unknown')
            end as reason
        from pairs p
        left join suspicion s on s.uid = p.uid
        left join hit h on h.uid = p.uid
        left join decisions d on d.uid = p.uid
        left join trouble t on t.shard = p.shard and t.ordinal = p.ordinal
    """  # noqa: S608


_COUNTS = """
    select count(*), count(*) filter (where reason is null), count(*) filter (where reason is not null),
        count(*) filter (where starts_with(reason, 'where: ')), count(*) filter (where verdict = 'drop'),
        count(*) filter (where hit and verdict = 'keep'), count(*) filter (where not scored),
        count(*) filter (where starts_with(reason, 'unscored: ')),
        coalesce(sum(1 - suspicion) filter (where reason is not null), 0),
        coalesce(sum(suspicion) filter (where reason is null), 0)
    from verdicts
"""
_ROWS = "select shard, ordinal, uid, reason is null as keep, reason from verdicts order by pair"


def _write_rows(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    reader = connection.sql(_ROWS).to_arrow_reader(BATCH_ROWS)
    schema = arrow_schema(SELECTION)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch.cast(schema))


def write_selection(run: RunFolder, where: str, path: Path, *, remove_unscored: bool = False) -> SelectionReport:
    """Write the selection that removes the pairs a rule names, and those decided 'drop'; pairs decided 'keep' stay.

    Args:
        run: the run folder.
        where: a condition over the columns of the view ``suspicion``; the pairs for which it is true are removed. It
            may hold subqueries; it cannot read files or change anything.
        path: the parquet file to write; it appears when it is complete.
        remove_unscored: remove pairs without evidence too (no caption, unreadable image).

    Raises:
        ConfigError: ``where`` is not one condition, or fails on some pair.
        StoreError: the database is missing, damaged or locked.
    """
    with open_readonly(run) as connection, clear_errors(run.database):
        check_predicate(connection, where)
        values = {"where": where, "remove_unscored": remove_unscored}
        connection.execute(_verdicts(where), values).fetchall()
        counts = connection.execute(_COUNTS).fetchall()[0]
        write_atomic(path, lambda temporary: _write_rows(connection, temporary))
    names = (field for field in SelectionReport.__dataclass_fields__ if field not in {"path", "where"})
    return SelectionReport(path=path, where=where, **dict(zip(names, counts, strict=True)))
