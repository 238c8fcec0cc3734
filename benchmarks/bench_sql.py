"""Time the database: ingest and queries over a million scored pairs of made-up data.

    python benchmarks/bench_sql.py                         # 1,000,000 pairs; about two minutes and 3 GB of disk
    python benchmarks/bench_sql.py --pairs 20000           # a few seconds, for a look
    python benchmarks/bench_sql.py --out benchmarks/results/2026-01-31-sql.json

The files of a scan are made up (100 shards, 3 rivals and 10 neighbours a pair), ingested, and queried. The same
order-by-limit is timed on the wide table that ``suspicion`` reads and on the equal view over joins that it could have
been, in turns and in one run, so that the ratio does not depend on how busy the machine was. Times are medians over
``--repeat`` runs on a warm file, each on a fresh connection as the command line has it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from roclip_audit.audit.ingest import ingest
from roclip_audit.audit.query import run_query
from roclip_audit.audit.store import open_readonly
from roclip_audit.core.run import RunFolder, write_json
from roclip_audit.core.schema import EVIDENCE

HEADLINE = "select uid, caption, suspicion, fdr, rival_caption from suspicion order by risk desc limit 20"
QUERIES = {
    "headline": HEADLINE,
    "headline, all columns": "select * from suspicion order by risk desc limit 20",
    "flagged by suspicion": "select uid, caption from flagged order by suspicion desc limit 20",
    "count flagged": "select count(*) from flagged",
    "one pair": "select * from suspicion where uid = '{uid}'",
    "rivals of one pair": "select * from rivals where uid = '{uid}'",
    "neighbours of one pair": "select * from neighbours where uid = '{uid}'",
    "captions like": "select uid, caption, suspicion from suspicion where caption ilike '%abc%' limit 20",
    "by_domain": "select * from by_domain limit 20",
    "by_shard": "select * from by_shard",
}
JOINED = """
    create temp view joined as
    select p.uid, p.caption, e.suspicion, e.fdr, o.caption as rival_caption, d.verdict as decision
    from (select pair, suspicion, fdr from store.scored) e join pairs p on p.pair = e.pair
    left join store.rivals r on r.pair = e.pair and r.rank = 1 left join pairs o on o.pair = r.rival_pair
    left join decisions d on d.uid = p.uid
"""


def _copy(connection: duckdb.DuckDBPyConnection, sql: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection.execute(f"copy ({sql}) to '{path}' (format parquet)").fetchall()


def _evidence_value(name: str, kind: str) -> str:
    if name == "uid":
        return "md5(i::varchar)"
    values = {
        "DOUBLE": "random()",
        "DOUBLE[]": "[random(), random(), random(), random()]",
        "VARCHAR": "'whole'",
        "BOOLEAN": "random() < 0.1",
        "UTINYINT": "(i % 5)::utinyint",
        "UINTEGER": "(random() * 100)::uinteger",
    }
    return values[kind]


def make_files(run: RunFolder, *, n_pairs: int, n_shards: int) -> None:
    """Write the files of a finished scan, made up by SQL."""
    evidence = ", ".join(f'{_evidence_value(c.name, c.type)} as "{c.name}"' for c in EVIDENCE)
    connection = duckdb.connect()
    connection.execute("select setseed(0.5)").fetchall()
    entries = []
    for s in range(n_shards):
        first, last = s * n_pairs // n_shards, (s + 1) * n_pairs // n_shards
        name, rows = f"{s:05d}.tar", f"(select range as i, range - {first} as o from range({first}, {last}))"
        other = f"md5((random() * {n_pairs - 1})::bigint::varchar)"
        caption = "array_to_string(list_transform(range(6 + i % 9), lambda k: md5((i * 31 + k)::varchar)[1:5]), ' ')"
        sources = {
            "pairs": f"""md5(i::varchar) as uid, '{name}' as shard, printf('%09d', i) as key, o::uinteger as ordinal,
                {caption} as caption, 'https://site' || (hash(i) % 5000) || '.example/' || i || '.jpg' as url,
                'txt' as caption_source, true as uid_given, 'jpg' as image_ext, (o * 20480)::ubigint as image_offset,
                20000::ubigint as image_bytes, sha256(i::varchar) as image_sha256, true as scored from {rows}""",
            "embeddings": f"""o::uinteger as ordinal, 640::uinteger as width, 480::uinteger as height, hash(i) as dhash,
                true as scored from {rows}""",
            "uids": f"o::uinteger as ordinal, md5(i::varchar) as uid from {rows}",
            "evidence": f"{evidence} from {rows}",
            "rivals": f"""md5(i::varchar) as uid, k::utinyint as rank, {other} as rival_uid, random() as cosine,
                random() as margin, random() as text_similarity from {rows}, range(1, 4) t(k) order by i, k""",
            "neighbours": f"""md5(i::varchar) as uid, kind, k::utinyint as rank, {other} as neighbour_uid,
                random() as similarity from {rows}, (values ('image'), ('caption')) v(kind), range(1, 6) t(k)
                order by i, kind, k""",
        }
        for stage, sql in sources.items():
            _copy(connection, f"select {sql}", run.root / stage / f"{s:05d}.parquet")
        entries.append(
            {"name": name, "id": f"{s:05d}", "path": name, "size": 1, "fingerprint": "", "n_pairs": last - first}
        )
    write_json(
        run.manifest,
        {"version": "bench", "encoder": "none", "encoder_fingerprint": "", "views": ["whole"], "pool_size": 256,
         "rounds": 32, "seed": 0, "shards": entries, "contamination": {"estimate": 0.06, "low": 0.05, "high": 0.07}},
    )  # fmt: skip


def _median_s(work: Callable[[], object], repeat: int) -> float:
    times = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return round(statistics.median(times[1:]), 4)


def _command_s(run: RunFolder, repeat: int) -> float | None:
    script = shutil.which("roclip-audit", path=str(Path(sys.executable).parent))
    if script is None:
        return None
    command = [script, "sql", HEADLINE, "--audit", str(run.root)]
    if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode:
        return None
    return _median_s(lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True), repeat)


def _query(run: RunFolder, sql: str) -> None:
    with run_query(run, sql) as result:
        for _ in result.rows():
            pass


def _headlines(run: RunFolder, repeat: int) -> dict[str, float]:
    """Time the headline query on both layouts, in turns, on one connection."""
    with open_readonly(run) as connection:
        connection.execute(JOINED).fetchall()
        times: dict[str, list[float]] = {"suspicion": [], "joined": []}
        for _ in range(repeat + 1):
            for view, found in times.items():
                start = time.perf_counter()
                connection.execute(HEADLINE.replace("suspicion order", f"{view} order")).fetchall()
                found.append(time.perf_counter() - start)
    wide, joined = (statistics.median(found[1:]) for found in times.values())
    return {"wide_s": round(wide, 4), "joined_s": round(joined, 4), "ratio": round(joined / wide, 1)}


def measure(run: RunFolder, *, n_pairs: int, n_shards: int, repeat: int) -> dict[str, object]:
    """Make, ingest, query; return what was measured."""
    make_files(run, n_pairs=n_pairs, n_shards=n_shards)
    start, cpu_start = time.perf_counter(), time.process_time()
    report = ingest(run)
    ingest_s, ingest_cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
    uid = hashlib.md5(str(n_pairs // 2).encode(), usedforsecurity=False).hexdigest()
    return {
        "n_scored": report.n_scored,
        "n_neighbours": report.n_neighbours,
        "ingest_s": round(ingest_s, 2),
        "ingest_cpu_s": round(ingest_cpu_s, 2),
        "ingest_peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "database_mib": run.database.stat().st_size >> 20,
        "input_mib": sum(path.stat().st_size for path in run.root.rglob("*.parquet")) >> 20,
        "query_s": {name: _median_s(lambda: _query(run, sql.format(uid=uid)), repeat) for name, sql in QUERIES.items()},  # noqa: B023
        "headline_by_layout": _headlines(run, repeat),
        "command_s": _command_s(run, repeat),
    }


def _commit() -> str | None:
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def main() -> None:
    """Parse, measure, print, and write the result file if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        found = measure(RunFolder(Path(folder)), n_pairs=options.pairs, n_shards=options.shards, repeat=options.repeat)
    result = {
        "benchmark": "sql",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "versions": {"python": platform.python_version(), "duckdb": duckdb.__version__},
        "hardware": {
            "machine": platform.machine(),
            "cpus": len(os.sched_getaffinity(0)),
            "load_before": round(load_before, 1),
        },
        "settings": {"pairs": options.pairs, "shards": options.shards, "repeat": options.repeat},
        "result": found,
    }
    print(json.dumps(result, indent=2))
    if options.out:
        write_json(options.out, result)


if __name__ == "__main__":
    main()
