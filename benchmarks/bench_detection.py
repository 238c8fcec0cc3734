"""Plant attacks in real shards, scan them with the defaults, and measure what was found against the truth.

    python benchmarks/bench_detection.py SHARDS --targets bird,banana,umbrella,guitar,castle,music --seeds 0,1
    python benchmarks/bench_detection.py SHARDS ... --out benchmarks/results/2026-01-31-detection-NAME.json

Targets, in order: of targeted, badnets_fixed, badnets_moving, blended, sig and label_consistent (the first and the
last need captions that contain the word). Each attack is planted at 0.6 %, plain mismatch at 5 %. Printed per seed:
AUROC of ``suspicion`` against the pairs left alone, the share of them on lists cut by ``fdr``, and the estimated and
the planted share. Pairs that were wrong all along count as left alone. Minutes per seed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from bench_encode import surroundings

from roclip_audit.core.parallel import default_workers
from roclip_audit.core.progress import PlainReporter
from roclip_audit.core.run import RunFolder, write_json
from roclip_audit.core.shards import expand_shards
from roclip_audit.sanitize.scan import ScanConfig, scan
from roclip_audit.train.attacks import AttackPlan
from roclip_audit.train.poison import poison

ATTACKS = ("targeted", "badnets_fixed", "badnets_moving", "blended", "sig", "label_consistent")
RATE, MISMATCH_RATE = 0.006, 0.05
LISTS = (0.05, 0.1, 0.2, 0.5)


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the chance that a positive scores higher than a negative, ties counted half."""
    ordered = np.sort(negative)
    below, up_to = (np.searchsorted(ordered, positive, side=side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(negative))


def measure(scored: pl.DataFrame) -> dict[str, Any]:
    """Compare suspicion with the truth; ``scored`` has the columns suspicion, fdr and attack (null if left alone)."""
    alone = scored.filter(pl.col("attack").is_null())["suspicion"].to_numpy()
    attacks = [name for name in scored["attack"].unique().sort().to_list() if name]
    lists = {}
    for cut in LISTS:
        cut_off = scored.filter(pl.col("fdr") <= cut)
        n_wrong = int((cut_off["attack"].is_null() | (cut_off["attack"] == "label_consistent")).sum())
        lists[str(cut)] = {"n": len(cut_off), "share_left_alone": round(n_wrong / max(1, len(cut_off)), 3)}
    return {
        "auroc": {
            name: round(auroc(scored.filter(pl.col("attack") == name)["suspicion"].to_numpy(), alone), 3)
            for name in attacks
        },
        "lists": lists,
        "planted": {name: scored.filter(pl.col("attack") == name).height for name in attacks},
    }


def run_seed(shards: str, targets: list[str], seed: int, folder: Path) -> dict[str, Any]:
    """Plant, scan and measure once."""
    plan = [AttackPlan(attack=name, target=word, rate=RATE) for name, word in zip(ATTACKS, targets, strict=True)]
    plan.append(AttackPlan(attack="mismatch", target="", rate=MISMATCH_RATE))
    poison([shards], folder / "shards", plan=plan, seed=seed, truth_path=folder / "truth")
    run = RunFolder(folder / "run")
    config = ScanConfig(shards=(str(folder / "shards"),), out=run.root, workers=default_workers())
    with run.locked():
        report = scan(config, PlainReporter())
    files = [run.file("evidence", f"{shard.id}.parquet") for shard in expand_shards(config.shards)]
    truth = pl.read_parquet(folder / "truth" / "truth.parquet", columns=["uid", "attack"])
    found = measure(pl.read_parquet(files, columns=["uid", "suspicion", "fdr"]).join(truth, on="uid"))
    n_wrong = sum(n for name, n in found["planted"].items() if name != "label_consistent")
    return {
        "seed": seed,
        "n_pairs": report.n_scored,
        "seconds": round(report.seconds),
        **found,
        "contamination": {
            "estimate": round(report.contamination.estimate, 4),
            "low": round(report.contamination.low, 4),
            "high": round(report.contamination.high, 4),
            "planted": round(n_wrong / report.n_scored, 4),
        },
    }


def main() -> None:
    """Run the benchmark and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("--targets", default="bird,banana,umbrella,guitar,castle,music")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = []
    for seed in options.seeds.split(","):
        with tempfile.TemporaryDirectory() as folder:
            results.append(run_seed(options.shards, options.targets.split(","), int(seed), Path(folder)))
        print(results[-1], flush=True)
    if options.out:
        write_json(options.out, {**surroundings(default_workers()), "targets": options.targets, "runs": results})


if __name__ == "__main__":
    main()
