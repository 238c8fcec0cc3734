"""The index stage: what each kind of sample becomes, and what each kind of dirt is called."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roclip_audit.core.errors import ConfigError, ShardError
from roclip_audit.core.problems import REASONS
from roclip_audit.core.run import RunFolder
from roclip_audit.core.shards import expand_shards
from roclip_audit.sanitize.index import INDEX_COLUMNS, IndexConfig, index_shard
from tests.shardkit import Sample, draw_samples, make_dataset, make_shard, sample, tar_bytes, write_sidecars

Rows = list[dict[str, Any]]
Index = Callable[..., tuple[Rows, Rows]]


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Index samples, or a ready shard; return the rows of pairs and problems."""

    def run(what: Iterable[Sample] | Path, **config: Any) -> tuple[Rows, Rows]:
        path = what if isinstance(what, Path) else make_shard(tmp_path / "x.tar", what)
        folder = RunFolder(tmp_path / "run")
        (shard,) = expand_shards([str(path)])
        stats = index_shard(shard, folder, IndexConfig(**config))
        pairs = pq.read_table(folder.file("pairs", f"{shard.id}.parquet")).to_pylist()
        problems = pq.read_table(folder.file("problems/index", f"{shard.id}.parquet")).to_pylist()
        assert stats == {
            "n_pairs": len(pairs),
            "n_scored": sum(row["scored"] for row in pairs),
            "n_problems": len(problems),
        }
        assert [row["ordinal"] for row in pairs] == list(range(len(pairs)))
        assert all(row["reason"] in REASONS and row["stage"] == "index" for row in problems)
        for row in pairs:  # an unscored pair has a fatal reason, and only it
            fatal = any(problem["ordinal"] == row["ordinal"] and problem["fatal"] for problem in problems)
            assert fatal == (not row["scored"])
        return pairs, problems

    return run


def reasons(problems: Rows) -> list[tuple[str, bool]]:
    return [(row["reason"], row["fatal"]) for row in problems]


def test_clean_pairs_give_rows_and_no_problems(index: Index, tmp_path: Path) -> None:
    (path,) = make_dataset(tmp_path / "data", n_pairs=5, n_shards=1, sidecars=True)
    pairs, problems = index(path)
    assert problems == []
    assert list(pairs[0]) == [column.name for column in INDEX_COLUMNS]
    content = path.read_bytes()
    for row, drawn in zip(pairs, draw_samples(5), strict=True):
        meta = json.loads(drawn.members["json"])
        assert row["key"] == drawn.key
        assert (row["uid"], row["uid_given"], row["url"]) == (meta["uid"], True, meta["url"])
        assert (row["caption"], row["caption_source"]) == (meta["caption"], "txt")
        image = content[row["image_offset"] : row["image_offset"] + row["image_bytes"]]
        assert image == drawn.members["png"]
        assert row["image_sha256"] == hashlib.sha256(image).hexdigest()
        assert (row["image_ext"], row["scored"], row["shard"]) == ("png", True, "00000.tar")


CASES: dict[str, tuple[Sample, dict[str, Any], list[tuple[str, bool]]]] = {
    "caption in the json": (
        sample("a", caption=None, meta={"caption": "from json"}),
        {"caption": "from json", "caption_source": "json", "scored": True},
        [],
    ),
    "caption under text": (sample("a", caption=None, meta={"text": "DataComp"}), {"caption": "DataComp"}, []),
    "caption before text": (sample("a", caption=None, meta={"text": "t", "caption": "c"}), {"caption": "c"}, []),
    "caption null, text set": (sample("a", caption=None, meta={"text": "t", "caption": None}), {"caption": "t"}, []),
    "no caption": (sample("a", caption=None), {"caption": None, "scored": False}, [("missing_caption", True)]),
    "caption not text": (
        sample("a", caption=None, meta={"caption": ["a", "b"]}),
        {"caption": None},
        [("missing_caption", True)],
    ),
    "empty caption": (sample("a", caption=""), {"caption": "", "scored": False}, [("empty_caption", True)]),
    "white space": (sample("a", caption=" \n\t"), {"caption": " \n\t", "scored": False}, [("empty_caption", True)]),
    "not UTF-8": (
        sample("a", caption=b"caf\xe9 \xff"),
        {"caption": "caf\ufffd \ufffd", "scored": True},
        [("caption_not_utf8", False)],
    ),
    "lone surrogate": (
        sample("a", caption=None, meta=b'{"caption": "x\\ud800y"}'),
        {"caption": "x\ufffd\ufffd\ufffdy", "scored": True},
        [("caption_not_utf8", False)],
    ),
    "NUL and control": (sample("a", caption="a\0b\x1b[31m\r\n"), {"caption": "a\0b\x1b[31m\r\n", "scored": True}, []),
    "captions differ": (
        sample("a", caption="shown", meta={"caption": "hidden"}),
        {"caption": "shown"},
        [("captions_differ", False)],
    ),
    "captions differ in white space only": (sample("a", caption="same\n", meta={"caption": "same"}), {}, []),
    "no image": (sample("a", image_ext=None), {"image_ext": None, "scored": False}, [("missing_image", True)]),
    "image of another kind": (sample("a", image_ext="gif"), {"image_ext": None}, [("missing_image", True)]),
    "upper-case extension": (sample("a", image_ext="PNG"), {"image_ext": "png", "scored": True}, []),
    "two images": (
        sample("a", image_ext="webp", image=b"w", extra={"png": b"p"}),
        {"image_ext": "png", "image_bytes": 1},
        [("multiple_images", False)],
    ),
    "empty image": (sample("a", image=b""), {"image_bytes": 0, "scored": True}, []),
    "broken json beside txt": (sample("a", meta=b"{"), {"scored": True}, [("json_invalid", False)]),
    "broken json alone": (
        sample("a", caption=None, meta=b"{"),
        {"scored": False},
        [("json_invalid", True), ("missing_caption", True)],
    ),
    "json that is no object": (sample("a", meta=b"[1]"), {"scored": True}, [("json_invalid", False)]),
    "json of bad bytes": (sample("a", meta=b'{"a": "\xff"}'), {"scored": True}, [("json_invalid", False)]),
    "deep json": (sample("a", meta=b"[" * 100_000), {"scored": True}, [("json_invalid", False)]),
    "number too long to read": (sample("a", meta=b'{"x": %s}' % (b"9" * 9999)), {}, [("json_invalid", False)]),
    "uid in capitals": (sample("a", meta={"uid": "AB" * 16}), {"uid": "ab" * 16, "uid_given": True}, []),
    "uid of another form": (sample("a", meta={"uid": "7"}), {"uid_given": False}, [("uid_invalid", False)]),
    "uid that is a number": (sample("a", meta={"uid": 7}), {"uid_given": False}, [("uid_invalid", False)]),
    "url that is no text": (sample("a", meta={"url": {"a": 1}}), {"url": None}, []),
    "members of other kinds": (sample("a", extra={"pkl": b"x", "seg.png": b"y", "cls": b"1"}), {"scored": True}, []),
}


@pytest.mark.parametrize("case", CASES)
def test_each_kind_of_sample(case: str, index: Index) -> None:
    given_sample, expected, problems = CASES[case]
    pairs, found = index([given_sample])
    assert {name: pairs[0][name] for name in expected} == expected
    assert reasons(found) == problems
    assert all((row["ordinal"], row["key"]) == (0, "a") for row in found)


def test_long_captions_are_cut_at_a_character(index: Index) -> None:
    for text in ("x" * 20, "é" * 10, "€" * 9, "😀" * 6):
        pairs, problems = index(
            [sample("a", caption=text), sample("b", caption=None, meta={"text": text})], max_caption_bytes=10
        )
        assert reasons(problems) == [("caption_too_long", False)] * 2
        for row in pairs:
            assert row["caption"]
            assert text.startswith(row["caption"])
            assert 7 <= len(row["caption"].encode()) <= 10


def test_large_json_is_not_parsed(index: Index) -> None:
    meta = json.dumps({"caption": "x", "padding": "y" * 5000}).encode()
    pairs, problems = index([sample("a", caption=None, meta=meta)], max_json_bytes=1000)
    assert pairs[0]["caption"] is None
    assert reasons(problems) == [("json_invalid", True), ("missing_caption", True)]


def test_a_caption_key_is_the_only_place_looked_at(index: Index) -> None:
    pairs, problems = index(
        [sample("a", caption="txt", meta={"alt": "alt", "caption": "c"}), sample("b", meta={"caption": "c"})],
        caption_key="alt",
    )
    assert [row["caption"] for row in pairs] == ["alt", None]
    assert reasons(problems) == [("missing_caption", True)]


def test_repeated_keys_are_reported_and_kept(index: Index) -> None:
    pairs, problems = index([sample("a"), sample("b"), sample("a", caption="other"), sample("a", caption="third")])
    assert [row["key"] for row in pairs] == ["a", "b", "a", "a"]
    assert [(row["ordinal"], row["reason"], row["fatal"]) for row in problems] == [
        (2, "key_repeated", False),
        (3, "key_repeated", False),
    ]
    assert len({row["uid"] for row in pairs}) == 4


def test_what_is_no_pair_is_reported_within_bounds(index: Index, tmp_path: Path) -> None:
    members = [("README", b""), ("__meta__", b""), *((f"dir{n}", b"") for n in range(200)), ("a.txt", b"x")]
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    pairs, problems = index(tmp_path / "x.tar")
    assert len(pairs) == 1
    strays = [row for row in problems if row["reason"] == "not_a_pair"]
    assert len(strays) == 101
    assert strays[-1]["detail"] == "and 102 more members"
    assert strays[0]["ordinal"] is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", [("tar_damaged", True), ("no_pairs", True)]),
        (b"not a tar" * 100, [("tar_damaged", True), ("no_pairs", True)]),
        (bytes(10240), [("no_pairs", True)]),
        (tar_bytes([("README", b"x")]), [("not_a_pair", False), ("no_pairs", True)]),
    ],
)
def test_a_shard_without_pairs_is_no_crash(
    index: Index, tmp_path: Path, content: bytes, expected: list[tuple[str, bool]]
) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    pairs, problems = index(tmp_path / "x.tar")
    assert pairs == []
    assert reasons(problems) == expected


def test_a_truncated_shard_keeps_what_is_whole(index: Index, tmp_path: Path) -> None:
    content = make_shard(tmp_path / "x.tar", draw_samples(40)).read_bytes()
    (tmp_path / "x.tar").write_bytes(content[: content.index(b"000000020.json") + 600])
    pairs, problems = index(tmp_path / "x.tar")
    assert [row["scored"] for row in pairs] == [True] * 20 + [False]
    assert ("tar_truncated", True) in reasons(problems)
    assert problems[-1]["ordinal"] is None
    assert "bytes before the end of member" in problems[-1]["detail"]


def test_a_shard_that_cannot_be_opened_is_an_error_naming_it(tmp_path: Path) -> None:
    path = make_shard(tmp_path / "x.tar", [sample("a")])
    (shard,) = expand_shards([str(path)])
    path.unlink()
    with pytest.raises(ShardError, match=r"x\.tar"):
        index_shard(shard, RunFolder(tmp_path / "run"), IndexConfig())
    assert list((tmp_path / "run").rglob("*.parquet")) == []


# Sidecars


def test_captions_urls_and_uids_from_the_parquet(index: Index, tmp_path: Path) -> None:
    path = make_shard(tmp_path / "x.tar", [sample("a", caption=None), sample("b", caption=None), sample("c")])
    rows = [
        {"key": "b", "caption": "bee", "url": "u:b", "uid": "b" * 32, "status": "success"},
        {"key": "zzz", "caption": "gone", "url": "u:z", "uid": "c" * 32, "status": "failed_to_download"},
        {"key": "a", "caption": "ay", "url": "u:a", "uid": None, "status": "success"},
        {"key": "c", "caption": "not this", "url": "u:c", "uid": "x", "status": "success"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    pairs, problems = index(path)
    assert [(row["caption"], row["caption_source"], row["url"]) for row in pairs] == [
        ("ay", "parquet", "u:a"),
        ("bee", "parquet", "u:b"),
        ("a red circle", "txt", "u:c"),
    ]
    assert [row["uid_given"] for row in pairs] == [False, True, False]
    assert reasons(problems) == [("uid_invalid", False)]
    pairs, problems = index(path, use_sidecars=False)
    assert [row["caption"] for row in pairs] == [None, None, "a red circle"]


def test_repeated_keys_take_the_rows_of_the_parquet_in_turn(index: Index, tmp_path: Path) -> None:
    path = make_shard(tmp_path / "x.tar", [sample(key, caption=None) for key in ("a", "b", "a")])
    rows = [{"key": key, "caption": caption} for key, caption in (("a", "1"), ("b", "2"), ("a", "3"))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    assert [row["caption"] for row in index(path)[0]] == ["1", "2", "3"]


def test_counts_that_do_not_fit_are_reported(index: Index, tmp_path: Path) -> None:
    samples = draw_samples(4)
    path = make_shard(tmp_path / "x.tar", samples[:3])
    write_sidecars(path, samples)
    pairs, problems = index(path)
    assert len(pairs) == 3
    assert reasons(problems) == [("count_mismatch", False)] * 2
    assert "4" in problems[0]["detail"]


@pytest.mark.parametrize("parquet", [b"", b"PAR1", b"PAR1 nonsense PAR1", "no key", "key of numbers", "bad UTF-8"])
@pytest.mark.parametrize("stats", [b"", b"[]", b'{"successes": true}', b"[" * 9999, b"\xff"])
def test_a_bad_sidecar_is_a_problem_not_a_crash(
    index: Index, tmp_path: Path, parquet: bytes | str, stats: bytes
) -> None:
    path = make_shard(tmp_path / "x.tar", [sample("a")])
    if isinstance(parquet, bytes):
        (tmp_path / "x.parquet").write_bytes(parquet)
    else:
        bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
        column: Any = {"no key": ["x"], "key of numbers": [1], "bad UTF-8": bad}[parquet]
        pq.write_table(pa.table({"x" if parquet == "no key" else "key": column}), tmp_path / "x.parquet")
    (tmp_path / "x_stats.json").write_bytes(stats)
    pairs, problems = index(path)
    assert pairs[0]["scored"]
    assert reasons(problems) == [("sidecar_invalid", False)] * 2
    assert all(str(tmp_path) not in row["detail"] for row in problems), "rows must not depend on where the data lie"


# Identity


def test_derived_uids_depend_on_content_not_on_place(index: Index, tmp_path: Path) -> None:
    samples = [
        sample("a"),
        sample("a", caption="b"),
        sample("b"),
        sample("a", image=b"x"),
        sample("a", caption=None),
        sample("a", caption=""),
    ]
    uids = [row["uid"] for row in index(samples)[0]]
    assert len(set(uids)) == len(uids)
    assert all(len(uid) == 32 and uid == uid.lower() for uid in uids)
    elsewhere = make_shard(tmp_path / "elsewhere" / "renamed.tar", [sample("z"), *reversed(samples)])
    assert [row["uid"] for row in index(elsewhere)[0]][:0:-1] == uids


def test_the_source_of_the_caption_does_not_change_the_uid(index: Index) -> None:
    in_txt, in_json = index([sample("a", caption="é"), sample("b"), sample("a", caption=None, meta={"caption": "é"})])[
        0
    ][::2]
    assert in_txt["uid"] == in_json["uid"]


@given(
    st.lists(
        st.tuples(st.binary(max_size=8), st.binary(max_size=8) | st.none(), st.binary(max_size=40) | st.none()),
        max_size=6,
    )
)
@settings(max_examples=60, deadline=None)
def test_any_bytes_can_be_indexed(
    tmp_path_factory: pytest.TempPathFactory, content: list[tuple[bytes, bytes | None, bytes | None]]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    samples = [
        sample(f"k{n}", image=image, caption=caption, meta=meta) for n, (image, caption, meta) in enumerate(content)
    ]
    (shard,) = expand_shards([str(make_shard(folder / "x.tar", samples))])
    stats = index_shard(shard, RunFolder(folder / "run"), IndexConfig())
    assert stats["n_pairs"] == len(samples)


def test_the_same_shard_gives_the_same_bytes(tmp_path: Path) -> None:
    (path,) = make_dataset(tmp_path / "data", n_pairs=20, n_shards=1)
    (shard,) = expand_shards([str(path)])
    written = []
    for name in ("one", "two"):
        run = RunFolder(tmp_path / name)
        index_shard(shard, run, IndexConfig())
        written.append([file.read_bytes() for file in sorted(run.root.rglob("*.parquet"))])
    assert written[0] == written[1]
    assert len(written[0]) == 2


def test_settings_that_cannot_work_are_refused() -> None:
    for config in ({"caption_key": ""}, {"max_json_bytes": 0}, {"max_caption_bytes": 0}):
        with pytest.raises(ConfigError):
            IndexConfig(**config)  # type: ignore[arg-type]
