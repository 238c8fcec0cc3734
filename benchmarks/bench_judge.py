"""Time everything after encoding: neighbours, contest both ways, calibration and evidence, on made-up embeddings.

    python benchmarks/bench_judge.py                          # 100,000 pairs x 512 dimensions; a few minutes
    python benchmarks/bench_judge.py --pairs 5000             # a few seconds, for a look
    python benchmarks/bench_judge.py --out benchmarks/results/2026-01-31-judge.json

The embeddings are those of a joint encoder: images and captions around shared topics, most pairs matched, five in a
hundred re-paired. Beside each stage stands the time of one plain fp32 product of all images with all captions in the
same run, on the same threads: a ratio that does not depend on how busy the machine was. Memory is the peak of this
process, the embeddings included.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from bench_encode import surroundings

from roclip_audit.core.parallel import default_workers, map_ordered, one_thread_each
from roclip_audit.core.progress import PlainReporter, Progress
from roclip_audit.core.run import RunFolder, write_json
from roclip_audit.core.shards import Shard
from roclip_audit.sanitize.dataset import Dataset, RowArray
from roclip_audit.sanitize.detail import DIM, N_PLACES
from roclip_audit.sanitize.grain import GRAIN_PX
from roclip_audit.sanitize.judge import align_run, judge_run
from roclip_audit.sanitize.scan import ScanConfig


def made_up(n: int, dim: int, mismatched: float, seed: int) -> tuple[Dataset, np.ndarray]:
    """Return a data set of ``n`` pairs and which of them are mismatched."""
    rng = np.random.default_rng(seed)
    topic = rng.standard_normal((n, dim), dtype=np.float32)
    spread = np.linspace(2.0, 0.2, dim, dtype=np.float32)  # features of real encoders are not isotropic
    image = topic + rng.standard_normal((n, dim), dtype=np.float32)
    text = topic + rng.standard_normal((n, dim), dtype=np.float32)
    wrong = np.flatnonzero(rng.random(n) < mismatched)
    text[wrong] = text[np.roll(wrong, 1)]
    image, text = image * spread, text * spread
    for vectors in (image, text):
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    is_wrong = np.zeros(n, dtype=bool)
    is_wrong[wrong] = True
    dataset = Dataset(
        shards=(Shard("made-up.tar", "made-up.tar", 0, 0),),
        shard_N=np.zeros(n, dtype=np.int64),
        uids=[f"{number:032x}" for number in range(n)],
        captions=[f"caption {number}" for number in range(n)],
        image_NVF=RowArray.of([image[:, None].astype(np.float16)]),
        text_NG=RowArray.of([text.astype(np.float16)]),
        grain_N=RowArray.of([rng.integers(-40, 40, (n, GRAIN_PX, GRAIN_PX), dtype=np.int8)]),
        detail_N=RowArray.of([rng.integers(-40, 40, (n, N_PLACES, DIM), dtype=np.int8)]),
    )
    return dataset, is_wrong


class Stopwatch(PlainReporter):
    """Remembers how long each stage took."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, total: int, *, unit: str = "pairs") -> Iterator[Progress]:
        """Open a stage and time it."""
        started = time.perf_counter()
        with super().stage(name, total, unit=unit) as progress:
            yield progress
        self.seconds[name] = time.perf_counter() - started


def plain_product_s(dataset: Dataset, workers: int) -> float:
    """Return the seconds that one fp32 product of all images with all captions takes, in blocks."""
    image, text = dataset.image_NVF[:][:, 0], dataset.text_NG[:]
    started = time.perf_counter()
    starts = range(0, len(image), 512)
    for _ in map_ordered(lambda at: float((image[at : at + 512] @ text.T).amax()), starts, workers=workers):
        pass
    return time.perf_counter() - started


def main() -> None:
    """Run the benchmark and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--mismatched", type=float, default=0.05)
    parser.add_argument("--workers", type=int, default=default_workers())
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    dataset, is_wrong = made_up(options.pairs, options.dim, options.mismatched, seed=0)
    judging = ScanConfig(shards=(), out=Path(), workers=options.workers).judging()
    stopwatch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder, one_thread_each():
        run = RunFolder(Path(folder))
        aligned = align_run(dataset, run, judging, stopwatch, joint=True)
        calibrated = judge_run(dataset, run, aligned, ("whole",), judging, stopwatch)
        product_s = plain_product_s(dataset, options.workers)
    listed = calibrated.fdr_N <= 0.1
    result = {
        **surroundings(options.workers),
        "pairs": options.pairs,
        "dim": options.dim,
        "seconds": {name: round(value, 2) for name, value in stopwatch.seconds.items()},
        "total_s": round(sum(stopwatch.seconds.values()), 1),
        "plain_fp32_product_s": round(product_s, 1),
        "total_in_products": round(sum(stopwatch.seconds.values()) / product_s, 2),
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "contamination": calibrated.contamination.estimate,
        "contamination_true": float(is_wrong.mean()),
        "fdr_promised": 0.1,
        "fdr_measured": float((~is_wrong[listed]).mean()) if listed.any() else None,
    }
    print(result)
    if options.out:
        write_json(options.out, result)


if __name__ == "__main__":
    main()
