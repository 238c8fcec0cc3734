"""Choose the campaigns among the candidate groups: significant, large in effect, and each explaining something alone.

Many groups hold the same pairs: an attack on "banana" with prompt templates makes "banana", "a banana", "photo" and
"photo of" significant. With ``r_g`` the share of suspicious units in a group, a set of groups predicts for every unit
the largest ``r_g`` of its groups (the base rate outside). Groups are left out one by one: first those without which the
likelihood rises (a general word, "photo", promises too much for the pairs that it holds alone), then, the least
significant first, those that cost less than ``log(number of groups tested)``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from roclip_audit.core.errors import ConfigError
from roclip_audit.sanitize.campaigns.excess import MIN_RHO, Null, fit_null, holm, tail
from roclip_audit.sanitize.campaigns.groups import MIN_UNITS, Group
from roclip_audit.sanitize.stamps.told import Told

MIN_GROUPS: Final = 20
ORIGINS: Final = frozenset({"domain", "shard"})
"""Kinds whose sound groups differ a lot: one site has logos that no encoder knows, another photographs."""
HARM: Final = 1.0  # log likelihood by which a group must worsen the prediction to go before all others
MAX_COMPARED: Final = 400  # significant groups that are compared with each other
STAMP_SEARCHES: Final = 2
"""By the picture and by the captions: each corrects for its own tests, as every kind of groups does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignConfig:
    """When a group is a campaign.

    Attributes:
        unrelated: p-value of the pairing above which a pair counts as suspicious: 1 - this share of unrelated pairs do.
        level: chance of any false campaign, over all groups tested and both searches for stamps.
        min_ratio: suspicious share over base rate that a campaign has at least.
        min_excess: suspicious share minus base rate that a campaign has at least.
        max_triggers: campaigns whose pictures are searched for a trigger, the most significant first.
    """

    unrelated: float = 0.2
    level: float = 0.05
    min_ratio: float = 2.0
    min_excess: float = 0.15
    max_triggers: int = 24

    def __post_init__(self) -> None:
        if not (0 < self.unrelated < 1 and 0 < self.level < 1 and self.min_ratio >= 1 and 0 <= self.min_excess < 1):
            raise ConfigError("campaigns: unrelated, level and min_excess in (0, 1) and min_ratio >= 1 are needed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A campaign as far as counting goes.

    Attributes:
        group: its pairs.
        n_suspicious: suspicious pairs among them.
        base_rate: share of suspicious pairs outside; of a trait, among other pairs that share one.
        p_value, p_corrected: of its units, see ``excess``.
        n_tested: groups that were tested in all.
        shows: of a stamp, its kind.
        by_captions: of a stamp, whether it was found by the captions.
    """

    group: Group
    n_suspicious: int
    base_rate: float
    p_value: float
    p_corrected: float
    n_tested: int
    shows: str | None = None
    by_captions: bool = False


def choose(
    groups: Sequence[Group],
    of_traced: Sequence[Group],
    suspicious_N: np.ndarray,
    traced_N: np.ndarray,
    config: CampaignConfig,
    *,
    known: Sequence[Found] = (),
) -> list[Found]:
    """Return the campaigns among groups of all pairs and among groups of pairs that share a trait, surest first.

    An attack on a word is diluted by the sound pairs that name it. Where its pictures share something, they are
    compared with the other pairs whose pictures do: the traced pairs are a data set of their own, with a base rate of
    their own, for honest families share traits too. A group of captions whose suspicious pairs are mostly in campaigns
    of a trait, or known ones, is left out, and one of a trait whose are in known ones.

    Args:
        groups: candidates among all pairs.
        of_traced: candidates among the pairs that share a trait.
        suspicious_N: bool [N], the pairs that count.
        traced_N: bool [N], the pairs that share a trait.
        config: see CampaignConfig.
        known: what was found by other searches, ``p_corrected`` for what each of them tested; returned with the others
            where it is sure enough among all kinds.
    """
    covered_N = np.zeros(len(suspicious_N), dtype=bool)
    rows_T, place_N = np.flatnonzero(traced_N), np.cumsum(traced_N) - 1
    n_kinds = STAMP_SEARCHES + len({group.kind for group in [*groups, *of_traced]})
    known = [
        replace(found, p_corrected=p_corrected)
        for found in known
        if (p_corrected := min(1.0, n_kinds * found.p_corrected)) <= config.level
    ]
    for found in known:
        covered_N[found.group.rows] = True
    moved = [_moved(group, place_N) for group in of_traced]
    by_trait = [
        replace(found, group=_moved(found.group, rows_T))
        for found in choose_among(moved, suspicious_N[rows_T], config, n_kinds=n_kinds)
        if not _mostly(covered_N[rows_T], found.group, suspicious_N[rows_T])
    ]
    for found in by_trait:
        covered_N[found.group.rows] = True
    kept = [
        found
        for found in choose_among(groups, suspicious_N, config, n_kinds=n_kinds)
        if found.group.kind != "captions" or not _mostly(covered_N, found.group, suspicious_N)
    ]
    n_tested = len(groups) + len(of_traced)
    campaigns = [*known, *(replace(found, n_tested=n_tested) for found in [*kept, *by_trait])]
    return sorted(campaigns, key=lambda found: found.p_corrected)


def carriers(groups: Sequence[Group], stamps: Sequence[Told]) -> list[Found]:
    """Return what the carriers of stamps would be as campaigns: all suspicious, nobody else (``sanitize.stamps``)."""
    return [
        Found(
            group=group,
            n_suspicious=len(group.rows),
            base_rate=0.0,
            p_value=stamp.p_value,
            p_corrected=min(1.0, stamp.n_tested * stamp.p_value),
            n_tested=stamp.n_tested,
            shows=stamp.kind,
            by_captions=stamp.by_captions,
        )
        for group, stamp in zip(groups, stamps, strict=True)
        if len(group.rows)
    ]


def _moved(group: Group, place_N: np.ndarray) -> Group:
    return replace(group, rows=place_N[group.rows], units=place_N[group.units])


def choose_among(
    groups: Sequence[Group], suspicious_N: np.ndarray, config: CampaignConfig, *, n_kinds: int
) -> list[Found]:
    """Return the campaigns among groups, the most significant first; ``n_kinds`` are tested in all.

    Attacks would widen the null that they are tested against. So what is significant against the narrowest null (rho at
    its floor), kind by kind, is left out when the null is fitted, and everything is tested against the fitted one.
    """
    if not groups or not suspicious_N.any():
        return []
    kinds = sorted({group.kind for group in groups})
    narrow = dict.fromkeys(kinds, Null(float(suspicious_N.mean()), MIN_RHO))
    trimmed, _, _ = _significant(groups, suspicious_N, narrow, config, n_kinds=1)
    trimmed = [index for index in trimmed if groups[index].kind not in ORIGINS]
    nulls = _nulls(groups, trimmed, suspicious_N)
    chosen, p_G, corrected_G = _significant(groups, suspicious_N, nulls, config, n_kinds=n_kinds)
    return [
        Found(
            group=groups[index],
            n_suspicious=int(suspicious_N[groups[index].rows].sum()),
            base_rate=_outside(groups[index], suspicious_N),
            p_value=float(p_G[index]),
            p_corrected=float(corrected_G[index]),
            n_tested=len(groups),
        )
        for index in chosen
    ]


def _significant(
    groups: Sequence[Group],
    suspicious_N: np.ndarray,
    nulls: Mapping[str, Null],
    config: CampaignConfig,
    *,
    n_kinds: int,
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Return the groups that pass and are needed, the most significant first; p-values, corrected p-values."""
    p_G = np.array([tail(len(g.units), int(suspicious_N[g.units].sum()), nulls[g.kind]) for g in groups])
    corrected_G = _corrected(groups, p_G, n_kinds)
    listed = [
        index
        for index in np.argsort(p_G, kind="stable").tolist()
        if corrected_G[index] <= config.level and _is_large(groups[index], suspicious_N, config)
    ]
    return _leave_out(groups, listed, suspicious_N), p_G, corrected_G


def _corrected(groups: Sequence[Group], p_G: np.ndarray, n_kinds: int) -> np.ndarray:
    """Correct by Holm within each kind and by Bonferroni over kinds: thousands of words do not hide the few shards."""
    corrected_G = np.ones(len(p_G))
    kind_G = np.array([group.kind for group in groups])
    for kind in sorted(set(kind_G.tolist())):
        corrected_G[kind_G == kind] = np.minimum(1.0, n_kinds * holm(p_G[kind_G == kind]))
    return corrected_G


def _outside(group: Group, suspicious_N: np.ndarray) -> float:
    n = len(suspicious_N) - len(group.rows)
    return float((suspicious_N.sum() - suspicious_N[group.rows].sum()) / n) if n else 0.0


def _is_large(group: Group, suspicious_N: np.ndarray, config: CampaignConfig) -> bool:
    """Ask for an effect both in units and in pairs: a family that counts once leaves only its outliers as units."""
    share = min(float(suspicious_N[group.units].mean()), float(suspicious_N[group.rows].mean()))
    base = _outside(group, suspicious_N)
    return share >= config.min_ratio * base and share >= base + config.min_excess


def _nulls(groups: Sequence[Group], chosen: Sequence[int], suspicious_N: np.ndarray) -> dict[str, Null]:
    """Fit a null to each kind, without the pairs of the chosen groups."""
    left_N = np.ones(len(suspicious_N), dtype=bool)
    for index in chosen:
        left_N[groups[index].rows] = False
    mean = float(suspicious_N[left_N].mean()) if left_N.any() else float(suspicious_N.mean())
    counts: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for group in groups:
        units = group.units[left_N[group.units]]
        if len(units) >= MIN_UNITS:
            counts[group.kind].append((len(units), int(suspicious_N[units].sum())))
    kinds = {group.kind for group in groups}
    everything = [count for found in counts.values() for count in found]
    # A handful of groups says little about how much groups differ; then those of all kinds do.
    used = {kind: counts[kind] if len(counts[kind]) >= MIN_GROUPS else everything for kind in kinds}
    count_of = {kind: np.array(used[kind], dtype=np.int64).reshape(-1, 2) for kind in kinds}
    return {kind: fit_null(count[:, 0], count[:, 1], mean) for kind, count in count_of.items()}


def _leave_out(groups: Sequence[Group], listed: Sequence[int], suspicious_N: np.ndarray) -> list[int]:
    """Leave out the groups whose pairs others of the kind explain; keeps the order."""
    kept: set[int] = set()
    for kind in sorted({groups[index].kind for index in listed}):
        own = [index for index in listed if groups[index].kind == kind][:MAX_COMPARED]
        base = float(np.clip(suspicious_N.mean(), 1e-6, 1 - 1e-6))
        penalty = float(np.log(max(2, len(groups))))
        words = _needed(groups, [index for index in own if groups[index].exact], suspicious_N, base, penalty=penalty)
        covered_N = np.zeros(len(suspicious_N), dtype=bool)
        for index in words:
            covered_N[groups[index].rows] = True
        # A word says more than a cluster of captions, so a cluster is needed only for what no word tells.
        others = [
            index for index in own if not groups[index].exact and not _mostly(covered_N, groups[index], suspicious_N)
        ]
        kept |= words | _needed(groups, others, suspicious_N, base, penalty=penalty)
    return [index for index in listed if index in kept]


def _mostly(covered_N: np.ndarray, group: Group, suspicious_N: np.ndarray) -> bool:
    suspicious = group.units[suspicious_N[group.units]]
    return bool(covered_N[suspicious].mean() > 0.5)


def _needed(
    groups: Sequence[Group], own: Sequence[int], suspicious_N: np.ndarray, base: float, *, penalty: float
) -> set[int]:
    units = {index: groups[index].units for index in own}
    rate = {index: (suspicious_N[rows].sum() + 0.5) / (len(rows) + 1.0) for index, rows in units.items()}
    left = list(own)
    while left:
        best_N, second_N = np.full(len(suspicious_N), base), np.full(len(suspicious_N), base)
        owner_N = np.full(len(suspicious_N), -1)
        for index in left:
            rows = units[index]
            higher = rate[index] > best_N[rows]
            second_N[rows] = np.where(higher, best_N[rows], np.maximum(second_N[rows], rate[index]))
            best_N[rows[higher]], owner_N[rows[higher]] = rate[index], index
        gain_N = _log_likelihood(suspicious_N, best_N) - _log_likelihood(suspicious_N, second_N)
        cost = {index: float(gain_N[units[index]][owner_N[units[index]] == index].sum()) for index in left}
        weakest = min(left, key=lambda index: cost[index])
        if cost[weakest] > -HARM:
            # "a banana" and "the banana" together make "banana" needless, and the other way round.
            cheap = [index for index in left if cost[index] <= penalty]
            if not cheap:
                break
            weakest = cheap[-1]
        left.remove(weakest)
    return set(left)


def _log_likelihood(suspicious_N: np.ndarray, rate_N: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.where(suspicious_N, np.log(rate_N), np.log1p(-rate_N))
    return found
