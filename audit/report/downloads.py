"""What the report says about where the pictures came from: findings of the download, and domains that stand out."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from roclip_audit.audit.report.facts import rows

TOP_DOMAINS = 15
LEVEL = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One kind of finding, as in the view integrity_by_kind."""

    finding: str
    meaning: str | None
    n_urls: int
    n_pairs: int
    n_domains: int
    example_url: str | None
    example_detail: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A domain with more suspicious pairs than chance explains, as in the view by_domain."""

    name: str
    n_scored: int
    n_flagged: int
    base_rate: float
    p_corrected: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Downloads:
    """Findings of the download, the most frequent first, and domains that stand out, the least likely first."""

    findings: tuple[Finding, ...]
    domains: tuple[Domain, ...]


def read_downloads(connection: duckdb.DuckDBPyConnection) -> Downloads:
    """Read what is known of the downloads; nothing where the shards say nothing about them."""
    found = rows(
        connection,
        """select domain as name, n_scored, n_flagged, base_rate, p_corrected from by_domain
        where domain is not null and p_corrected <= ? order by p_corrected, domain limit ?""",
        [LEVEL, TOP_DOMAINS],
    )
    return Downloads(
        findings=tuple(Finding(**row) for row in rows(connection, "from integrity_by_kind")),
        domains=tuple(Domain(**row) for row in found),
    )
