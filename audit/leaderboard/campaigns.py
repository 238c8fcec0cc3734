"""Campaigns against the truth: did a scan put an attack's pairs together, and did it find the trigger?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from roclip_audit.audit.leaderboard.scores import Scored
from roclip_audit.audit.stage_files import read_campaigns
from roclip_audit.core.run import RunFolder

MATCH = 0.5
"""A campaign matches an attack if it holds at least this share of its planted pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The campaigns of one attack.

    Attributes:
        attack: the attack.
        n_planted: its pairs.
        recall: largest share of them that one campaign holds.
        found: whether that is at least ``MATCH``.
        purity: share of planted pairs (of any attack) in that campaign; None if nothing matches.
        purity_suspicious: the same among the pairs that the campaign calls suspicious.
        iou: mean over the attack's stamped pairs of the intersection over union of the recovered box and the true one;
            0 if nothing was recovered, None if the attack stamps nothing.
    """

    attack: str
    n_planted: int
    recall: float
    found: bool
    purity: float | None
    purity_suspicious: float | None
    iou: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignScore:
    """All campaigns of a run: ``n_false`` are those whose suspicious pairs are mostly pairs left alone."""

    n_campaigns: int
    n_false: int
    matches: tuple[Match, ...]


def score_campaigns(run: RunFolder, scored: Scored) -> CampaignScore | None:
    """Compare the campaigns of a run with the truth; None if the scan wrote none.

    Raises:
        StoreError: a file of the campaigns is damaged.
    """
    campaigns, members = read_campaigns(run, "campaigns"), read_campaigns(run, "campaign_pairs")
    if campaigns is None or members is None:
        return None
    found = pl.DataFrame(pl.from_arrow(campaigns))
    attack_of = scored.pairs.select("uid", "attack")
    held = pl.DataFrame(pl.from_arrow(members)).join(attack_of, on="uid", how="left")
    suspicious = held.filter("suspicious").group_by("campaign").agg(pl.col("attack").is_null().mean().alias("sound"))
    matches = tuple(_match(attack, scored, found, held) for attack in scored.attacks)
    return CampaignScore(
        n_campaigns=len(found), n_false=suspicious.filter(pl.col("sound") > 1 - MATCH).height, matches=matches
    )


def _match(attack: str, scored: Scored, campaigns: pl.DataFrame, held: pl.DataFrame) -> Match:
    """Find the campaign that holds most of an attack; of equal ones the purest."""
    planted = scored.of(attack)
    boxes = planted["box"].drop_nulls()
    shares = (
        held.group_by("campaign")
        .agg(
            n_held=(pl.col("attack") == attack).sum(),
            purity=pl.col("attack").is_not_null().mean(),
            purity_suspicious=pl.col("attack").filter(pl.col("suspicious")).is_not_null().mean(),
        )
        .with_columns(recall=pl.col("n_held") / len(planted))
        .sort(["recall", "purity", "campaign"], descending=[True, True, False])
    )
    matching = shares.filter(pl.col("recall") >= MATCH)
    best = matching.row(0, named=True) if len(matching) else None
    return Match(
        attack=attack,
        n_planted=len(planted),
        recall=float(shares["recall"][0]) if len(shares) else 0.0,
        found=best is not None,
        purity=best["purity"] if best else None,
        purity_suspicious=best["purity_suspicious"] if best else None,
        iou=_best_iou(campaigns.join(matching.select("campaign"), on="campaign"), boxes) if len(boxes) else None,
    )


def _best_iou(campaigns: pl.DataFrame, boxes: pl.Series) -> float:
    """Return the mean IoU of the true boxes with the recovered one that fits best; 0 if none was recovered."""
    recovered = campaigns.select("trigger_x", "trigger_y", "trigger_width", "trigger_height").drop_nulls()
    true_N4 = np.array(boxes.to_list(), dtype=np.float64)
    means = [float(np.mean([box_iou(np.array(one), true) for true in true_N4])) for one in recovered.rows()]
    return max(means, default=0.0)


def box_iou(one: np.ndarray, other: np.ndarray) -> float:
    """Return intersection over union of two boxes (x, y, width, height) in one unit; 0 for two empty ones."""
    low = np.maximum(one[:2], other[:2])
    high = np.minimum(one[:2] + one[2:], other[:2] + other[2:])
    common = float(np.prod(np.clip(high - low, 0.0, None)))
    union = float(np.prod(one[2:]) + np.prod(other[2:])) - common
    return common / union if union > 0 else 0.0
