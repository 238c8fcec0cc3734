"""Time the report: 100,000 made-up pairs with 60 real pictures, and how large the page is.

    python benchmarks/bench_report.py                       # 100,000 pairs, photographs of 512 px
    python benchmarks/bench_report.py --picture noise       # the worst for JPEG: nothing to compress
    python benchmarks/bench_report.py --out benchmarks/results/2026-01-31-report.json

The database is that of bench_sql.py; the pairs that the gallery shows get a picture in a shard, so that the bytes are
read, checked, decoded and encoded as in a real run. The clock starts when the module is imported; one call writes the
page; ``first`` is the first call in the process, which loads what is loaded late, the others find a warm file.
On a busy machine only the processor times mean something.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import platform
import statistics
import sys
import tarfile
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import PIL
from PIL import Image, ImageFilter

sys.path.insert(0, str(Path(__file__).parent))

from bench_sql import _commit, make_files

from roclip_audit.audit.ingest import ingest
from roclip_audit.audit.report.page import write_report
from roclip_audit.core.run import RunFolder, write_json


def picture(kind: str, px: int, rng: np.random.Generator) -> bytes:
    """Return a JPEG: noise, or soft blobs with grain that compress about as a photograph does."""
    noise = Image.fromarray(rng.integers(0, 256, (px, px, 3), dtype=np.uint8))
    if kind == "noise":
        image = noise
    else:
        small = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        blobs = small.resize((px, px), Image.Resampling.BICUBIC)
        image = Image.blend(blobs, noise.filter(ImageFilter.GaussianBlur(0.8)), 0.12)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def add_pictures(run: RunFolder, folder: Path, *, kind: str, px: int, thumbnails: int) -> None:
    """Give the pairs at the head of the list a real picture, in shards of their own, by editing the database."""
    rng = np.random.default_rng(0)
    with duckdb.connect(run.database) as connection:
        order = f"select uid, shard from suspicion order by risk desc, suspicion desc, uid limit {thumbnails}"
        chosen = connection.execute(order).fetchall()
        for shard in sorted({name for _, name in chosen}):
            path = folder / shard
            with tarfile.open(path, "w") as tar:
                for uid in (uid for uid, name in chosen if name == shard):
                    data = picture(kind, px, rng)
                    info = tarfile.TarInfo(f"{uid}.jpg")
                    info.size, offset = len(data), tar.offset + 512
                    tar.addfile(info, io.BytesIO(data))
                    connection.execute(
                        "update pairs set image_offset = ?, image_bytes = ?, image_sha256 = ? where uid = ?",
                        [offset, len(data), hashlib.sha256(data).hexdigest(), uid],
                    ).fetchall()
            connection.execute("update shards set path = ? where shard = ?", [str(path), shard]).fetchall()


def main() -> None:
    """Parse, measure, print, and write the result file if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("--thumbnails", type=int, default=60)
    parser.add_argument("--picture", choices=("photo", "noise"), default="photo")
    parser.add_argument("--px", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "audit")
        make_files(run, n_pairs=options.pairs, n_shards=options.shards)
        ingest(run)
        add_pictures(run, Path(folder), kind=options.picture, px=options.px, thumbnails=options.thumbnails)
        walls, cpus = [], []
        for _ in range(options.repeat + 1):
            wall, cpu = time.perf_counter(), time.process_time()
            written = write_report(run, Path(folder) / "report.html", thumbnails=options.thumbnails)
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
    result = {
        "benchmark": "report",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "versions": {"python": platform.python_version(), "duckdb": duckdb.__version__, "pillow": PIL.__version__},
        "hardware": {
            "machine": platform.machine(),
            "cpus": len(os.sched_getaffinity(0)),
            "load_before": round(load_before, 1),
        },
        "settings": {k: v for k, v in vars(options).items() if k != "out"},
        "result": {
            "first_s": round(walls[0], 2),
            "first_cpu_s": round(cpus[0], 2),
            "median_s": round(statistics.median(walls[1:]), 2),
            "median_cpu_s": round(statistics.median(cpus[1:]), 2),
            "page_mb": round(written.n_bytes / 1e6, 2),
            "pictures": written.n_pictures,
            "absent": written.n_absent,
        },
    }
    print(json.dumps(result, indent=2))
    if options.out:
        write_json(options.out, result)


if __name__ == "__main__":
    main()
