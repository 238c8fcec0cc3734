"""Rows of arrays on disk against plain concatenation, and uids that nobody can make collide."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roclip_audit.core.arrays import npy_writer
from roclip_audit.core.run import RunFolder
from roclip_audit.core.schema import PAIRS
from roclip_audit.core.shards import Shard
from roclip_audit.core.tables import table_writer
from roclip_audit.sanitize.dataset import Dataset, RowArray, load_dataset
from roclip_audit.sanitize.encode import ENCODED


@given(st.lists(st.integers(0, 6), min_size=1, max_size=6), st.data())
def test_rows_equal_those_of_one_array(lengths: list[int], data: st.DataObject) -> None:
    rng = np.random.default_rng(sum(lengths))
    parts = [rng.normal(size=(n, 2, 3)).astype(np.float16) for n in lengths]
    whole, rows = torch.from_numpy(np.concatenate(parts).astype(np.float32)), RowArray.of(parts)
    n = len(whole)
    assert len(rows) == n
    assert rows.row_shape == (2, 3)
    pick = torch.tensor(data.draw(st.lists(st.integers(0, n - 1), max_size=9) if n else st.just([])), dtype=torch.int64)
    got = rows[pick]
    assert got.dtype == torch.float32
    assert torch.equal(got, whole[pick])
    start, stop = data.draw(st.integers(0, n + 2)), data.draw(st.integers(0, n + 2))
    assert torch.equal(rows[slice(start, stop)], whole[start:stop])
    assert torch.equal(rows[:], whole)


def test_rows_as_they_are_stored() -> None:
    rows = RowArray.of([np.arange(6, dtype=np.int8).reshape(3, 2), np.full((1, 2), -7, dtype=np.int8)])
    found = rows.as_stored(torch.tensor([3, 0]))
    assert found.dtype == torch.int8
    assert found.tolist() == [[-7, -7], [0, 1]]


@pytest.mark.parametrize("row", [-1, 5])
def test_rows_that_are_not_there(row: int) -> None:
    rows = RowArray.of([np.zeros((3, 2)), np.zeros((2, 2))])
    with pytest.raises(IndexError):
        rows[torch.tensor([row])]


def write_shard(run: RunFolder, name: str, pairs: list[tuple[str, str | None]], scored: list[bool]) -> Shard:
    """Leave what index and encode leave; the features of a pair are its ordinal."""
    shard = Shard(path=f"/nowhere/{name}", name=name, size=1, mtime_ns=1)
    columns = [column for column in PAIRS if column.name not in ("width", "height", "dhash")]
    with table_writer(run.file("pairs", f"{shard.id}.parquet"), columns) as table:
        for ordinal, (uid, caption) in enumerate(pairs):
            known = {"uid": uid, "shard": name, "key": str(ordinal), "ordinal": ordinal, "caption": caption,
                     "uid_given": True, "scored": caption is not None}  # fmt: skip
            table.add([known.get(column.name) for column in columns])
    with table_writer(run.file("embeddings", f"{shard.id}.parquet"), ENCODED) as table:
        for ordinal, is_scored in enumerate(scored):
            table.add((ordinal, 4, 4, 0, is_scored) if is_scored else (ordinal, None, None, None, False))
    values = np.flatnonzero(scored).astype(np.float16)
    for kind, shape in (("image", (2, 3)), ("text", (4,)), ("grain", (2, 2)), ("detail", (2, 2))):
        with npy_writer(run.file("embeddings", f"{shard.id}.{kind}.npy"), shape) as array:
            array.append(np.broadcast_to(values.reshape(-1, *[1] * len(shape)), (len(values), *shape)))
    return shard


def uids_of(run: RunFolder, shard: Shard) -> list[str]:
    table = pq.read_table(run.file("uids", f"{shard.id}.parquet"))
    assert table["ordinal"].to_pylist() == list(range(len(table)))
    uids: list[str] = table["uid"].to_pylist()
    return uids


def test_what_is_not_scored_has_a_uid_but_no_row(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    a = write_shard(run, "a.tar", [("1" * 32, "one"), ("2" * 32, None), ("3" * 32, "three")], [True, False, True])
    empty = write_shard(run, "empty.tar", [], [])
    b = write_shard(run, "b.tar", [("4" * 32, "four"), ("5" * 32, "five")], [False, True])
    dataset = load_dataset(run, [a, empty, b])
    assert len(dataset) == 3
    assert dataset.uids == ["1" * 32, "3" * 32, "5" * 32]
    assert dataset.captions == ["one", "three", "five"]
    assert dataset.shard_N.tolist() == [0, 0, 2]
    assert [dataset.rows_of(number) for number in range(3)] == [slice(0, 2), slice(2, 2), slice(2, 3)]
    assert dataset.image_NVF[:][:, 0, 0].tolist() == dataset.text_NG[:][:, 0].tolist() == [0, 2, 1]
    assert uids_of(run, a) == ["1" * 32, "2" * 32, "3" * 32]
    assert uids_of(run, empty) == []


def again(uid: str, occurrence: int) -> str:
    return hashlib.blake2b(f"{uid}#{occurrence}".encode(), digest_size=16).hexdigest()


def load_uids(tmp_path: Path, *shards: list[str]) -> list[list[str]]:
    run = RunFolder(tmp_path)
    made = [
        write_shard(run, f"{number}.tar", [(uid, "x") for uid in uids], [True] * len(uids))
        for number, uids in enumerate(shards)
    ]
    dataset = load_dataset(run, made)
    found = [uids_of(run, shard) for shard in made]
    assert dataset.uids == [uid for uids in found for uid in uids]
    return found


def test_the_first_keeps_a_repeated_uid(tmp_path: Path) -> None:
    u, v = "a" * 32, "b" * 32
    assert load_uids(tmp_path, [u, v, u], [u, v]) == [[u, v, again(u, 2)], [again(u, 3), again(v, 2)]]


def test_a_uid_that_was_derived_already_is_not_believed_either(tmp_path: Path) -> None:
    u = "a" * 32
    (found,) = load_uids(tmp_path, [again(u, 2), u, u])
    assert found == [again(u, 2), u, again(again(u, 2), 2)]


def test_a_long_chain_of_uids_made_to_collide_does_no_harm(tmp_path: Path) -> None:
    chain = ["a" * 32]
    for _ in range(3_000):
        chain.append(again(chain[-1], 2))
    (found,) = load_uids(tmp_path, [*chain, chain[0]])
    assert found[:-1] == chain
    assert len(set(found)) == len(found)


@given(st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=3))
@settings(max_examples=15)
def test_uids_are_unique_and_depend_on_what_came_before_only(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[int]]
) -> None:
    pool = ["a" * 32, "b" * 32, again("a" * 32, 2), again("b" * 32, 2)]
    named = [[pool[x] for x in shard] for shard in shards]
    found = load_uids(tmp_path_factory.mktemp("all"), *named)
    flat = [uid for uids in found for uid in uids]
    assert len(set(flat)) == len(flat)
    assert load_uids(tmp_path_factory.mktemp("fewer"), *named[:-1], [])[:-1] == found[:-1]


def test_many_shards_need_few_open_files(tmp_path: Path) -> None:
    """A crawl has thousands of shards; Linux gives a process 1,024 open files."""
    import resource

    run = RunFolder(tmp_path)
    shards = [write_shard(run, f"{number}.tar", [(f"{number:032x}", "x")], [True]) for number in range(60)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 20, hard))
    try:
        dataset: Dataset = load_dataset(run, shards)
        assert dataset.text_NG[:].shape == (60, 4)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
