"""Campaigns against the truth: did a scan put an attack's pairs together, and did it find the trigger?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from roclip_audit.audit.leaderboard.scores import Scored
from roclip_audit.audit.stage_files import read_campaigns
from roclip_audit.core.run import RunFolder

MATCH = 0.5
"""A campaign matches a part of an attack if it holds at least this share of its planted pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The campaigns of one attack. What it plants for several words, or with several pictures, are parts of their own.

    Attributes:
        attack: the attack.
        n_planted: its pairs.
        recall: largest share of a part that one campaign holds, mean over the planted pairs.
        found: share of the parts for which that is at least ``MATCH``.
        purity: share of planted pairs (of any attack) in those campaigns, mean over the parts; None if nothing matches.
        purity_own: the same, of this attack's pairs.
        purity_suspicious: as ``purity``, among the pairs that the campaign calls suspicious.
        iou: mean over the attack's stamped pairs of the intersection over union of the recovered box and the true one,
            that of its size alone where the place varies; 0 if nothing was recovered, None if the attack stamps
            nothing.
    """

    attack: str
    n_planted: int
    recall: float
    found: float
    purity: float | None
    purity_own: float | None
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
    """Find the campaigns that hold most of an attack's parts."""
    planted = scored.of(attack)
    boxes = planted["box"].drop_nulls()
    parts = [
        _best_campaign(uids, attack, held) for uids in planted.group_by("part", maintain_order=True).agg("uid")["uid"]
    ]
    matching = [part for part in parts if part["recall"] >= MATCH]

    def mean(of: str) -> float | None:
        return float(np.mean([part[of] for part in matching])) if matching else None

    return Match(
        attack=attack,
        n_planted=len(planted),
        recall=sum(part["n_held"] for part in parts) / len(planted),
        found=len(matching) / len(parts),
        purity=mean("purity"),
        purity_own=mean("purity_own"),
        purity_suspicious=mean("purity_suspicious"),
        iou=_best_iou(campaigns, [part["campaign"] for part in matching], boxes) if len(boxes) else None,
    )


def _best_campaign(uids: pl.Series, attack: str, held: pl.DataFrame) -> dict[str, Any]:
    """Describe the campaign that holds most of some pairs; of equal ones the purest."""
    is_planted = pl.col("attack").is_not_null()
    found = (
        held.group_by("campaign")
        .agg(
            n_held=pl.col("uid").is_in(uids.implode()).sum(),
            purity=is_planted.mean(),
            purity_own=(pl.col("attack") == attack).fill_null(value=False).mean(),
            purity_suspicious=is_planted.filter(pl.col("suspicious")).mean(),
        )
        .with_columns(recall=pl.col("n_held") / len(uids))
        .sort(["recall", "purity_own", "campaign"], descending=[True, True, False])
    )
    return found.row(0, named=True) if len(found) else {"recall": 0.0, "n_held": 0}


def _best_iou(campaigns: pl.DataFrame, matching: Sequence[int], boxes: pl.Series) -> float:
    """Return the mean IoU of the true boxes with the recovered one that fits best; 0 if none was recovered."""
    recovered = campaigns.filter(pl.col("campaign").is_in(matching)).select(
        "trigger_x", "trigger_y", "trigger_width", "trigger_height"
    )
    true_N4 = np.array(boxes.to_list(), dtype=np.float64)
    means = [
        float(np.mean([box_iou(_laid_over(one, true), true) for true in true_N4]))
        for one in recovered.filter(pl.col("trigger_width").is_not_null()).rows()
    ]
    return max(means, default=0.0)


def _laid_over(recovered: tuple[float | None, ...], true_4: np.ndarray) -> np.ndarray:
    """Return a recovered box; where its place varies, at the place of the true one."""
    x, y, width, height = recovered
    return np.array([true_4[0] if x is None else x, true_4[1] if y is None else y, width, height], dtype=np.float64)


def box_iou(one: np.ndarray, other: np.ndarray) -> float:
    """Return intersection over union of two boxes (x, y, width, height) in one unit; 0 for two empty ones."""
    low = np.maximum(one[:2], other[:2])
    high = np.minimum(one[:2] + one[2:], other[:2] + other[2:])
    common = float(np.prod(np.clip(high - low, 0.0, None)))
    union = float(np.prod(one[2:]) + np.prod(other[2:])) - common
    return common / union if union > 0 else 0.0
