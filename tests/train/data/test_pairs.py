"""The list of pairs to train on, against what the scan's index says of the same shards."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from roclip_audit.audit.ingest import ingest
from roclip_audit.audit.select import write_selection
from roclip_audit.core.errors import EXIT_UNREADABLE, ConfigError, ShardError, StoreError
from roclip_audit.core.run import RunFolder
from roclip_audit.core.shards import expand_shards
from roclip_audit.sanitize.index import IndexConfig, index_shard
from roclip_audit.train.data.pairs import OpenShards, PairTable, read_pairs
from tests.audit.runkit import make_run, pairs_of
from tests.shardkit import draw_samples, make_dataset, make_shard, sample, tar_bytes

ODD = [
    sample("a", caption="a red circle", meta={"uid": "AB" * 16, "caption": "of the json"}),
    sample("b", caption=None, meta={"caption": "only in the json", "text": "and this"}),
    sample("c", caption="no uid here"),
    sample("d", caption=None),
    sample("e", caption="  \n"),
    sample("f", caption="no picture", image_ext=None),
    sample("g", caption="twice"),
    sample("g", caption="twice"),
    sample("h", caption="été \U0001f600".encode() + b"\xff"),
    sample("i", caption="a" * 10_000),
    sample("j", caption="two pictures", extra={"jpg": b"first"}),
    sample("k", caption="bad uid", meta={"uid": "nonsense"}),
]


def uids(table: PairTable) -> list[str]:
    return [row.tobytes().hex() for row in table.uid_N]


def indexed(path: Path, run: Path, **config: object) -> list[dict[str, object]]:
    """Return what the scan says of the pairs of a shard that can be used."""
    shard = expand_shards([str(path)])[0]
    index_shard(shard, RunFolder(run), IndexConfig(**config))  # type: ignore[arg-type]
    rows = pq.read_table(run / "pairs" / f"{shard.id}.parquet").to_pylist()
    return [row for row in rows if row["scored"]]


def write_selection_by_hand(path: Path, shards: dict[str, list[bool]]) -> Path:
    rows = [
        {"shard": name, "ordinal": i, "uid": f"{i:032x}", "keep": keep, "reason": None if keep else "where: x"}
        for name, keeps in shards.items()
        for i, keep in enumerate(keeps)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("caption_key", [None, "text", "caption"])
def test_says_of_every_pair_what_the_scan_says(tmp_path: Path, caption_key: str | None) -> None:
    shard = make_shard(tmp_path / "odd.tar", ODD)
    table = read_pairs(expand_shards([str(shard)]), caption_key=caption_key)
    rows = indexed(shard, tmp_path / "run", caption_key=caption_key)
    assert uids(table) == [row["uid"] for row in rows]
    assert table.offset_N.tolist() == [row["image_offset"] for row in rows]
    assert table.n_bytes_N.tolist() == [row["image_bytes"] for row in rows]
    assert list(table.captions) == [str(row["caption"])[:4096] for row in rows]


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    table = read_pairs(expand_shards([str(make_shard(tmp_path / "odd.tar", ODD))]))
    assert table.left_out == {"missing_caption": 2, "missing_image": 1}
    assert len(table) + 3 == len(ODD)
    assert table.captions[len(table) - 1] == "bad uid"


def test_captions_and_uids_of_a_parquet_beside_the_shard_count(tmp_path: Path) -> None:
    samples = draw_samples(5)
    bare = [sample(s.key, caption=None, image=s.members["png"]) for s in samples]
    shard = make_shard(tmp_path / "00000.tar", bare)
    rows = [{"key": s.key, "caption": f"caption {s.key}", "uid": f"{i:032x}"} for i, s in enumerate(samples)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "00000.parquet")
    table = read_pairs(expand_shards([str(shard)]))
    assert list(table.captions) == [row["caption"] for row in rows]
    assert uids(table) == [row["uid"] for row in rows]
    (tmp_path / "00000.parquet").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="5 missing_caption"):
        read_pairs(expand_shards([str(shard)]))


def test_shards_keep_their_order_and_pictures_are_where_it_says(tmp_path: Path) -> None:
    make_dataset(tmp_path, 9, 3)
    table = read_pairs(expand_shards([str(tmp_path)]))
    assert table.shard_N.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    opened = OpenShards(table.shards)
    drawn = [s.members["png"] for first in (0, 10_000, 20_000) for s in draw_samples(3, first=first)]
    for i, expected in enumerate(drawn):
        place = (int(table.shard_N[i]), int(table.offset_N[i]), int(table.n_bytes_N[i]))
        assert opened.read(*place) == expected
    opened.close()


def test_a_selection_of_an_audit_leaves_out_what_it_names(tmp_path: Path) -> None:
    paths = make_dataset(tmp_path / "shards", 12, 2)
    run = make_run(tmp_path / "audit", {path.name: pairs_of(path) for path in paths})
    ingest(run)
    write_selection(run, "ordinal in (1, 4)", tmp_path / "selection.parquet")
    table = read_pairs(expand_shards([str(tmp_path / "shards")]), selection=tmp_path / "selection.parquet")
    everything = list(read_pairs(expand_shards([str(tmp_path / "shards")])).captions)
    assert list(table.captions) == [everything[i] for i in (0, 2, 3, 5, 6, 8, 9, 11)]
    assert table.left_out == {"not_selected": 4}


@pytest.mark.parametrize(
    "shards", [{"00000.tar": [True] * 3}, {"00000.tar": [True] * 5}, {"other.tar": [True] * 4}, {}]
)
def test_a_selection_of_other_shards_is_refused(tmp_path: Path, shards: dict[str, list[bool]]) -> None:
    make_dataset(tmp_path / "shards", 4, 1)
    selection = write_selection_by_hand(tmp_path / "s.parquet", shards or {"x": [True]})
    with pytest.raises(StoreError, match=r"00000\.tar: holds 4 pairs, the audit knows"):
        read_pairs(expand_shards([str(tmp_path / "shards")]), selection=selection)


def test_nothing_to_train_on_says_why(tmp_path: Path) -> None:
    make_dataset(tmp_path / "shards", 4, 1)
    selection = write_selection_by_hand(tmp_path / "s.parquet", {"00000.tar": [False] * 4})
    with pytest.raises(ConfigError, match="4 not_selected"):
        read_pairs(expand_shards([str(tmp_path / "shards")]), selection=selection)


@pytest.mark.parametrize("n_more", [5, -100], ids=["in a picture", "in a header"])
def test_a_damaged_shard_is_named(tmp_path: Path, n_more: int) -> None:
    make_dataset(tmp_path, 4, 2)
    path = tmp_path / "00001.tar"
    end = int(read_pairs(expand_shards([str(path)])).offset_N[1]) + n_more
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(ShardError, match=r"00001\.tar: .*leave it out") as caught:
        read_pairs(expand_shards([str(tmp_path)]))
    assert caught.value.exit_code == EXIT_UNREADABLE


def test_a_shard_that_is_no_tar_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"no tar at all, but long enough to be one" * 30)
    with pytest.raises(ShardError, match=r"x\.tar"):
        read_pairs(expand_shards([str(tmp_path)]))


def test_a_remote_shard_is_read_alike(tmp_path: Path) -> None:
    local = make_shard(tmp_path / "00000.tar", draw_samples(4))
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/train-pairs/00000.tar", local.read_bytes())
    try:
        remote = read_pairs(expand_shards(["memory://train-pairs/00000.tar"]))
        assert remote.fingerprint == read_pairs(expand_shards([str(local)])).fingerprint
        opened = OpenShards(remote.shards)
        picture = opened.read(0, int(remote.offset_N[2]), int(remote.n_bytes_N[2]))
        assert picture == draw_samples(4)[2].members["png"]
        opened.close()
    finally:
        memory.rm("/train-pairs", recursive=True)


def test_the_fingerprint_changes_with_captions_uids_and_order(tmp_path: Path) -> None:
    first = draw_samples(4)
    changed = [*first[:3], sample(first[3].key, caption="other", image=first[3].members["png"])]
    prints = set()
    for name, samples in (("a", first), ("b", changed), ("c", first[:3]), ("d", [*first[1:], first[0]])):
        shard = make_shard(tmp_path / name / "00000.tar", samples)
        prints.add(read_pairs(expand_shards([str(shard)])).fingerprint)
    copy = make_shard(tmp_path / "e" / "renamed.tar", first)
    assert len(prints) == 4
    assert read_pairs(expand_shards([str(copy)])).fingerprint in prints


def n_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_at_most_so_many_shards_are_open_and_all_are_closed(tmp_path: Path) -> None:
    make_dataset(tmp_path, 12, 6)
    table = read_pairs(expand_shards([str(tmp_path)]))
    before = n_open()
    opened = OpenShards(table.shards, most=2)

    def read(i: int) -> bytes:
        return opened.read(int(table.shard_N[i]), int(table.offset_N[i]), int(table.n_bytes_N[i]))

    expected = [read(i) for i in range(len(table))]
    assert n_open() == before + 2 * per_shard(table)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, [*range(12)] * 5)) == expected * 5
    assert n_open() == before + 2 * per_shard(table)
    opened.close()
    assert n_open() == before


def per_shard(table: PairTable) -> int:
    """Return how many descriptors one open shard takes: the file's and the map's."""
    before = n_open()
    opened = OpenShards(table.shards)
    opened.read(0, 0, 1)
    n = n_open() - before
    opened.close()
    return n


def test_a_shard_that_changed_meanwhile_is_an_error_not_another_picture(tmp_path: Path) -> None:
    table = read_pairs(expand_shards([str(make_shard(tmp_path / "a.tar", draw_samples(3)))]))
    (tmp_path / "a.tar").write_bytes(tar_bytes([("x.png", b"other")]))
    opened = OpenShards(table.shards)
    with pytest.raises(ShardError, match="changed"):
        opened.read(0, 0, 10)
    opened.close()
