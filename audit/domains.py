"""Fill what the database knows about domains: what their URLs gave, and whether they are suspicious beyond chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from roclip_audit.core.fetched import DEAD
from roclip_audit.core.schema import FLAG_FDR
from roclip_audit.core.significance import benjamini_hochberg, binomial_tail

MIN_PAIRS = 2
"""Domains with fewer scored pairs are not tested: each test makes the others weaker."""

_COUNTS = f"""
    with scores as (
        select domain, count(*) as n_scored, count(*) filter (where fdr <= {FLAG_FDR}) as n_suspicious
        from store.scored where domain is not null group by domain
    ), fetches as (
        select domain, (count(*) filter (where status <> 'rejected'))::ubigint as n_urls,
            (count(*) filter (where status not in ('success', 'rejected')))::ubigint as n_failed,
            (count(*) filter (where reason in ({", ".join(f"'{reason}'" for reason in DEAD)})))::ubigint as n_dead,
            (count(*) filter (where hash_matches = false))::ubigint as n_hash_mismatch
        from fetched where domain is not null group by domain
    ), shared as (
        select image_sha256 from pairs where image_sha256 is not null group by 1 having count(distinct domain) > 1
    ), pictures as (
        select domain, count(*)::ubigint as n_shared_pictures
        from pairs semi join shared using (image_sha256) where domain is not null group by domain
    )
    select domain, n_urls, n_failed, n_dead, n_hash_mismatch,
        coalesce(n_shared_pictures, 0)::ubigint as n_shared_pictures,
        coalesce(n_scored, 0) as n_scored, coalesce(n_suspicious, 0) as n_suspicious
    from scores full join fetches using (domain) full join pictures using (domain) order by domain
"""  # noqa: S608 - our own names


@dataclass(frozen=True, slots=True)
class Tested:
    """What came of a test; None where there was none."""

    base_rate: float | None
    p_value: float | None
    p_corrected: float | None


def enrichment(n_pairs: Sequence[int], n_suspicious: Sequence[int], n_all: int, n_all_suspicious: int) -> list[Tested]:
    """Test for each group whether it has more suspicious pairs than the pairs outside of it lead one to expect.

    Binomial upper tail, Benjamini-Hochberg over the groups. One sound and one suspicious pair are added to those
    outside, so that a group is not infinitely surprising where the rest has none.

    Args:
        n_pairs: [G] scored pairs of each group.
        n_suspicious: [G] suspicious pairs among them.
        n_all: scored pairs altogether, in groups or not.
        n_all_suspicious: suspicious pairs among those.

    Returns:
        [G]; no test for groups below MIN_PAIRS, or for one that is the whole data set.
    """
    base: list[float | None] = []
    p_values: list[float] = []
    for n, k in zip(n_pairs, n_suspicious, strict=True):
        outside = n_all - n
        if n < MIN_PAIRS or outside <= 0:
            base.append(None)
            continue
        base.append((n_all_suspicious - k) / outside)
        p_values.append(binomial_tail(k, n, (n_all_suspicious - k + 1) / (outside + 2)))
    results = iter(zip(p_values, benjamini_hochberg(p_values), strict=True))
    tested = []
    for rate in base:
        p_value, p_corrected = (None, None) if rate is None else next(results)
        tested.append(Tested(rate, p_value, None if p_corrected is None else float(p_corrected)))
    return tested


def add_domains(connection: duckdb.DuckDBPyConnection) -> None:
    """Fill ``store.domains`` from pairs, scores and fetches; a few hundred bytes of memory for each domain."""
    found = connection.sql(_COUNTS).to_arrow_table()
    totals = f"select count(*), count(*) filter (where fdr <= {FLAG_FDR}) from store.scored"  # noqa: S608
    n_all, n_all_suspicious = connection.execute(totals).fetchall()[0]
    tested = enrichment(
        found["n_scored"].to_pylist(), found["n_suspicious"].to_pylist(), int(n_all), int(n_all_suspicious)
    )
    table = found.drop_columns(["n_scored", "n_suspicious"])
    for name in ("base_rate", "p_value", "p_corrected"):
        table = table.append_column(name, pa.array([getattr(one, name) for one in tested], pa.float64()))
    connection.register("incoming", table)
    connection.execute("insert into store.domains by name select * from incoming order by domain").fetchall()
    connection.unregister("incoming")
