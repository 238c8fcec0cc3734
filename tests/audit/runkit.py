"""Draw a finished run folder for tests: every file that the stages of a scan leave behind, made up but consistent.

    run = make_run(tmp_path / "audit", {"00000.tar": [fake("a cat"), fake(None), fake("a dog", suspicion=0.99)]})
    run = make_run(tmp_path / "audit", random_shards(n_shards=3, n_pairs=20, seed=0))

Everything is a function of the arguments. Neighbours and rivals are other scored pairs of the run, drawn at random.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from roclip_audit.core.run import RunFolder, write_json
from roclip_audit.core.samples import Sample, walk_samples
from roclip_audit.core.schema import CAMPAIGN_PAIRS, CAMPAIGNS, EVIDENCE, NEIGHBOURS, PAIRS, PROBLEMS, RIVALS, Column
from roclip_audit.core.shards import expand_shards, open_shard
from roclip_audit.core.tables import arrow_schema
from roclip_audit.core.tar import Buffer

VIEWS = ("whole", "inner", "blur", "silhouette")
HOSTILE = {
    "ansi": "\x1b[31mred\x1b]0;title\x07\x1b[2J",
    "rich markup": "[red]alarm[/red] [link=https://evil.example]click[/link]",
    "formula": '=HYPERLINK("https://evil.example","x")',
    "formula plus": "+1+cmd|' /C calc'!A0",
    "formula tab": "\t=1+1",
    "pipe": "a | b || c `code` <script>alert(1)</script> **bold** [x](javascript:1) \\",
    "newline": "first\nsecond\r\nthird\u2028fourth",
    "nul": "before\x00after",
    "bidi": "user\u202etxt.exe\u2066",
    "quotes": 'she said "it\'s", twice; -- drop table pairs',
    "long": "word " * 4000,
    "wide": "写真 の 猫 🐈‍⬛ " * 20,
    "c1": "a\x9b31mb\x85c",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FakePair:
    """What a test cares about of one pair; the rest is made up."""

    caption: str | None
    key: str | None = None
    url: str | None = None
    suspicion: float | None = None
    fdr: float | None = None
    risk: float | None = None
    scored: bool = True
    problem: str | None = None
    image_offset: int = 0
    image_bytes: int = 1000
    image_sha256: str | None = None


def fake(caption: str | None, **what: Any) -> FakePair:
    """Return a pair; without a caption it is unscored and has a problem."""
    if caption is None:
        what = {"scored": False, "problem": "missing_caption"} | what
    return FakePair(caption=caption, **what)


def random_shards(*, n_shards: int = 2, n_pairs: int = 20, seed: int = 0) -> dict[str, list[FakePair]]:
    """Return shards of ordinary pairs, about one in ten without a caption."""
    rng = np.random.default_rng(seed)
    nouns = ("cat", "dog", "boat", "tree", "castle", "car")
    shards: dict[str, list[FakePair]] = {}
    for s in range(n_shards):
        shards[f"{s:05d}.tar"] = [
            fake(
                None if rng.random() < 0.1 else f"a drawing of a {rng.choice(nouns)} {i}",
                url=f"https://site{rng.integers(3)}.example/{i}.jpg",
            )
            for i in range(n_pairs)
        ]
    return shards


def pairs_of(path: Path) -> list[FakePair]:
    """Return the pairs of a real shard whose samples have a png and a txt, where their images lie."""
    with open_shard(expand_shards([str(path)])[0]) as buffer:
        samples = [found for found in walk_samples(buffer) if isinstance(found, Sample)]
        return [_found(sample, buffer) for sample in samples]


def _found(sample: Sample, buffer: Buffer) -> FakePair:
    def read(ext: str) -> bytes:
        member = sample.members[ext]
        return bytes(buffer[member.offset : member.offset + member.size])

    ext = next(ext for ext in ("png", "jpg", "webp") if ext in sample.members)
    return fake(
        read("txt").decode(errors="replace"),
        key=sample.key,
        image_offset=sample.members[ext].offset,
        image_bytes=sample.members[ext].size,
        image_sha256=hashlib.sha256(read(ext)).hexdigest(),
    )


def uid_of(shard: str, ordinal: int) -> str:
    """Return the uid that ``make_run`` gives a pair."""
    return hashlib.blake2b(f"{shard}/{ordinal}".encode(), digest_size=16).hexdigest()


def shard_id(name: str) -> str:
    """Return the id that ``make_run`` gives a shard."""
    return name.removesuffix(".tar").replace("/", "-") + "-" + hashlib.blake2b(name.encode(), digest_size=4).hexdigest()


def write_rows(
    run: RunFolder, stage: str, shard: str, columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Write one stage's file of one shard."""
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=arrow_schema(columns))
    pq.write_table(table, run.file(stage, f"{shard_id(shard)}.parquet"))


def _evidence(uid: str, pair: FakePair, rng: np.random.Generator) -> dict[str, Any]:
    q = [float(v) for v in rng.random(len(VIEWS))]
    worst = int(np.argmax(q))
    row: dict[str, Any] = {column.name: float(rng.random()) for column in EVIDENCE if column.type == "DOUBLE"}
    counts = [column.name for column in EVIDENCE if column.type in {"UINTEGER", "UTINYINT"}]
    row |= {name: int(rng.integers(1, 5)) for name in counts if name not in {"stamp", "n_stamp"}}
    row |= {"stamp": None, "stamp_kind": None, "n_stamp": 0, "q_beside": None, "q_caption_beside": None}
    row |= {"uid": uid, "q": q[worst], "q_by_view": q, "worst_view": VIEWS[worst], "risk_reason": "pairing"}
    row |= {"never_wins": bool(row["never_wins_probability"] >= 0.5)}
    if pair.suspicion is not None:
        row["suspicion"] = pair.suspicion
    if pair.fdr is not None:
        row["fdr"] = pair.fdr
    if pair.risk is not None:
        row["risk"] = pair.risk
    return row


def _others(uid: str, uids: Sequence[str], n: int, rng: np.random.Generator) -> list[str]:
    candidates = [other for other in uids if other != uid]
    return [str(other) for other in rng.permutation(candidates)[:n]] if candidates else []


def _rivals(uid: str, uids: Sequence[str], rng: np.random.Generator) -> list[dict[str, Any]]:
    chosen = _others(uid, uids, 3, rng)
    margins = sorted((float(v) for v in rng.normal(0, 0.2, len(chosen))), reverse=True)
    return [
        {"uid": uid, "rank": k, "rival_uid": other, "cosine": 0.5, "margin": margin, "text_similarity": 0.2}
        for k, (other, margin) in enumerate(zip(chosen, margins, strict=True), 1)
    ]


def _neighbours(uid: str, uids: Sequence[str], rng: np.random.Generator) -> list[dict[str, Any]]:
    return [
        {"uid": uid, "kind": kind, "rank": k, "neighbour_uid": other, "similarity": 1 - k / 10}
        for kind in ("image", "caption")
        for k, other in enumerate(_others(uid, uids, 2, rng), 1)
    ]


def _pair_rows(shard: str, pairs: Sequence[FakePair]) -> list[dict[str, Any]]:
    return [
        {
            "uid": uid_of(shard, i),
            "shard": shard,
            "key": f"{i:04d}" if pair.key is None else pair.key,
            "ordinal": i,
            "caption": pair.caption,
            "url": pair.url,
            "caption_source": "txt",
            "uid_given": False,
            "image_ext": "png",
            "image_offset": pair.image_offset,
            "image_bytes": pair.image_bytes,
            "image_sha256": pair.image_sha256 or hashlib.sha256(f"{shard}/{i}".encode()).hexdigest(),
            "width": 64 if pair.scored else None,
            "height": 48 if pair.scored else None,
            "dhash": i if pair.scored else None,
            "scored": pair.scored,
        }
        for i, pair in enumerate(pairs)
    ]


def _problem_rows(shard: str, pairs: Sequence[FakePair], stage: str) -> list[dict[str, Any]]:
    return [
        {"shard": shard, "ordinal": i, "key": f"{i:04d}", "stage": stage, "reason": pair.problem, "detail": "found",
         "fatal": not pair.scored}
        for i, pair in enumerate(pairs)
        if pair.problem is not None and (stage == "index") == (pair.problem == "missing_caption")
    ]  # fmt: skip


def _columns(columns: Sequence[Column], *, without: Collection[str] = (), only: Collection[str] = ()) -> list[Column]:
    return [c for c in columns if c.name not in without and (not only or c.name in only)]


def make_run(
    root: Path,
    shards: Mapping[str, Sequence[FakePair]] | None = None,
    *,
    shard_folder: Path | None = None,
    campaigns: Mapping[str, Sequence[tuple[str, int]]] | None = None,
    seed: int = 0,
) -> RunFolder:
    """Write the run folder of a finished scan, without its database.

    Args:
        root: the run folder.
        shards: name -> pairs; random ones if not given.
        shard_folder: where the manifest says that the shards lie.
        campaigns: label -> its pairs (shard, ordinal), all of them suspicious; without, there was no such step.
        seed: of everything made up.
    """
    run = RunFolder(root)
    shards = random_shards(seed=seed) if shards is None else shards
    rng = np.random.default_rng(seed)
    uids = [uid_of(shard, i) for shard, pairs in shards.items() for i, pair in enumerate(pairs) if pair.scored]
    entries = []
    for shard, pairs in shards.items():
        rows = _pair_rows(shard, pairs)
        own = [(uid_of(shard, i), pair) for i, pair in enumerate(pairs) if pair.scored]
        write_rows(run, "pairs", shard, _columns(PAIRS, without={"width", "height", "dhash"}), rows)
        write_rows(
            run, "embeddings", shard, _columns(PAIRS, only={"ordinal", "width", "height", "dhash", "scored"}), rows
        )
        write_rows(run, "uids", shard, _columns(PAIRS, only={"ordinal", "uid"}), rows)
        write_rows(run, "problems/index", shard, PROBLEMS, _problem_rows(shard, pairs, "index"))
        write_rows(run, "problems/encode", shard, PROBLEMS, _problem_rows(shard, pairs, "encode"))
        write_rows(run, "evidence", shard, EVIDENCE, [_evidence(uid, pair, rng) for uid, pair in own])
        write_rows(run, "rivals", shard, RIVALS, [row for uid, _ in own for row in _rivals(uid, uids, rng)])
        write_rows(run, "neighbours", shard, NEIGHBOURS, [row for uid, _ in own for row in _neighbours(uid, uids, rng)])
        path = str((shard_folder or root.parent / "shards") / shard)
        entries.append(
            {"name": shard, "id": shard_id(shard), "path": path, "size": 10_000, "fingerprint": f"f-{shard}",
             "n_pairs": len(pairs)}
        )  # fmt: skip
    if campaigns is not None:
        _write_campaigns(run, campaigns)
    write_json(run.manifest, manifest_of(entries, n_scored=len(uids)))
    return run


def _write_campaigns(run: RunFolder, campaigns: Mapping[str, Sequence[tuple[str, int]]]) -> None:
    found, members = [], []
    for number, (label, pairs) in enumerate(campaigns.items(), 1):
        found.append(
            {"campaign": number, "kind": "captions", "label": label, "n_pairs": len(pairs), "n_suspicious": len(pairs),
             "share": 1.0, "base_rate": 0.05, "p_value": 1e-9, "p_corrected": 1e-8, "sentence": f"Pairs of {label}"}
        )  # fmt: skip
        members += [{"campaign": number, "uid": uid_of(*pair), "suspicious": True} for pair in pairs]
    for name, columns, rows in (("campaigns", CAMPAIGNS, found), ("pairs", CAMPAIGN_PAIRS, members)):
        table = pa.Table.from_pylist(rows, schema=arrow_schema(columns))
        pq.write_table(table, run.file("campaigns", f"{name}.parquet"))


def manifest_of(entries: Sequence[Mapping[str, Any]], *, n_scored: int) -> dict[str, Any]:
    """Return the manifest of a scan of the given shards."""
    return {
        "version": "0.1.0",
        "encoder": "embedded",
        "encoder_fingerprint": "0" * 32,
        "views": list(VIEWS),
        "pool_size": 256,
        "rounds": 32,
        "seed": 0,
        "parameters": {"folds": 5},
        "shards": [dict(entry) for entry in entries],
        "contamination": {"estimate": 0.06, "low": 0.05, "high": 0.07},
        "n_pairs": sum(int(entry["n_pairs"]) for entry in entries),
        "n_scored": n_scored,
        "n_problems": 0,
        "started_at": "2026-01-02T03:04:05+00:00",
        "finished_at": "2026-01-02T03:05:05+00:00",
    }


def edit_manifest(run: RunFolder, **changes: Any) -> None:
    """Change fields of a run's manifest."""
    write_json(run.manifest, json.loads(run.manifest.read_text(encoding="utf-8")) | changes)
