"""Turn one finished scan of a poisoned copy, and the truth, into rows of the leaderboard."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from roclip_audit.audit.leaderboard.campaigns import score_campaigns
from roclip_audit.audit.leaderboard.metrics import CleanScores, Estimate, Resamples, detection
from roclip_audit.audit.leaderboard.rows import ALL, CAMPAIGNS, SCAN, Row
from roclip_audit.audit.leaderboard.scores import Scored, load_scores
from roclip_audit.core.errors import ConfigError
from roclip_audit.core.run import RunFolder
from roclip_audit.core.seeding import generator

LISTS: Final = (0.05, 0.1, 0.2, 0.5)
"""Where lists are cut: fdr <= each of these."""
TIMING: Final = "peers/timing.json"
_MEASURED_TWICE: Final = 50_000  # clean pairs from which half the replicates have to do


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One point of the sweep: what was planted in what, and scanned with what."""

    data: str
    encoder: str
    rate: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureConfig:
    """What is measured.

    Attributes:
        detectors: names; all if empty.
        n_replicates: bootstrap replicates; 0 for no intervals.
    """

    detectors: tuple[str, ...] = ()
    n_replicates: int = 500

    def __post_init__(self) -> None:
        if self.n_replicates < 0:
            raise ConfigError(f"bootstrap replicates must be at least 0, found {self.n_replicates}")


def measure_run(
    run: RunFolder, truth: Path, cell: Cell, config: MeasureConfig, *, scan_seconds: float | None = None
) -> list[Row]:
    """Measure everything about one scan. Reads files only: evidence, peers, campaigns, truth.

    Args:
        run: folder of a finished scan.
        truth: ``truth.parquet`` of the planting.
        cell: what the rows say they are about.
        config: see MeasureConfig.
        scan_seconds: wall time of the scan if it was done in one go; None leaves its speed out.

    Raises:
        StoreError: a file is missing or damaged, or scan and truth are about different pairs.
        ConfigError: no such detector, or no pair was left alone.
    """
    scored = load_scores(run, truth, config.detectors)
    n_clean = len(scored.of(None))
    if not n_clean:
        raise ConfigError(f"{truth}: every pair is planted; nothing is left to compare with")
    make = partial(_row, cell, scored)
    return [
        *_detection_rows(make, scored, config, cell.seed),
        *_list_rows(make, scored, config.n_replicates, cell.seed),
        *_contamination_rows(make, scored),
        *_campaign_rows(make, run, scored),
        *_speed_rows(make, run, scored, scan_seconds),
    ]


def _row(
    cell: Cell,
    scored: Scored,
    detector: str,
    attack: str,
    metric: str,
    value: float,
    interval: tuple[float | None, float | None] = (None, None),
) -> Row:
    low, high = (None if end is None or np.isnan(end) else float(end) for end in interval)
    n_planted = len(scored.of(attack)) if attack != ALL else int(scored.pairs["attack"].is_not_null().sum())
    return Row(
        data=cell.data,
        encoder=cell.encoder,
        detector=detector,
        attack=attack,
        rate=cell.rate,
        seed=cell.seed,
        metric=metric,
        value=float(value),
        low=low,
        high=high,
        n_planted=n_planted,
        n_clean=int(scored.pairs["attack"].is_null().sum()),
    )


def _detection_rows(make: partial[Row], scored: Scored, config: MeasureConfig, seed: int) -> Iterator[Row]:
    clean = scored.of(None)
    n_replicates = config.n_replicates // 2 if len(clean) > _MEASURED_TWICE else config.n_replicates
    resamples = Resamples.draw(len(clean), n_replicates, generator(seed, "leaderboard", "clean"))
    planted = {attack: scored.of(attack) for attack in scored.attacks}
    for detector in scored.detectors:
        scores = {attack: pairs[detector].to_numpy() for attack, pairs in planted.items()}
        sorted_clean = CleanScores(score_N=clean[detector].to_numpy(), resamples=resamples)
        rng = generator(seed, "leaderboard", "planted")  # the same draws for every detector
        for attack, found in detection(scores, sorted_clean, rng).items():
            for metric, estimate in found.items():
                yield make(detector, attack, metric, estimate.value, (estimate.low, estimate.high))


def _list_rows(make: partial[Row], scored: Scored, n_replicates: int, seed: int) -> Iterator[Row]:
    """Compare what lists cut by fdr promise with what they hold."""
    rng = generator(seed, "leaderboard", "lists")
    sound = ~scored.mismatched()
    for cut in LISTS:
        listed = scored.pairs["promised_fdr"] <= cut
        yield make(SCAN, ALL, f"list_pairs_at_{cut:g}", float(listed.sum()))
        if not listed.any():
            continue
        promised = float((1 - scored.pairs["promised_suspicion"].filter(listed).to_numpy()).mean())
        yield make(SCAN, ALL, f"promised_fdr_at_{cut:g}", promised)
        measured = share(sound.filter(listed).to_numpy(), n_replicates, rng)
        yield make(SCAN, ALL, f"measured_fdr_at_{cut:g}", measured.value, (measured.low, measured.high))


def share(true_N: np.ndarray, n_replicates: int, rng: np.random.Generator) -> Estimate:
    """Return the share of true values with its bootstrap interval (a resample of booleans is a binomial draw)."""
    value = float(true_N.mean())
    if not n_replicates:
        return Estimate(value=value, low=float("nan"), high=float("nan"))
    low, high = np.quantile(rng.binomial(len(true_N), value, n_replicates) / len(true_N), [0.025, 0.975])
    return Estimate(value=value, low=float(low), high=float(high))


def _contamination_rows(make: partial[Row], scored: Scored) -> Iterator[Row]:
    planted = float(scored.mismatched().to_numpy().mean())
    yield make(SCAN, ALL, "contamination_true", planted)
    estimate, low, high = scored.manifest.contamination
    if estimate is not None:
        yield make(SCAN, ALL, "contamination_estimate", estimate, (low, high))
        if planted:
            yield make(SCAN, ALL, "contamination_relative_error", estimate / planted - 1)


def _campaign_rows(make: partial[Row], run: RunFolder, scored: Scored) -> Iterator[Row]:
    found = score_campaigns(run, scored)
    if found is None:
        return
    yield make(CAMPAIGNS, ALL, "n_campaigns", found.n_campaigns)
    yield make(CAMPAIGNS, ALL, "n_false_campaigns", found.n_false)
    if found.matches:
        yield make(CAMPAIGNS, ALL, "campaign_recall", float(np.mean([one.found for one in found.matches])))
    for one in found.matches:
        values = {
            "campaign_found": one.found,
            "campaign_share": one.recall,
            "campaign_purity": one.purity,
            "campaign_purity_own": one.purity_own,
            "campaign_purity_suspicious": one.purity_suspicious,
            "trigger_iou": one.iou,
        }
        for metric, value in values.items():
            if value is not None:
                yield make(CAMPAIGNS, one.attack, metric, value)


def _speed_rows(make: partial[Row], run: RunFolder, scored: Scored, scan_seconds: float | None) -> Iterator[Row]:
    n_pairs = len(scored.pairs)
    if scan_seconds:
        yield make(SCAN, ALL, "pairs_per_s", n_pairs / scan_seconds)
    path = run.root / TIMING
    seconds: Mapping[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for part in ("trained space", "neighbours"):
        if seconds.get(part):
            yield make(SCAN, ALL, f"pairs_per_s {part}", n_pairs / seconds[part])
    for detector in scored.detectors:
        if seconds.get(detector):
            yield make(detector, ALL, "pairs_per_s", n_pairs / seconds[detector])
