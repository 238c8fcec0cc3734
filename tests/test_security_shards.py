"""Shards are the attacker's: nothing in them may run, write, escape, exhaust or hide.

What is checked elsewhere: that the scan sees the pairs that the training sees (tests/core/test_tar.py), and that
curation makes no new pairs (tests/sanitize/test_curate.py).
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tarfile
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.run import RunFolder
from roclip_audit.core.samples import Sample, Stray, walk_samples
from roclip_audit.core.shards import expand_shards
from roclip_audit.core.tar import Damage, walk_members
from roclip_audit.sanitize.curate import curate
from roclip_audit.sanitize.index import IndexConfig, index_shard
from tests.shardkit import make_shard, sample, tar_bytes

MIB = 1 << 20


@contextmanager
def bounded(*, mib: float, seconds: float) -> Iterator[None]:
    """Fail if the block allocates more, at its peak, or takes longer (generously: machines differ)."""
    started = time.perf_counter()
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < mib * MIB, f"{peak / MIB:.1f} MiB"
    assert time.perf_counter() - started < seconds


def index(path: Path, folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    (shard,) = expand_shards([str(path)])
    run = RunFolder(folder)
    index_shard(shard, run, IndexConfig())
    pairs = pq.read_table(run.file("pairs", f"{shard.id}.parquet"))
    problems = pq.read_table(run.file("problems/index", f"{shard.id}.parquet"))
    return pairs.to_pylist(), problems.to_pylist()


def select_all(path: Path, folder: Path) -> Path:
    pairs, _ = index(path, folder / "run")
    rows = [{name: row[name] for name in ("shard", "ordinal", "uid")} | {"keep": True, "reason": None} for row in pairs]
    types = [pa.string(), pa.uint32(), pa.string(), pa.bool_(), pa.string()]
    schema = pa.schema(list(zip(("shard", "ordinal", "uid", "keep", "reason"), types, strict=True)))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "selection.parquet")
    return folder / "selection.parquet"


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


class Exploit:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


def test_nothing_is_unpickled_and_nothing_is_run(tmp_path: Path) -> None:
    bomb = pickle.dumps(Exploit(f"touch {tmp_path / 'owned'}"))
    extra = dict.fromkeys(("pkl", "pickle", "pyd", "pth", "pt", "npy", "npz", "cls", "mp", "cbor", "py"), bomb)
    path = make_shard(
        tmp_path / "data" / "x.tar", [sample("a", extra=extra), sample("b", image=bomb, meta=bomb, caption=bomb)]
    )
    pairs, _ = index(path, tmp_path / "run")
    assert len(pairs) == 2
    curate(expand_shards([str(path)]), select_all(path, tmp_path), tmp_path / "out")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "name", ["../../escape.txt", "/tmp/escape.txt", "a/../../../escape.txt", "..\\escape.txt", "a\0b.txt"]
)
def test_member_names_are_never_paths(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "inside"
    members = [(name, b"escaped"), (name.replace("txt", "png"), b"x")]
    (inside / "data").mkdir(parents=True)
    (inside / "data" / "x.tar").write_bytes(tar_bytes(members))
    path = inside / "data" / "x.tar"
    pairs, _ = index(path, inside / "run")
    curate(expand_shards([str(path)]), select_all(path, inside), inside / "out")
    assert not any("escape" in file for file in files_below(tmp_path))
    assert not Path("/tmp/escape.txt").exists()
    assert len(pairs) <= 2


def test_links_and_devices_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo(f"k{kind.decode()}.txt")
            info.type, info.linkname = kind, str(tmp_path / "secret.txt")
            tar.addfile(info)
    pairs, problems = index(tmp_path / "x.tar", tmp_path / "run")
    assert pairs == []
    assert [row["reason"] for row in problems] == ["not_a_pair"] * 5 + ["no_pairs"]


def test_keys_and_captions_are_data_whatever_they_hold(tmp_path: Path) -> None:
    nasty = "'; drop table pairs; --\0\x1b]0;owned\x07<script>alert(1)</script>=cmd|' /C calc'!A0\u202e"
    key = "k\n\x1b[2J'\"<b>"
    pairs, _ = index(
        make_shard(tmp_path / "x.tar", [sample(key, caption=nasty, meta={"url": "javascript:alert(1)"})]),
        tmp_path / "run",
    )
    assert (pairs[0]["caption"], pairs[0]["key"], pairs[0]["url"]) == (nasty, key, "javascript:alert(1)")


# Exhaustion


def test_headers_that_claim_much_cost_little() -> None:
    huge = tar_bytes([("a.txt", b"")])[:512]
    for size in (b"77777777777\0", b"\x80" + b"\x00" * 3 + b"\x7f" * 8):
        for kind in b"0LKxgS":
            block = bytearray(huge)
            block[124:136], block[156] = size, kind
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
            with bounded(mib=1, seconds=5):
                (damage,) = walk_members(bytes(block) + bytes(2048))
            assert isinstance(damage, Damage)
            assert damage.fatal


def test_a_long_chain_of_headers_is_no_recursion() -> None:
    block = bytearray(tar_bytes([("g", b"")])[:512])
    block[156] = ord("g")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    with bounded(mib=40, seconds=20):
        found = list(walk_members(bytes(block) * 20_000))
    assert len(found) == 1


def test_many_members_cost_constant_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes([("k.a", b"")])[:512] * 20_000)
    content = path.read_bytes()
    with bounded(mib=2, seconds=30):
        n = sum(1 for _ in walk_samples(content))
    assert n == 20_001


def test_one_key_with_many_members_costs_constant_memory() -> None:
    content = tar_bytes([(f"k.{n}", b"") for n in range(5_000)])
    with bounded(mib=2, seconds=20):
        n_strays = sum(isinstance(found, Stray) for found in walk_samples(content))
    assert n_strays == 5_000 - 256


def test_slow_names_are_fast(tmp_path: Path) -> None:
    names = ["/" * 4000 + f"{n}" for n in range(50)] + ["a/" * 2000 + f".{n}" for n in range(50)]
    content = tar_bytes([(name, b"") for name in names], tar_format=tarfile.GNU_FORMAT)
    with bounded(mib=2, seconds=5):
        assert len(list(walk_samples(content))) == 51  # the second half has one key


def test_large_members_are_not_read_whole(tmp_path: Path) -> None:
    """A sparse file on disk, 48 MiB each: a json, a caption, an image."""
    path = tmp_path / "x.tar"
    size = 48 * MIB
    with path.open("wb") as file:
        for ext in ("json", "txt", "png"):
            info = tarfile.TarInfo(f"a.{ext}")
            info.size = size
            file.write(info.tobuf(tarfile.USTAR_FORMAT))
            file.seek(size, os.SEEK_CUR)
        file.truncate(file.tell() + 1024)
    with bounded(mib=40, seconds=60):
        pairs, problems = index(path, tmp_path / "run")
    assert pairs[0]["image_bytes"] == size
    assert pairs[0]["caption"] == "\0" * 16_384
    assert {row["reason"] for row in problems} == {"json_invalid", "caption_too_long"}
    selection = select_all(path, tmp_path)
    with bounded(mib=40, seconds=60):
        curate(expand_shards([str(path)]), selection, tmp_path / "out")


def test_deep_and_wide_json_is_survived(tmp_path: Path) -> None:
    metas = [b'{"a":' * 60_000 + b"1" + b"}" * 60_000, b"[" * 500_000, b'{"a":1,' * 1000, b'"' + b"\\u" * 1000]
    samples = [sample(f"k{n}", meta=meta) for n, meta in enumerate(metas)]
    pairs, problems = index(make_shard(tmp_path / "x.tar", samples), tmp_path / "run")
    assert all(row["scored"] for row in pairs)
    assert {row["reason"] for row in problems} == {"json_invalid"}
    assert all(len(row["detail"]) <= 300 for row in problems)


def test_a_parquet_bomb_is_not_blown_up(tmp_path: Path) -> None:
    """One caption of 4 MiB, two thousand times: small on disk, 8 GiB decoded."""
    path = make_shard(tmp_path / "x.tar", [sample("k0", caption=None)])
    n = 2_000
    captions = pa.DictionaryArray.from_arrays(pa.array([0] * n, pa.int32()), pa.array(["x" * 4 * MIB]))
    keys = pa.array([f"k{i}" for i in range(n)])
    pq.write_table(pa.table({"key": keys, "caption": captions}), path.with_suffix(".parquet"), compression="zstd")
    before = pa.total_allocated_bytes()
    with bounded(mib=60, seconds=60):
        pairs, problems = index(path, tmp_path / "run")
    assert pa.default_memory_pool().max_memory() - before < 512 * MIB
    assert pairs[0]["caption"] == "x" * 16_384
    assert {row["reason"] for row in problems} == {"caption_too_long", "count_mismatch"}


def test_a_parquet_bomb_in_the_key_is_refused(tmp_path: Path) -> None:
    path = make_shard(tmp_path / "x.tar", [sample("k0")])
    keys = pa.DictionaryArray.from_arrays(pa.array([0] * 2_000, pa.int32()), pa.array(["x" * 4 * MIB]))
    pq.write_table(pa.table({"key": keys}), path.with_suffix(".parquet"), compression="zstd")
    _, problems = index(path, tmp_path / "run")
    assert [row["reason"] for row in problems] == ["sidecar_invalid"]


def test_fifos_beside_a_shard_do_not_block(tmp_path: Path) -> None:
    path = make_shard(tmp_path / "x.tar", [sample("a")])
    os.mkfifo(tmp_path / "x.parquet")
    os.mkfifo(tmp_path / "x_stats.json")
    pairs, problems = index(path, tmp_path / "run")
    assert pairs[0]["scored"]
    assert problems == []


def test_patterns_and_lists_run_nothing(tmp_path: Path) -> None:
    make_shard(tmp_path / "x.tar", [sample("a")])
    (tmp_path / "list.txt").write_text(f"pipe:touch {tmp_path / 'owned'}\n")
    for spec in (
        f"pipe:touch {tmp_path / 'owned'}",
        f"@{tmp_path / 'list.txt'}",
        f"$(touch {tmp_path / 'owned'})",
        f"`touch {tmp_path / 'owned'}`",
    ):
        with pytest.raises(ConfigError):
            expand_shards([spec])
    assert not (tmp_path / "owned").exists()


def test_reading_shards_needs_no_model_library(tmp_path: Path) -> None:
    """Indexing imports neither torch nor webdataset, whose import alone would bring a decoder that unpickles."""
    make_shard(tmp_path / "x.tar", [sample("a")])
    code = (
        "import json, sys; from pathlib import Path; from roclip_audit.core.shards import expand_shards;"
        "from roclip_audit.core.run import RunFolder; from roclip_audit.sanitize.index import *;"
        "index_shard(expand_shards(sys.argv[1:2])[0], RunFolder(Path(sys.argv[2])), IndexConfig());"
        "print(json.dumps(sorted({'torch', 'webdataset', 'open_clip', 'PIL'} & set(sys.modules))))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "x.tar", tmp_path / "run"], capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout) == []


def test_a_sample_is_whatever_lies_between_its_neighbours() -> None:
    found = list(walk_samples(tar_bytes([("a.jpg", b"1"), ("b.jpg", b"2"), ("a.txt", b"3")])))
    assert [list(x.members) for x in found if isinstance(x, Sample)] == [["jpg"], ["jpg"], ["txt"]]
