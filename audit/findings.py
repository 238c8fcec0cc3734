"""What somebody wants to hear right after a scan, beyond its counts: campaigns, and problems by kind."""

from __future__ import annotations

from dataclasses import dataclass

from roclip_audit.audit.query import clear_errors
from roclip_audit.audit.store import open_readonly
from roclip_audit.core.run import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """One campaign, as in the table campaigns; ``label`` and ``sentence`` may quote the scanned data."""

    campaign: int
    kind: str
    label: str
    n_pairs: int
    n_suspicious: int
    p_corrected: float
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Campaigns, those with the most suspicious pairs first; problems as (reason, number), the most frequent first."""

    campaigns: tuple[Campaign, ...]
    problems: tuple[tuple[str, int], ...]


_CAMPAIGNS = """
    select campaign, kind, label, n_pairs, n_suspicious, p_corrected, sentence from campaigns
    order by n_suspicious desc, campaign
"""


def read_findings(run: RunFolder) -> Findings:
    """Read the findings of a finished scan.

    Raises:
        StoreError: the database is missing, damaged or locked.
    """
    names = ("campaign", "kind", "label", "n_pairs", "n_suspicious", "p_corrected", "sentence")
    with open_readonly(run) as connection, clear_errors(run.database):
        campaigns = connection.execute(_CAMPAIGNS).fetchall()
        problems = connection.execute(
            "select reason, count(*) from problems group by reason order by count(*) desc, reason"
        ).fetchall()
    return Findings(
        campaigns=tuple(Campaign(**dict(zip(names, row, strict=True))) for row in campaigns),
        problems=tuple((reason, n) for reason, n in problems),
    )
