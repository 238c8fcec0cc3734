"""Curation: kept + removed = input, byte for byte; nothing half-made; the result loads where people train."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import warnings
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roclip_audit.core.errors import ConfigError, ShardError, StoreError
from roclip_audit.core.run import RunFolder
from roclip_audit.core.samples import Sample as Found
from roclip_audit.core.samples import Stray, walk_samples
from roclip_audit.core.schema import QUARANTINE
from roclip_audit.core.shards import Shard, expand_shards
from roclip_audit.core.tar import Member
from roclip_audit.core.torchvision_compat import ensure_torchvision_importable
from roclip_audit.sanitize.curate import CurateReport, curate
from roclip_audit.sanitize.index import IndexConfig, index_shard
from tests.shardkit import Sample, draw_samples, make_dataset, make_shard, sample, tar_bytes

Keep = Callable[[str, int], bool]


def index_all(shards: Sequence[Shard], folder: Path) -> list[dict[str, Any]]:
    run = RunFolder(folder)
    rows = []
    for shard in shards:
        index_shard(shard, run, IndexConfig())
        rows += pq.read_table(run.file("pairs", f"{shard.id}.parquet")).to_pylist()
    return rows


def select(shards: Sequence[Shard], folder: Path, keep: Keep, *, rows_per_group: int = 7) -> Path:
    """Write a selection as the audit does: one row per indexed pair, in (shard, ordinal) order."""
    rows = []
    for pair in sorted(index_all(shards, folder / "run"), key=lambda row: (row["shard"], row["ordinal"])):
        kept = keep(pair["shard"], pair["ordinal"])
        rows.append(
            {name: pair[name] for name in ("shard", "ordinal", "uid")}
            | {"keep": kept, "reason": None if kept else "fdr <= 0.1"}
        )
    schema = pa.schema(
        [
            ("shard", pa.string()),
            ("ordinal", pa.uint32()),
            ("uid", pa.string()),
            ("keep", pa.bool_()),
            ("reason", pa.string()),
        ]
    )
    path = folder / "selection.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=rows_per_group)
    return path


def run_curate(folder: Path, keep: Keep, **options: Any) -> CurateReport:
    """Curate ``folder/data`` into ``folder/out``."""
    shards = expand_shards([str(folder / "data")])
    return curate(shards, select(shards, folder, keep), folder / "out", **options)


def raw_samples(path: Path) -> Iterator[tuple[str, ...]]:
    """Yield the hash of every member of every sample: headers, data and padding."""
    content = path.read_bytes()
    for found in walk_samples(content):
        if isinstance(found, Found):
            yield tuple(raw_hash(content, member) for member in found.members.values())


def raw_hash(content: bytes, member: Member) -> str:
    return hashlib.sha256(content[member.start : member.end].ljust(member.end - member.start, b"\0")).hexdigest()


def raw_members(paths: Sequence[Path]) -> Counter[str]:
    hashes: Counter[str] = Counter()
    for path in paths:
        content = path.read_bytes()
        for found in walk_samples(content):
            if isinstance(found, Found):
                hashes.update(raw_hash(content, member) for member in found.members.values())
            elif isinstance(found, Stray):
                hashes[raw_hash(content, found.member)] += 1
    return hashes


def tars(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.tar"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make_dataset(tmp_path / "data", n_pairs=23, n_shards=3, px=16, sidecars=True)
    return tmp_path


# Nothing is lost, nothing is changed

samples_strategy = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", "d/a", "long/" * 30 + "k", "é"]),
        st.lists(st.sampled_from(["jpg", "png", "txt", "json", "cls", "pkl"]), min_size=1, max_size=4, unique=True),
        st.binary(max_size=700),
    ),
    max_size=12,
)
strays_strategy = st.lists(st.sampled_from(["README", "__meta__", "a.__url__", "dir"]), max_size=3)


@given(
    shards=st.lists(st.tuples(samples_strategy, strays_strategy), min_size=1, max_size=3),
    tar_format=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    bits=st.lists(st.booleans(), min_size=36, max_size=36),
    pairs_per_shard=st.integers(1, 9),
)
@settings(max_examples=40, deadline=None)
def test_kept_and_removed_are_the_input(
    tmp_path_factory: pytest.TempPathFactory, shards: Any, tar_format: int, bits: list[bool], pairs_per_shard: int
) -> None:
    folder = tmp_path_factory.mktemp("curate")
    for number, (samples, strays) in enumerate(shards):
        members = [(f"{key}.{ext}", content + ext.encode()) for key, exts, content in samples for ext in exts]
        for position, stray in enumerate(strays):
            members.insert(position * 3, (stray, b"stray"))
        path = folder / "data" / f"{number}.tar"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(tar_bytes(members, tar_format=tar_format))
    report = run_curate(
        folder, lambda shard, ordinal: bits[int(shard[0]) * 12 + ordinal % 12], pairs_per_shard=pairs_per_shard
    )

    inputs, kept, removed = tars(folder / "data"), tars(folder / "out"), tars(folder / "out" / "quarantine")
    assert raw_members(kept) + raw_members(removed) == raw_members(inputs)
    expected = [
        hashes
        for path in inputs
        for ordinal, hashes in enumerate(raw_samples(path))
        if bits[int(path.stem) * 12 + ordinal % 12]
    ]
    assert [hashes for path in kept for hashes in raw_samples(path)] == expected, (
        "kept samples are those, whole, in order"
    )
    assert report.n_kept == len(expected)
    assert report.n_kept + report.n_removed == report.n_pairs
    assert all(tar.n_samples <= pairs_per_shard for tar in report.written)


def test_nothing_flagged_gives_the_same_bytes(data: Path) -> None:
    report = run_curate(data, lambda shard, ordinal: True, pairs_per_shard=8)
    assert [path.read_bytes() for path in tars(data / "out")] == [path.read_bytes() for path in tars(data / "data")]
    assert (report.n_kept, report.n_removed, report.quarantined, report.reasons) == (23, 0, (), {})
    assert tars(data / "out" / "quarantine") == []


def test_tarfile_reads_the_output(data: Path) -> None:
    run_curate(data, lambda shard, ordinal: ordinal % 2 == 0, pairs_per_shard=5)
    for path in tars(data / "out"):
        with tarfile.open(path) as tar:
            assert all(info.name.split(".")[1] in ("png", "json", "txt") for info in tar)
        assert path.stat().st_size % 10_240 == 0


def test_uids_survive_curation(tmp_path: Path) -> None:
    given_uids = draw_samples(4, px=16)
    derived = [sample(f"k{n}", caption=f"c{n}", image=bytes([n])) for n in range(4)]
    from_parquet = [sample(f"p{n}", caption=None, image=bytes([n])) for n in range(4)]
    make_shard(tmp_path / "data" / "0.tar", [*given_uids, *derived])
    parquet_shard = make_shard(tmp_path / "data" / "1.tar", from_parquet)
    rows = [
        {"key": f"p{n}", "caption": f"caption {n}", "status": "success", "uid": f"{n:032x}" if n % 2 else None}
        for n in range(4)
    ]
    pq.write_table(pa.Table.from_pylist(rows), parquet_shard.with_suffix(".parquet"))
    before = index_all(expand_shards([str(tmp_path / "data")]), tmp_path / "before")
    run_curate(tmp_path, lambda shard, ordinal: ordinal != 2, pairs_per_shard=3)
    after = index_all(expand_shards([str(tmp_path / "out")]), tmp_path / "after")
    wanted = [row for row in before if row["ordinal"] != 2]
    for name in ("uid", "key", "caption", "caption_source", "image_sha256", "uid_given", "url"):
        assert [row[name] for row in after] == [row[name] for row in wanted], name


def test_the_same_input_gives_the_same_folder(data: Path) -> None:
    shards = expand_shards([str(data / "data")])
    selection = select(shards, data, lambda shard, ordinal: ordinal % 3 > 0)
    for name in ("one", "two"):
        curate(shards, selection, data / name, pairs_per_shard=4)
    one, two = (
        {str(path.relative_to(data / name)): path.read_bytes() for path in (data / name).rglob("*") if path.is_file()}
        for name in ("one", "two")
    )
    assert one == two


# What is written beside the tars


def test_what_lies_beside_the_tars(data: Path) -> None:
    report = run_curate(data, lambda shard, ordinal: ordinal % 4 > 0, pairs_per_shard=5, where="fdr <= 0.1")
    out = data / "out"
    sizes = json.loads((out / "sizes.json").read_text())
    assert list(sizes) == [path.name for path in tars(out)]
    assert sum(sizes.values()) == report.n_kept == int((out / "__len__").read_text())
    for path in tars(out):
        assert (
            json.loads((out / f"{path.stem}_stats.json").read_text())["successes"]
            == sizes[path.name]
            == len(list(raw_samples(path)))
        )
    meta = json.loads((out / "meta.json").read_text())
    assert [meta["output_shard_format"].format(n) for n in range(meta["output_shard_count"])] == list(sizes)
    assert (meta["output_count"], meta["processed_count"]) == (report.n_kept, 23)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["where"] == "fdr <= 0.1"
    assert manifest["selection_sha256"] == hashlib.sha256((data / "selection.parquet").read_bytes()).hexdigest()
    assert {tar["name"]: tar["sha256"] for tar in manifest["written"]} == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tars(out)
    }
    assert [shard["fingerprint"] for shard in manifest["shards"]] == [
        s.fingerprint for s in expand_shards([str(data / "data")])
    ]
    assert str(data) not in json.dumps(manifest)
    assert json.loads((out / "quarantine" / "sizes.json").read_text()) == {"00000.tar": 5, "00001.tar": 1}


def test_the_subset_is_datacomps(data: Path) -> None:
    shards = expand_shards([str(data / "data")])
    kept = [row["uid"] for row in index_all(shards, data / "run") if row["ordinal"] % 2]
    run_curate(data, lambda shard, ordinal: ordinal % 2 == 1)
    subset = np.load(data / "out" / "subset.npy", allow_pickle=False)
    expected = np.array(sorted((int(uid[:16], 16), int(uid[16:], 16)) for uid in kept), np.dtype("u8,u8"))
    assert subset.dtype == np.dtype("u8,u8")
    assert subset.tolist() == expected.tolist()


def test_reasons_say_what_was_left_out_and_where_it_is(data: Path) -> None:
    content = tar_bytes([("README", b"x"), ("a.png", b"p"), ("a.txt", b"t")])
    (data / "data" / "00003.tar").write_bytes(content)
    report = run_curate(data, lambda shard, ordinal: ordinal > 0, pairs_per_shard=3)
    table = pq.read_table(data / "out" / "quarantine" / "reasons.parquet")
    assert table.column_names == [column.name for column in QUARANTINE]
    rows = table.to_pylist()
    assert [(row["shard"], row["key"], row["ordinal"], row["reason"], row["new_shard"]) for row in rows] == [
        ("00000.tar", "000000000", 0, "fdr <= 0.1", "00000.tar"),
        ("00001.tar", "000010000", 0, "fdr <= 0.1", "00000.tar"),
        ("00002.tar", "000020000", 0, "fdr <= 0.1", "00000.tar"),
        ("00003.tar", "README", None, "not_a_pair", "other-00000.tar"),
        ("00003.tar", "a", 0, "fdr <= 0.1", "00001.tar"),
    ]
    assert (report.reasons, report.n_not_a_pair) == ({"fdr <= 0.1": 4}, 1)


def test_parquet_rows_go_with_their_pairs(data: Path) -> None:
    make_shard(data / "data" / "00003.tar", [sample("bare", caption="no parquet")])
    report = run_curate(data, lambda shard, ordinal: ordinal != 1, pairs_per_shard=9)
    assert report.notes == ()
    n_rows = 0
    for path in tars(data / "out"):
        rows = pq.read_table(path.with_suffix(".parquet")).to_pylist()
        found = [x for x in walk_samples(path.read_bytes()) if isinstance(x, Found)]
        assert [row["key"] for row in rows] == [x.key for x in found]
        for row, x in zip(rows, found, strict=True):
            if x.key == "bare":
                assert row["caption"] is None
                continue
            meta = path.read_bytes()[x.members["json"].offset :][: x.members["json"].size]
            assert {name: row[name] for name in ("uid", "caption", "url")} == {
                name: json.loads(meta)[name] for name in ("uid", "caption", "url")
            }
        n_rows += len(rows)
    assert n_rows == report.n_kept


def test_parquets_that_do_not_fit_together_are_noted(data: Path) -> None:
    table = pq.read_table(data / "data" / "00001.parquet")
    changed = table.set_column(table.column_names.index("width"), "width", pa.array(["wide"] * table.num_rows))
    pq.write_table(changed, data / "data" / "00001.parquet")
    (data / "data" / "00002.parquet").write_bytes(b"broken")
    report = run_curate(data, lambda shard, ordinal: True, pairs_per_shard=100)
    assert any("do not fit together" in note for note in report.notes)
    assert any(note.startswith("00002.tar: no parquet rows") for note in report.notes)
    assert not (data / "out" / "00000.parquet").exists()


def test_no_parquet_without_parquets(tmp_path: Path) -> None:
    make_dataset(tmp_path / "data", n_pairs=4, n_shards=2, px=16)
    run_curate(tmp_path, lambda shard, ordinal: True)
    assert list((tmp_path / "out").glob("0*.parquet")) == []


def test_a_damaged_tail_is_counted(data: Path) -> None:
    path = data / "data" / "00001.tar"
    os.truncate(
        path, next(x.members["json"].offset for x in list(walk_samples(path.read_bytes()))[3:4] if isinstance(x, Found))
    )
    report = run_curate(data, lambda shard, ordinal: True)
    damaged = report.shards[1]
    assert damaged.damage is not None
    assert damaged.n_pairs == 4
    assert damaged.n_unread_bytes == report.n_unread_bytes == 512
    kept = [hashes for path in tars(data / "out") for hashes in raw_samples(path)]
    assert kept == [hashes for path in tars(data / "data") for hashes in raw_samples(path)]


def test_a_shard_that_is_no_tar_is_carried_through_the_count(data: Path) -> None:
    (data / "data" / "00003.tar").write_bytes(b"nonsense" * 1000)
    report = run_curate(data, lambda shard, ordinal: True)
    assert (report.n_pairs, report.n_unread_bytes) == (23, 8000)


def test_keeping_nothing_gives_an_empty_data_set(data: Path) -> None:
    report = run_curate(data, lambda shard, ordinal: False)
    assert (report.n_kept, report.n_removed, report.written) == (0, 23, ())
    assert np.load(data / "out" / "subset.npy").shape == (0,)
    assert json.loads((data / "out" / "meta.json").read_text())["output_shard_count"] == 0
    with pytest.raises(ConfigError, match=r"no \.tar files"):
        expand_shards([str(data / "out")])  # must not find the quarantine


# Pairs that nobody scored must not appear


@pytest.mark.parametrize(
    ("samples", "dropped"),
    [
        ([Sample("k", {"jpg": b"image"}), Sample("x", {"txt": b"-"}), Sample("k", {"txt": b"caption"})], {1}),
        ([Sample("k", {"txt": b"1"}), Sample("k", {"__url__": b""}), Sample("k", {"jpg": b"2", "txt": b"3"})], set()),
        ([Sample("k", {"jpg": b"1", "txt": b"1"}), Sample("x", {"txt": b"-"}), Sample("k", {"json": b"{}"})], {1}),
    ],
)
def test_samples_with_one_key_are_not_glued_together(tmp_path: Path, samples: list[Sample], dropped: set[int]) -> None:
    make_shard(tmp_path / "data" / "0.tar", samples)
    before = list(raw_samples(tmp_path / "data" / "0.tar"))
    report = run_curate(tmp_path, lambda shard, ordinal: ordinal not in dropped)
    after = [hashes for path in tars(tmp_path / "out") for hashes in raw_samples(path)]
    assert after == [hashes for ordinal, hashes in enumerate(before) if ordinal not in dropped]
    assert len(report.written) == 2


def test_one_key_at_the_seam_of_two_shards_is_not_glued_together(tmp_path: Path) -> None:
    make_shard(tmp_path / "data" / "0.tar", [Sample("k", {"jpg": b"image"})])
    make_shard(tmp_path / "data" / "1.tar", [Sample("k", {"txt": b"caption"})])
    run_curate(tmp_path, lambda shard, ordinal: True)
    assert [len(hashes) for path in tars(tmp_path / "out") for hashes in raw_samples(path)] == [1, 1]


# Refusals, before anything is written


def untouched(folder: Path) -> bool:
    return not (folder / "out").exists() and not list(folder.glob(".out*"))


def test_a_used_folder_is_refused(data: Path) -> None:
    (data / "out").mkdir()
    (data / "out" / "mine.txt").write_text("keep me")
    with pytest.raises(ConfigError, match="is not empty"):
        run_curate(data, lambda shard, ordinal: True)
    (data / "out" / "mine.txt").rename(data / "mine.txt")
    run_curate(data, lambda shard, ordinal: True)
    with pytest.raises(ConfigError, match="is not empty"):
        run_curate(data, lambda shard, ordinal: True)
    with pytest.raises(ConfigError, match="is a file"):
        curate([], data / "selection.parquet", data / "mine.txt")


def test_a_mount_point_is_refused(data: Path) -> None:
    mounts = [
        path for path in map(Path, ("/dev/mqueue", "/dev/shm", "/mnt")) if path.is_mount() and not any(path.iterdir())
    ]
    if not mounts:
        pytest.skip("no empty mount point on this machine")
    with pytest.raises(ConfigError, match="mount point"):
        curate([], data / "selection.parquet", mounts[0])


def test_a_dry_run_counts_and_writes_nothing(data: Path) -> None:
    dry = run_curate(data, lambda shard, ordinal: ordinal > 1, dry_run=True)
    assert untouched(data)
    report = run_curate(data, lambda shard, ordinal: ordinal > 1)
    assert (dry.n_kept, dry.reasons, dry.shards) == (report.n_kept, report.reasons, report.shards)
    assert dry.written == ()


def test_a_shard_that_changed_since_the_scan_is_refused(data: Path) -> None:
    shards = expand_shards([str(data / "data")])
    selection = select(shards, data, lambda shard, ordinal: True)
    scanned = {shard.name: shard.fingerprint for shard in shards}
    curate(shards, selection, data / "fine", fingerprints=scanned)
    with pytest.raises(StoreError, match=r"00001\.tar: changed since the scan"):
        curate(shards, selection, data / "out", fingerprints=scanned | {"00001.tar": "other"})
    make_shard(data / "data" / "00001.tar", draw_samples(3, px=16))
    with pytest.raises(ShardError, match="changed"):
        curate(shards, selection, data / "out")
    with pytest.raises(StoreError, match="holds 3 pairs, the selection has 8"):
        curate(expand_shards([str(data / "data")]), selection, data / "out")
    assert untouched(data)


def test_other_shards_than_those_scanned_are_refused(data: Path) -> None:
    shards = expand_shards([str(data / "data")])
    selection = select(shards, data, lambda shard, ordinal: True)
    with pytest.raises(ConfigError, match=r"1 shards that were not given, the first is '00002\.tar'"):
        curate(shards[:2], selection, data / "out")
    selection = select(shards[:2], data, lambda shard, ordinal: True)
    with pytest.raises(StoreError, match="holds 7 pairs, the selection has 0"):
        curate(shards, selection, data / "out")
    assert untouched(data)


BREAK: dict[str, Callable[[pa.Table], pa.Table]] = {
    "no column": lambda table: table.drop_columns(["keep"]),
    "are not 0 to": lambda table: table.take([0, 2, 1, *range(3, table.num_rows)]),
    "not together": lambda table: table.take([*range(1, table.num_rows), 0]),
    "is null": lambda table: table.set_column(3, "keep", pa.array([None] * table.num_rows, pa.bool_())),
    "not hexadecimal": lambda table: table.set_column(2, "uid", pa.array(["g" * 32] * table.num_rows)),
    "32 characters": lambda table: table.set_column(2, "uid", pa.array(["00"] * table.num_rows)),
}


@pytest.mark.parametrize("message", BREAK)
def test_a_damaged_selection_is_refused(data: Path, message: str) -> None:
    shards = expand_shards([str(data / "data")])
    selection = select(shards, data, lambda shard, ordinal: True)
    pq.write_table(BREAK[message](pq.read_table(selection)), selection)
    with pytest.raises(StoreError, match=message):
        curate(shards, selection, data / "out")
    selection.write_bytes(b"nonsense")
    with pytest.raises(StoreError, match="cannot be read as a selection"):
        curate(shards, selection, data / "out")
    assert untouched(data)


def test_numbers_that_cannot_work_are_refused(data: Path) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        run_curate(data, lambda shard, ordinal: True, pairs_per_shard=0)


# Interruptions


def test_an_error_leaves_nothing_behind(data: Path) -> None:
    class Full:
        def advance(self, n: int, *, n_errors: int = 0) -> None:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        run_curate(data, lambda shard, ordinal: True, progress=Full())
    assert untouched(data)


KILLED = """
import sys, time
from pathlib import Path
from roclip_audit.core.shards import expand_shards
from roclip_audit.sanitize.curate import curate
class Stall:
    def advance(self, n, *, n_errors=0):
        print("copied", flush=True)
        time.sleep(60)
folder = Path(sys.argv[1])
curate(expand_shards([str(folder / "data")]), folder / "selection.parquet", folder / "out", progress=Stall())
"""


def test_a_killed_run_leaves_no_output_and_the_next_one_cleans_up(data: Path) -> None:
    shards = expand_shards([str(data / "data")])
    selection = select(shards, data, lambda shard, ordinal: True)
    with subprocess.Popen([sys.executable, "-c", KILLED, str(data)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"copied\n"
        with pytest.raises(ConfigError, match="another roclip-audit is writing"):
            curate(shards, selection, data / "out")
        process.send_signal(signal.SIGKILL)
    assert not (data / "out").exists()
    assert (data / ".out.partial").exists()
    curate(shards, selection, data / "out")
    assert sorted(path.name for path in data.iterdir()) == ["data", "out", "run", "selection.parquet"]


def test_a_folder_in_the_way_that_is_not_ours_is_not_removed(data: Path) -> None:
    (data / ".out.partial").mkdir()
    (data / ".out.partial" / "precious").touch()
    with pytest.raises(ConfigError, match="in the way"):
        run_curate(data, lambda shard, ordinal: True)
    assert (data / ".out.partial" / "precious").exists()


# Where people train


def brace_pattern(out: Path) -> str:
    meta = json.loads((out / "meta.json").read_text())
    first, last = (meta["output_shard_format"].format(n) for n in (0, meta["output_shard_count"] - 1))
    return f"{out}/{{{first.removesuffix('.tar')}..{last.removesuffix('.tar')}}}.tar"


@pytest.fixture
def curated(tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    make_dataset(tmp_path / "data", n_pairs=40, n_shards=4, px=16)
    run_curate(tmp_path, lambda shard, ordinal: ordinal % 3 > 0, pairs_per_shard=6)
    rows = [row for row in index_all(expand_shards([str(tmp_path / "data")]), tmp_path / "run") if row["ordinal"] % 3]
    return tmp_path / "out", rows


def test_webdataset_loads_it(curated: tuple[Path, list[dict[str, Any]]]) -> None:
    out, rows = curated
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wds = pytest.importorskip("webdataset")
        dataset = (
            wds.WebDataset(brace_pattern(out), shardshuffle=False)
            .decode("pil")
            .to_tuple("__key__", "png", "txt", "json")
        )
        loaded = list(dataset)
        del dataset
    assert [(key, text, meta["uid"]) for key, _, text, meta in loaded] == [
        (row["key"], row["caption"], row["uid"]) for row in rows
    ]
    assert {image.size for _, image, _, _ in loaded} == {(16, 16)}


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("is_train", [False, True])
def test_open_clip_loads_it(
    curated: tuple[Path, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, is_train: bool
) -> None:
    out, rows = curated
    pytest.importorskip("pandas", reason="open_clip_train.data imports pandas")
    ensure_torchvision_importable()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pytest.importorskip("open_clip_train.data")
    # open_clip 3.3 wants webdataset <= 0.2.86, which had no end-of-shard value; newer ones yield {} unless told not to.
    monkeypatch.setattr(data, "tar_file_expander", partial(data.tar_file_expander, eof_value=None))
    assert data.get_dataset_size(brace_pattern(out)) == (len(rows), len(tars(out)))
    args = Namespace(
        train_data=brace_pattern(out),
        val_data=brace_pattern(out),
        train_num_samples=None,
        val_num_samples=len(rows),
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        seed=0,
        workers=0,
        world_size=1,
        batch_size=len(rows) if is_train else 5,
    )
    info = data.get_wds_dataset(args, np.asarray, is_train, tokenizer=lambda text: [text])
    batches = list(info.dataloader)
    captions = [caption for _, texts in batches for caption in texts]
    assert Counter(captions) == Counter(row["caption"] for row in rows)
    assert sum(len(images) for images, _ in batches) == len(rows)
    assert {image.shape for images, _ in batches for image in images} == {(16, 16, 3)}
