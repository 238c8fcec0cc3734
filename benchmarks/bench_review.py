"""Time the pages of the review over a million pairs of made-up data, through the application but without a network.

    python benchmarks/bench_review.py                    # 1,000,000 pairs; some minutes and 3 GB of disk
    python benchmarks/bench_review.py --pairs 20000      # for a look
    python benchmarks/bench_review.py --run FOLDER       # a run that is there already
    python benchmarks/bench_review.py --out benchmarks/results/2026-01-31-review.json

The run is the one of bench_sql.py. ``first grid`` opens a new desk, connection included; the other pages are medians on
an open one. ``1,000 decided`` repeats them with that many decisions that the database file does not hold yet.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import duckdb

sys.path.insert(0, str(Path(__file__).parent))

from bench_sql import make_files

from roclip_audit.audit.decisions import decide_all
from roclip_audit.audit.ingest import ingest
from roclip_audit.audit.review.desk import Desk
from roclip_audit.audit.review.listing import Filter, Listing
from roclip_audit.audit.store import open_readonly
from roclip_audit.core.run import RunFolder, write_json


def _median_s(work: Callable[[], object], repeat: int) -> float:
    times = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return round(statistics.median(times[1:]), 3)


def _first_grid(run: RunFolder) -> None:
    desk = Desk(run)
    desk.page(Listing())
    desk.progress()
    desk.close()


def measure(run: RunFolder, repeat: int) -> dict[str, float]:
    """Time what the pages ask for, in seconds."""
    with open_readonly(run) as connection:
        sql = "select uid from suspicion order by risk desc, suspicion desc, uid limit 1 offset 100000"
        found = connection.execute(sql).fetchall() or connection.execute("select uid from suspicion limit 1").fetchall()
    uid = found[0][0]
    desk = Desk(run)
    asked: dict[str, Callable[[], object]] = {
        "page, 100,000 pairs down": lambda: desk.page(Listing(), after=uid),
        "page sorted by caption": lambda: desk.page(Listing(sort="caption")),
        "page, caption contains": lambda: desk.page(Listing(search="abc")),
        "page, two columns filtered": lambda: desk.page(
            Listing(filters=(Filter("fdr", "<", "0.1"), Filter("q", ">", "0.5")))
        ),
        "page, condition in SQL": lambda: desk.page(Listing(where="suspicion > 0.9 and never_wins")),
        "page, undecided": lambda: desk.page(Listing(show="undecided")),
        "page, more like this": lambda: desk.page(Listing(like=uid)),
        "count, caption contains": lambda: desk.count(Listing(search="abc")),
        "one pair": lambda: desk.pair(uid),
        "pairs beside it": lambda: desk.beside(Listing(), uid),
        "progress": desk.progress,
        "decide": lambda: desk.decide([uid], "keep", reviewer="bench"),
        "undo": lambda: desk.undo("bench"),
    }
    times = {"first grid": _median_s(lambda: _first_grid(run), repeat)}
    times |= {name: _median_s(work, repeat) for name, work in asked.items()}
    desk.close()
    return times


def main() -> None:
    """Parse, measure, print, and write the result file if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(options.run or Path(folder))
        if options.run is None:
            make_files(run, n_pairs=options.pairs, n_shards=100)
            ingest(run)
        load_before = os.getloadavg()[0]
        plain = measure(run, options.repeat)
        with open_readonly(run) as connection:
            uids = [uid for (uid,) in connection.execute("select uid from suspicion limit 1000").fetchall()]
        decide_all(run, uids, "drop", reviewer="bench")
        result = {
            "benchmark": "review",
            "date": datetime.now(UTC).date().isoformat(),
            "versions": {"python": platform.python_version(), "duckdb": duckdb.__version__},
            "hardware": {
                "machine": platform.machine(),
                "cpus": len(os.sched_getaffinity(0)),
                "load_before": round(load_before, 1),
            },
            "settings": {"pairs": options.pairs, "repeat": options.repeat},
            "seconds": plain,
            "seconds, 1,000 decided": measure(run, options.repeat),
        }
    print(json.dumps(result, indent=2))
    if options.out:
        write_json(options.out, result)


if __name__ == "__main__":
    main()
