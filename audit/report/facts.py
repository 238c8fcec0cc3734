"""What the report says about a run as a whole, read from its database in a handful of queries."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from roclip_audit.core.schema import FLAG_FDR

FDR_LEVELS = (0.05, FLAG_FDR, 0.2, 0.5)
N_BINS = 40
CURVE_POINTS = 160
TOP_ROWS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The scan: what was scanned, with what. ``parameters`` are flattened to dotted names."""

    version: str
    schema_version: int
    encoder: str
    encoder_fingerprint: str
    views: tuple[str, ...]
    pool_size: int
    rounds: int
    seed: int
    parameters: tuple[tuple[str, str], ...]
    n_pairs: int
    n_scored: int
    n_problems: int
    contamination: tuple[float, float, float] | None
    n_shards: int
    n_unread_shards: int
    n_bytes: int
    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The list cut at one error rate: its length, its expected sound pairs, and the lowest suspicion on it."""

    fdr: float
    n_pairs: int
    expected_sound: float
    lowest_suspicion: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How suspicion is spread.

    Attributes:
        histogram: pairs in N_BINS equal bins from 0 to 1.
        curve: (n, m): of the n most suspicious pairs, about m are sound.
        cuts: one a level of FDR_LEVELS.
        expected_mismatched: the sum of suspicion over all scored pairs.
    """

    histogram: tuple[int, ...]
    curve: tuple[tuple[int, float], ...]
    cuts: tuple[Cut, ...]
    expected_mismatched: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A shard or a domain. ``n_problems`` is None for domains, ``mean`` None where nothing was scored."""

    name: str | None
    n_scored: int
    n_flagged: int
    expected_mismatched: float
    mean: float | None
    n_problems: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """The groups with the most expected mismatches, and how many there are."""

    rows: tuple[Group, ...]
    n_all: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemKind:
    """One kind of problem, as in the view problems_by_kind."""

    stage: str
    reason: str
    fatal: bool
    n_problems: int
    n_shards: int
    example_shard: str
    example_key: str | None
    example_detail: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateGroup:
    """One picture that comes several times; ``uid`` and ``caption`` are those of its most suspicious pair."""

    n_pairs: int
    n_captions: int
    n_flagged: int
    worst: float
    uid: str
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """Pictures that come again: how many pictures and pairs, and the groups to look at first."""

    n_groups: int
    n_pairs: int
    n_contradictory: int
    rows: tuple[DuplicateGroup, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One decision of a person."""

    uid: str
    verdict: str
    note: str | None
    decided_at: str
    reviewer: str | None
    caption: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """What people decided: how many of each verdict, and the latest."""

    n_keep: int
    n_drop: int
    latest: tuple[Decision, ...]


def rows(connection: duckdb.DuckDBPyConnection, sql: str, values: object = None) -> list[dict[str, Any]]:
    """Run one query and return its rows by column name."""
    found = connection.execute(sql, values)
    names = [column[0] for column in found.description or ()]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def flatten(value: object, name: str = "") -> list[tuple[str, str]]:
    """Return nested settings as (dotted name, value in JSON) in the order they come."""
    if isinstance(value, dict) and value:
        return [one for key, inner in value.items() for one in flatten(inner, f"{name}.{key}" if name else str(key))]
    return [(name, value if isinstance(value, str) else json.dumps(value))] if name else []


_SHARDS = """
    select count(*) as n_shards, coalesce(sum(bytes), 0)::ubigint as n_bytes, any_value(path order by path) as first,
        count(*) filter (where n_pairs = 0) as n_unread_shards, arg_max(path, path) as last from shards
"""


def read_run(connection: duckdb.DuckDBPyConnection) -> Run:
    """Read what was scanned and how."""
    (run,) = rows(connection, "select * exclude (contamination, contamination_low, contamination_high) from runs")
    (share,) = connection.execute("select contamination, contamination_low, contamination_high from runs").fetchall()
    (shards,) = rows(connection, _SHARDS)
    run["views"] = tuple(run["views"])
    run["parameters"] = tuple(flatten(json.loads(run["parameters"] or "{}")))
    folder = _common_folder(shards.pop("first") or "", shards.pop("last") or "")
    known = None if None in share else share
    return Run(**run, **shards, contamination=known, folder=folder)


def _common_folder(first: str, last: str) -> str:
    """Return the folder that all paths between two sorted ones share."""
    parts = []
    for a, b in zip(first.split("/")[:-1], last.split("/")[:-1], strict=False):
        if a != b:
            break
        parts.append(a)
    return "/".join(parts)


def read_scores(connection: duckdb.DuckDBPyConnection) -> Scores:
    """Read how suspicion is spread over the scored pairs."""
    found = connection.execute(
        "select suspicion::double as suspicion, fdr::double as fdr from suspicion order by suspicion desc"
    ).fetchnumpy()
    suspicion_N, fdr_N = (np.ma.filled(found[name], 0.0).astype(np.float64) for name in ("suspicion", "fdr"))
    sound_N = np.cumsum(1 - suspicion_N)
    cuts = tuple(_cut(level, suspicion_N, fdr_N, sound_N) for level in FDR_LEVELS)
    histogram = np.histogram(suspicion_N, bins=N_BINS, range=(0, 1))[0]
    longest = max((cut.n_pairs for cut in cuts), default=0) or len(suspicion_N)
    return Scores(
        histogram=tuple(histogram.tolist()),
        curve=_curve(sound_N[:longest]),
        cuts=cuts,
        expected_mismatched=float(suspicion_N.sum()),
    )


def _cut(
    level: float, suspicion_N: npt.NDArray[np.float64], fdr_N: npt.NDArray[np.float64], sound_N: npt.NDArray[np.float64]
) -> Cut:
    n = int((fdr_N <= level).sum())
    if not n:
        return Cut(fdr=level, n_pairs=0, expected_sound=0.0, lowest_suspicion=None)
    return Cut(fdr=level, n_pairs=n, expected_sound=float(sound_N[n - 1]), lowest_suspicion=float(suspicion_N[n - 1]))


def _curve(sound_N: npt.NDArray[np.float64]) -> tuple[tuple[int, float], ...]:
    """Thin the curve out to what can be seen."""
    if not len(sound_N):
        return ((0, 0.0),)
    chosen = np.unique(np.linspace(1, len(sound_N), CURVE_POINTS).round().astype(np.int64))
    return ((0, 0.0), *zip(chosen.tolist(), sound_N[chosen - 1].tolist(), strict=True))


def read_shards(connection: duckdb.DuckDBPyConnection) -> Groups:
    """Read the shards with the most expected mismatches, or with problems where nothing was scored."""
    found = rows(
        connection,
        """select shard as name, n_scored, n_flagged, expected_mismatched, mean_suspicion as mean, n_problems
        from by_shard order by expected_mismatched desc, n_problems desc, shard limit ?""",
        [TOP_ROWS],
    )
    (n_all,) = connection.execute("select count(*) from shards").fetchall()[0]
    return Groups(rows=tuple(Group(**row) for row in found), n_all=n_all)


def read_domains(connection: duckdb.DuckDBPyConnection) -> Groups:
    """Read the domains with the most expected mismatches; none if no pair has a url."""
    found = rows(
        connection,
        """select domain as name, n_scored, n_flagged, expected_mismatched, mean_suspicion as mean,
            count(*) over () as n_all from by_domain where domain is not null
        order by expected_mismatched desc, domain limit ?""",
        [TOP_ROWS],
    )
    n_all = found[0]["n_all"] if found else 0
    return Groups(rows=tuple(Group(**{k: v for k, v in row.items() if k != "n_all"}) for row in found), n_all=n_all)


def read_problems(connection: duckdb.DuckDBPyConnection) -> tuple[ProblemKind, ...]:
    """Read the problems by kind, the most frequent first."""
    return tuple(ProblemKind(**row) for row in rows(connection, "from problems_by_kind"))


_DUPLICATES = f"""
    select count(*) as n_pairs, count(distinct caption) as n_captions, count(*) filter (fdr <= {FLAG_FDR}) as n_flagged,
        max(suspicion) as worst, arg_max(uid, (suspicion, uid)) as uid, arg_max(caption, (suspicion, uid)) as caption
    from suspicion where n_same > 1 group by same_group having n_pairs > 1
"""  # noqa: S608  # our own number


def read_duplicates(connection: duckdb.DuckDBPyConnection) -> Duplicates:
    """Read the pictures that come several times, those under many captions first."""
    (totals,) = rows(
        connection,
        f"""select count(*) as n_groups, coalesce(sum(n_pairs), 0)::ubigint as n_pairs,
        count(*) filter (n_captions > 1) as n_contradictory from ({_DUPLICATES})""",  # noqa: S608  # as above
    )
    found = rows(
        connection,
        f"{_DUPLICATES} and n_captions > 1 order by n_flagged desc, n_captions desc, worst desc, uid limit 10",
    )
    return Duplicates(**totals, rows=tuple(DuplicateGroup(**row) for row in found))


def read_decisions(connection: duckdb.DuckDBPyConnection) -> Decisions:
    """Read what people decided, the latest first."""
    counts = dict(connection.execute("select verdict, count(*) from decisions group by verdict").fetchall())
    found = rows(
        connection,
        """with latest as (from decisions order by decided_at desc, uid limit 10)
        select l.uid, l.verdict, l.note, strftime(l.decided_at, '%Y-%m-%d %H:%M') as decided_at, l.reviewer,
            p.caption
        from latest l left join pairs p using (uid) order by l.decided_at desc, l.uid""",
    )
    return Decisions(
        n_keep=counts.get("keep", 0), n_drop=counts.get("drop", 0), latest=tuple(Decision(**row) for row in found)
    )
