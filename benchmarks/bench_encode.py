"""Time encoding: open_clip's stock path against the encode stage, same ViT-B-32, same shard, in turns in one process.

    python benchmarks/bench_encode.py                        # 256 of the demo's pairs, 3 rounds; a few minutes
    python benchmarks/bench_encode.py SHARDS --pairs 1000    # other shards
    python benchmarks/bench_encode.py --pairs 64 --rounds 1  # for a look
    python benchmarks/bench_encode.py --out benchmarks/results/2026-01-31-encode.json

Weights are random (rates do not depend on them) and saved as a ``local-dir:``. Stock is what open_clip's README shows:
float32, Pillow decode and open_clip's transform in the loop, captions padded to 77 tokens, batches of 64, PyTorch's own
number of threads. Ours is ``encode_shard`` with as many workers, reading the shard and writing its files. Both encode
every pair; the first round of each warms up and is not counted. Rounds alternate, so a busy machine slows both; the
ratio is taken round by round, and CPU time is kept beside wall time. The embedded encoder is timed too.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save_file

from roclip_audit.core.checkpoint import import_open_clip
from roclip_audit.core.environment import cpu_features, read_text
from roclip_audit.core.parallel import default_workers
from roclip_audit.core.run import RunFolder, write_json
from roclip_audit.core.shards import Shard, expand_shards, open_shard
from roclip_audit.sanitize.detail import Detail
from roclip_audit.sanitize.encode import EncodeConfig, encode_shard
from roclip_audit.sanitize.encoders import Encoder, build_encoder
from roclip_audit.sanitize.index import IndexConfig, index_shard

ARCH = "ViT-B-32"
BATCH = 64
DEFAULT_SHARDS = Path(__file__).parent.parent / "demo" / "shards"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One encoding of all pairs."""

    wall_s: float
    cpu_s: float


def timed(work: Callable[[], object]) -> Timing:
    """Run once; CPU time is that of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Timing(wall_s=time.perf_counter() - wall, cpu_s=time.process_time() - cpu)


def save_random_model(folder: Path) -> Path:
    """Save a randomly initialised model as open_clip saves them."""
    open_clip = import_open_clip()
    torch.manual_seed(0)
    model = open_clip.create_model(ARCH)
    folder.mkdir(parents=True)
    config = {"model_cfg": open_clip.get_model_config(ARCH), "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    return folder


def index_first(shards: list[Shard], run: RunFolder, n_pairs: int) -> tuple[Shard, list[tuple[bytes, str]]]:
    """Index the first shard, keep its first pairs that can be scored, and return them as bytes and captions."""
    shard = shards[0]
    index_shard(shard, run, IndexConfig())
    path = run.file("pairs", f"{shard.id}.parquet")
    table = pq.read_table(path)
    rows = [number for number, scored in enumerate(table["scored"].to_pylist()) if scored][:n_pairs]
    table = table.take(pa.array(rows))
    pq.write_table(table, path)
    with open_shard(shard) as buffer:
        pairs = [
            (bytes(buffer[row["image_offset"] : row["image_offset"] + row["image_bytes"]]), row["caption"])
            for row in table.to_pylist()
        ]
    return shard, pairs


class Stock:
    """open_clip as its README uses it."""

    def __init__(self, folder: Path) -> None:
        open_clip = import_open_clip()
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        self.model.eval()
        self.images = self.texts = np.empty(0)

    def encode(self, pairs: list[tuple[bytes, str]], threads: int) -> None:
        """Encode all pairs and keep the features."""
        torch.set_num_threads(threads)  # ours sets one a worker
        images, texts = [], []
        with torch.inference_mode():
            for start in range(0, len(pairs), BATCH):
                batch = pairs[start : start + BATCH]
                pixels = torch.stack([self.preprocess(Image.open(io.BytesIO(data))) for data, _ in batch])
                images.append(self.model.encode_image(pixels, normalize=True))
                texts.append(self.model.encode_text(self.tokenizer([caption for _, caption in batch]), normalize=True))
        self.images, self.texts = torch.cat(images).numpy(), torch.cat(texts).numpy()


def least_cosine(stock: np.ndarray, ours: np.ndarray) -> float:
    """Return the smallest cosine of two arrays of vectors, row by row."""
    ours = ours.astype(np.float32)
    norms = np.linalg.norm(stock, axis=-1) * np.linalg.norm(ours, axis=-1)
    return float(((stock * ours).sum(-1) / norms).min())


def spread(values: list[float]) -> dict[str, float]:
    """Return minimum, median and maximum."""
    return {
        "min": round(min(values), 3),
        "median": round(statistics.median(values), 3),
        "max": round(max(values), 3),
    }


def compare(shards: list[Shard], n_pairs: int, rounds: int, workers: int, scratch: Path) -> dict[str, Any]:
    """Time both paths in turns and compare their features."""
    folder, run = save_random_model(scratch / "model"), RunFolder(scratch / "run")
    shard, pairs = index_first(shards, run, n_pairs)
    stock, encoder = Stock(folder), build_encoder(f"local-dir:{folder}")
    config, detail = EncodeConfig(batch_size=BATCH), Detail.load()
    timings: list[tuple[Timing, Timing]] = []
    for number in range(rounds + 1):
        slow = timed(lambda: stock.encode(pairs, workers))
        fast = timed(lambda: encode_shard(shard, run, encoder, config, detail=detail, workers=workers))
        timings.append((slow, fast))
        print(f"round {number}: stock {slow.wall_s:.1f} s, ours {fast.wall_s:.1f} s", file=sys.stderr)
    timings = timings[1:]
    images = np.load(run.file("embeddings", f"{shard.id}.image.npy"))[:, 0]
    texts = np.load(run.file("embeddings", f"{shard.id}.text.npy"))
    return {
        "n_pairs": len(pairs),
        "n_distinct_captions": len({caption for _, caption in pairs}),
        "stock_pairs_per_s": spread([len(pairs) / slow.wall_s for slow, _ in timings]),
        "ours_pairs_per_s": spread([len(pairs) / fast.wall_s for _, fast in timings]),
        "ratio": spread([slow.wall_s / fast.wall_s for slow, fast in timings]),
        "ratio_cpu_time": spread([slow.cpu_s / fast.cpu_s for slow, fast in timings]),
        "stock_cpu_ms_per_pair": spread([1e3 * slow.cpu_s / len(pairs) for slow, _ in timings]),
        "ours_cpu_ms_per_pair": spread([1e3 * fast.cpu_s / len(pairs) for _, fast in timings]),
        "least_cosine_images": round(least_cosine(stock.images, images), 6),
        "least_cosine_captions": round(least_cosine(stock.texts, texts), 6),
        "precision": str(getattr(encoder, "precision", "")),
        "embedded": time_embedded(shard, run, build_encoder("embedded"), rounds, workers, len(pairs)),
    }


def time_embedded(
    shard: Shard, run: RunFolder, encoder: Encoder, rounds: int, workers: int, n_pairs: int
) -> dict[str, Any]:
    """Time the default encoder on the same pairs."""
    detail = Detail.load()
    work = [
        timed(lambda: encode_shard(shard, run, encoder, EncodeConfig(), detail=detail, workers=workers))
        for _ in range(rounds + 1)
    ]
    return {
        "pairs_per_s": spread([n_pairs / timing.wall_s for timing in work[1:]]),
        "cpu_ms_per_pair": spread([1e3 * timing.cpu_s / n_pairs for timing in work[1:]]),
        "views": list(encoder.views),
        "precision": str(getattr(encoder, "precision", "")),
    }


def surroundings(workers: int) -> dict[str, Any]:
    """Return what a rate depends on besides the code."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    cpuinfo = read_text("/proc/cpuinfo")
    model = next((line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")), "")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip(),
        "processor": model or platform.processor(),
        "cpu_features": list(cpu_features(cpuinfo)),
        "workers": workers,
        "load_average_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "open_clip": import_open_clip().__version__,
        "pillow": version("pillow"),
        "architecture": ARCH,
        "batch": BATCH,
    }


def table(result: dict[str, Any]) -> str:
    """Return the headline as a Markdown table of one row."""
    cells = {
        "date": result["date"][:10],
        "processor": f"{result['processor']}, {', '.join(result['cpu_features'])}",
        "pairs": result["n_pairs"],
        "stock pairs/s": result["stock_pairs_per_s"]["median"],
        "ours pairs/s": result["ours_pairs_per_s"]["median"],
        "ratio (min, median, max)": "{min}, **{median}**, {max}".format(**result["ratio"]),
        "ratio of CPU time": result["ratio_cpu_time"]["median"],
        "least cosine, images and captions": f"{result['least_cosine_images']}, {result['least_cosine_captions']}",
        "embedded pairs/s": result["embedded"]["pairs_per_s"]["median"],
        "load before": round(result["load_average_before"], 1),
        "commit": result["commit"],
    }
    lines = (cells.keys(), ["---"] * len(cells), map(str, cells.values()))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Run the comparison and print or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", nargs="*", default=[str(DEFAULT_SHARDS)])
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=default_workers())
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    result = surroundings(arguments.workers)
    with tempfile.TemporaryDirectory() as scratch:
        shards = list(expand_shards(arguments.shards))
        result |= compare(shards, arguments.pairs, arguments.rounds, arguments.workers, Path(scratch))
    print(json.dumps(result, indent=2))
    if arguments.out:
        write_json(arguments.out, result)
        arguments.out.with_suffix(".md").write_text(table(result), encoding="utf-8")


if __name__ == "__main__":
    main()
