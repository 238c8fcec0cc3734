"""Build ``audit.duckdb`` from the files of a scan.

The new database is built beside its final place and moved over the old one in one step: readers see the old one or
the new one. Rows go in by the hundred thousand, as Arrow tables, in the order (shard of the manifest, ordinal), so that
two ingests of the same files give the same tables row by row. Memory is bounded by ``BATCH_PAIRS``.

Cost: 42 s of CPU time for 1,000,000 pairs with 3 rivals and 10 neighbours each (benchmarks/bench_sql.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from roclip_audit.audit.decision_log import read_log
from roclip_audit.audit.decision_tables import insert_history
from roclip_audit.audit.domains import add_domains
from roclip_audit.audit.manifest import Manifest, ShardEntry, read_manifest
from roclip_audit.audit.relations import (
    DECISIONS_VIEW,
    DOMAIN_SQL,
    SCHEMA_VERSION,
    SUSPICION,
    TABLES,
    VIEWS,
    Relation,
    create_statements,
)
from roclip_audit.audit.stage_files import (
    ABOUT_PAIRS,
    read_about,
    read_campaigns,
    read_fetched,
    read_pairs,
    read_problems,
    read_rejected,
)
from roclip_audit.audit.store import refuse_if_written_to, store_error
from roclip_audit.core.errors import StoreError
from roclip_audit.core.run import RunFolder, write_atomic
from roclip_audit.core.schema import EVIDENCE, PAIRS

BATCH_PAIRS = 122_880  # one DuckDB row group


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReport:
    """What went into the database; ``n_decisions`` stand in the log, ``n_stale_decisions`` of them name no pair."""

    n_shards: int
    n_pairs: int
    n_scored: int
    n_rivals: int
    n_neighbours: int
    n_problems: int
    n_decisions: int
    n_stale_decisions: int


def _run(connection: duckdb.DuckDBPyConnection, sql: str, incoming: pa.Table | None = None) -> int:
    """Run one statement to its end, with ``incoming`` as a table; return the number of rows it changed."""
    if incoming is not None:
        connection.register("incoming", incoming)
    rows = connection.execute(sql).fetchall()
    if incoming is not None:
        connection.unregister("incoming")
    return int(rows[0][0]) if rows and isinstance(rows[0][0], int) else 0


def _create(connection: duckdb.DuckDBPyConnection, relations: tuple[Relation, ...]) -> None:
    """Make tables or views; in one transaction, because each of some hundred comments would else wait for the disk."""
    connection.begin()
    for statement in create_statements(relations):
        _run(connection, statement)
    connection.commit()


def _count(connection: duckdb.DuckDBPyConnection, what: str) -> int:
    return int(connection.execute(f"select count(*) from {what}").fetchall()[0][0])  # noqa: S608  # our own text


def _batches(shards: Sequence[ShardEntry]) -> Iterator[list[ShardEntry]]:
    """Deal consecutive shards into batches of about BATCH_PAIRS pairs."""
    batch: list[ShardEntry] = []
    n = 0
    for shard in shards:
        batch.append(shard)
        n += shard.n_pairs
        if n >= BATCH_PAIRS:
            yield batch
            batch, n = [], 0
    if batch:
        yield batch


_INSERT_PAIRS = f"""
    insert into pairs by name
    select {", ".join(f'"{column.name}"' for column in PAIRS)}, {DOMAIN_SQL} as domain, pair from incoming order by pair
"""  # noqa: S608


def _add_pairs(connection: duckdb.DuckDBPyConnection, run: RunFolder, manifest: Manifest) -> dict[str, tuple[int, int]]:
    """Fill ``pairs``; return for every shard's id the number of its first pair, and that number after its last."""
    numbers: dict[str, tuple[int, int]] = {}
    n = 0
    for batch in _batches(manifest.shards):
        tables = []
        for shard in batch:
            table = read_pairs(run, shard)
            numbers[shard.id] = (n, n + table.num_rows)
            tables.append(table.append_column("pair", pa.array(range(*numbers[shard.id]), pa.uint64())))
            n += table.num_rows
        _run(connection, _INSERT_PAIRS, pa.concat_tables(tables))
    if _count(connection, "(select uid from pairs group by uid having count(*) > 1 or uid is null)"):
        raise StoreError(f"{run.root}: two pairs have one uid; run the same scan again")
    return numbers


_INSERT_RIVALS = """
    insert into store.rivals by name
    select i.pair, i.rank, p.pair as rival_pair, i.cosine, i.margin, i.text_similarity
    from incoming i join pairs p on p.uid = i.rival_uid order by i.pair, i.rank
"""
_INSERT_NEIGHBOURS = """
    insert into store.neighbours by name
    select i.pair, i.kind, i.rank, p.pair as neighbour_pair, i.similarity
    from incoming i join pairs p on p.uid = i.neighbour_uid order by i.pair, i.kind desc, i.rank
"""
_FROM_EVIDENCE = {column.name for column in EVIDENCE}
_RENAMED = {
    "rival_caption": "o.caption",
    "rival_uid": "o.uid",
    "rival_margin": "r.margin",
    "rival_text_similarity": "r.text_similarity",
    "decision": "d.verdict",
}


def _scored_column(name: str) -> str:
    source = _RENAMED.get(name) or (f"i.{name}" if name in _FROM_EVIDENCE else f"p.{name}")
    return f'{source} as "{name}"'


def _insert_scored(first: int, end: int) -> str:
    """Return the SQL that widens the evidence of the pairs numbered from ``first`` to below ``end``."""
    within = f">= {first} and pair < {end}"
    return f"""
        insert into store.scored by name
        select {", ".join(_scored_column(column.name) for column in SUSPICION)}, i.pair
        from incoming i
        join (from pairs where pair {within}) p on p.pair = i.pair
        left join (from store.rivals where rank = 1 and pair {within}) r on r.pair = i.pair
        left join pairs o on o.pair = r.rival_pair
        left join ({DECISIONS_VIEW.select}) d on d.uid = p.uid
        order by i.pair
    """  # noqa: S608


def _pairs_of(connection: duckdb.DuckDBPyConnection, first: int, end: int) -> pa.Table:
    sql = "select pair, uid, scored from pairs where pair >= ? and pair < ? order by pair"
    return connection.sql(sql, params=[first, end]).to_arrow_table()


def _add_scores(
    connection: duckdb.DuckDBPyConnection, run: RunFolder, manifest: Manifest, numbers: Mapping[str, tuple[int, int]]
) -> None:
    """Fill ``store.rivals``, ``store.neighbours`` and ``store.scored``."""
    for batch in _batches(manifest.shards):
        tables: dict[str, list[pa.Table]] = {stage: [] for stage in ABOUT_PAIRS}
        for shard in batch:
            pairs = _pairs_of(connection, *numbers[shard.id])
            for stage, found in tables.items():
                found.append(read_about(run, stage, shard, pairs))
        incoming = {stage: pa.concat_tables(found) for stage, found in tables.items()}
        first, end = numbers[batch[0].id][0], numbers[batch[-1].id][1]
        inserts = {
            "rivals": _INSERT_RIVALS,
            "neighbours": _INSERT_NEIGHBOURS,
            "evidence": _insert_scored(first, end),
        }
        for stage, sql in inserts.items():
            if _run(connection, sql, incoming[stage]) != incoming[stage].num_rows:
                raise StoreError(
                    f"{run.root}: {stage} of {batch[0].name} .. {batch[-1].name} do not fit the pairs of the run; "
                    "run the same scan again"
                )


def _add_problems(connection: duckdb.DuckDBPyConnection, run: RunFolder, manifest: Manifest) -> None:
    for batch in _batches(manifest.shards):
        tables = [table for shard in batch for table in read_problems(run, shard)]
        if tables:
            _run(connection, "insert into problems by name select * from incoming", pa.concat_tables(tables))


_INSERT_FETCHED = f"""
    insert into fetched by name
    select p.uid, i.* exclude (n) from (select *, {DOMAIN_SQL} as domain, row_number() over () as n from incoming) i
    left join pairs p on p.shard = i.shard and p.ordinal = i.ordinal order by i.n
"""  # noqa: S608


def _add_fetched(connection: duckdb.DuckDBPyConnection, run: RunFolder, manifest: Manifest) -> None:
    for batch in _batches(manifest.shards):
        tables = list(read_fetched(run, batch))
        if tables:
            _run(connection, _INSERT_FETCHED, pa.concat_tables(tables))
    rejected = read_rejected(run)
    if rejected is not None and rejected.num_rows:
        _run(connection, _INSERT_FETCHED, rejected)


def _add_campaigns(connection: duckdb.DuckDBPyConnection, run: RunFolder) -> None:
    for name in ("campaigns", "campaign_pairs"):
        table = read_campaigns(run, name)
        if table is not None:
            _run(connection, f"insert into {name} by name select * from incoming", table)  # noqa: S608  # our own name


def _add_shards(connection: duckdb.DuckDBPyConnection, manifest: Manifest) -> None:
    rows = pa.table(
        {
            "shard": [shard.name for shard in manifest.shards],
            "path": [shard.path for shard in manifest.shards],
            "bytes": pa.array((shard.size for shard in manifest.shards), pa.uint64()),
            "fingerprint": [shard.fingerprint for shard in manifest.shards],
            "n_pairs": pa.array((shard.n_pairs for shard in manifest.shards), pa.uint64()),
        }
    )
    _run(connection, "insert into shards by name select * from incoming", rows)


def _add_run(connection: duckdb.DuckDBPyConnection, manifest: Manifest) -> None:
    estimate, low, high = manifest.contamination
    values = {
        "schema_version": SCHEMA_VERSION,
        "version": manifest.version,
        "encoder": manifest.encoder,
        "encoder_fingerprint": manifest.encoder_fingerprint,
        "views": list(manifest.views),
        "pool_size": manifest.pool_size,
        "rounds": manifest.rounds,
        "seed": manifest.seed,
        "parameters": manifest.parameters,
        "n_pairs": _count(connection, "pairs"),
        "n_scored": _count(connection, "store.scored"),
        "n_problems": _count(connection, "problems"),
        "contamination": estimate,
        "contamination_low": low,
        "contamination_high": high,
    }
    names = ", ".join(values)
    marks = ", ".join("?" * len(values))
    connection.execute(f"insert into runs ({names}) values ({marks})", list(values.values())).fetchall()  # noqa: S608


def _let_go_of_previous(run: RunFolder) -> None:
    """Make sure that nobody is writing to the database that is about to be replaced, and remove its write-ahead log.

    That log belongs to a writer that died, and could be taken for the new file's. All that a writer of ours changes in
    a finished database is the copy of the log of decisions, so nothing is lost; nor is it if the old file is damaged.

    Raises:
        StoreLockedError: another process is writing to it.
    """
    if run.database.exists():
        refuse_if_written_to(run.database)
    run.database.with_name(run.database.name + ".wal").unlink(missing_ok=True)


def _fill(path: Path, run: RunFolder, manifest: Manifest) -> IngestReport:
    with duckdb.connect(path, config={"autoinstall_known_extensions": False}) as connection:
        _run(connection, "create schema store")
        _create(connection, TABLES)
        history, n_bytes = read_log(run)
        insert_history(connection, history, first_line=0)
        connection.execute("insert into store.decision_log values (?)", [n_bytes]).fetchall()
        _add_shards(connection, manifest)
        numbers = _add_pairs(connection, run, manifest)
        _add_scores(connection, run, manifest, numbers)
        _add_problems(connection, run, manifest)
        _add_fetched(connection, run, manifest)
        add_domains(connection)
        _add_campaigns(connection, run)
        _add_run(connection, manifest)
        _create(connection, VIEWS)
        report = IngestReport(
            n_shards=len(manifest.shards),
            n_pairs=_count(connection, "pairs"),
            n_scored=_count(connection, "store.scored"),
            n_rivals=_count(connection, "store.rivals"),
            n_neighbours=_count(connection, "store.neighbours"),
            n_problems=_count(connection, "problems"),
            n_decisions=_count(connection, "decisions"),
            n_stale_decisions=_count(connection, "decisions where uid not in (select uid from pairs)"),
        )
        if report.n_scored != _count(connection, "pairs where scored"):
            raise StoreError(f"{run.root}: some scored pairs have no evidence; run the same scan again")
        _run(connection, "checkpoint")
    return report


def ingest(run: RunFolder) -> IngestReport:
    """Build the database of a finished scan and move it into place, with the decisions of the log.

    The caller holds ``run.locked()``.

    Args:
        run: the run folder; its manifest says which shards belong to the scan.

    Raises:
        StoreLockedError: another process is writing to the previous database.
        StoreError: the scan is unfinished, one of its files is damaged or missing, or the log of decisions cannot be
            read.
    """
    manifest = read_manifest(run)
    for leftover in run.root.glob(f".tmp-*-{run.database.name}*"):
        leftover.unlink(missing_ok=True)
    _let_go_of_previous(run)
    reports: list[IngestReport] = []
    try:
        write_atomic(run.database, lambda path: reports.append(_fill(path, run, manifest)))
    except duckdb.Error as error:
        raise store_error(run.database, error) from error
    return reports[0]
