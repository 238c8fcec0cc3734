"""Finding shards: every form of specification, and every way to get it wrong."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from roclip_audit.core.errors import ConfigError, ShardError
from roclip_audit.core.shards import Shard, expand_shards, open_shard, read_beside
from tests.shardkit import make_dataset, make_shard, sample


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_dataset(tmp_path / "data", n_pairs=4, n_shards=4, px=8)
    return tmp_path / "data"


def names(*specs: object) -> list[str]:
    return [shard.name for shard in expand_shards([str(spec) for spec in specs])]


def refused(*specs: object) -> str:
    with pytest.raises(ConfigError) as caught:
        expand_shards([str(spec) for spec in specs])
    return str(caught.value)


ALL = ["00000.tar", "00001.tar", "00002.tar", "00003.tar"]


def test_every_form_means_the_same(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text("# a comment\ndata/00000.tar\n\n  data/0000{1..3}.tar\n")
    forms = [
        [folder],
        [f"{folder}/"],
        [f"file://{folder}"],
        [folder / "*.tar"],
        [folder / "0000[0-3].tar"],
        [folder / "{00000..00003}.tar"],
        [folder / "0000{0,1,{2,3}}.tar"],
        ["::".join(str(folder / name) for name in ALL)],
        [f"@{listing}"],
        [folder / "00003.tar", folder / "0000{2..0}.tar"],
        [folder / "**/*.tar"],
    ]
    monkeypatch.chdir(tmp_path)
    forms += [["data"], ["data/*.tar"], ["@list.txt"], ["./data/{00000..00003}.tar"]]
    expected = expand_shards([str(folder)])
    for form in forms:
        assert expand_shards([str(spec) for spec in form]) == expected, form
    assert [shard.name for shard in expected] == ALL


def test_a_shard_knows_its_file(folder: Path) -> None:
    shard = expand_shards([str(folder)])[0]
    status = (folder / "00000.tar").stat()
    assert (shard.path, shard.size, shard.mtime_ns) == (str(folder / "00000.tar"), status.st_size, status.st_mtime_ns)
    assert shard.beside("_stats.json") == str(folder / "00000_stats.json")
    os.utime(folder / "00000.tar", ns=(1, 1))
    assert expand_shards([str(folder)])[0].fingerprint != shard.fingerprint
    assert expand_shards([str(folder)])[1].fingerprint != shard.fingerprint


def test_order_is_natural_whatever_the_order_of_the_arguments(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        make_shard(tmp_path / f"x-{number}.tar", [sample("a")])
    assert names(tmp_path / "x-{10,1,2}.tar") == ["x-1.tar", "x-2.tar", "x-10.tar"]
    assert names(*sorted(tmp_path.iterdir())) == ["x-1.tar", "x-2.tar", "x-10.tar"]


def test_repeated_base_names_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for part in ("a/x", "a/y", "b"):
        make_dataset(tmp_path / "data" / part, n_pairs=1, n_shards=1, px=8)
    found = expand_shards([str(tmp_path / "data" / "{a/x,a/y,b}")])
    assert [shard.name for shard in found] == ["a/x/00000.tar", "a/y/00000.tar", "b/00000.tar"]
    assert len({shard.id for shard in found}) == 3
    assert all("/" not in shard.id for shard in found)


def test_ids_are_safe_and_differ_where_file_systems_ignore_case() -> None:
    shards = [Shard("", name, 0, 0) for name in ("a.tar", "A.tar", "a/b.tar", "a-b.tar", "../../etc/x.tar", "é" * 300)]
    ids = [shard.id for shard in shards]
    assert len({one.lower() for one in ids}) == len(ids)
    assert all(len(one) < 64 and set(one) <= set("abcdefghijklmnopqrstuvwxyzA0123456789-_") for one in ids)


def test_folders_below_are_searched_only_if_the_folder_has_no_tar(tmp_path: Path) -> None:
    make_dataset(tmp_path / "sub" / "deep", n_pairs=1, n_shards=1, px=8)
    make_dataset(tmp_path / "_tmp", n_pairs=1, n_shards=1, px=8)
    make_dataset(tmp_path / "quarantine", n_pairs=1, n_shards=1, px=8)
    make_dataset(tmp_path / ".hidden", n_pairs=1, n_shards=1, px=8)
    (tmp_path / "._00000.tar").write_bytes(b"left by macOS")
    assert [shard.path for shard in expand_shards([str(tmp_path)])] == [str(tmp_path / "sub/deep/00000.tar")]
    make_shard(tmp_path / "top.tar", [sample("a")])
    assert names(tmp_path) == ["top.tar"]
    assert names(tmp_path / "quarantine") == ["00000.tar"]


def test_a_path_that_exists_is_taken_as_it_is(tmp_path: Path) -> None:
    for name in ("a{1,2}.tar", "b[0-9].tar", "c::d.tar", "@e.tar"):
        make_shard(tmp_path / name, [sample("a")])
        assert names(tmp_path / name) == [name]


def test_the_same_shard_twice_is_refused_also_through_a_link(folder: Path, tmp_path: Path) -> None:
    assert "the same shard twice" in refused(folder, folder / "00001.tar")
    (tmp_path / "link").symlink_to(folder)
    assert "the same shard twice" in refused(f"{folder / '00000.tar'}::{tmp_path / 'link'}")


def test_a_wrong_path_is_explained(folder: Path, tmp_path: Path) -> None:
    assert "no 'dta' in" in refused(tmp_path / "dta" / "00000.tar")
    assert "did you mean data?" in refused(tmp_path / "dta" / "00000.tar")
    assert "did you mean 0000" in refused(folder / "00009.tar")
    assert "is a file, not a folder" in refused(folder / "00000.tar" / "x")
    assert "2 of 6 files do not exist, the first is" in refused(folder / "0000{0..5}.tar")
    assert "it matches nothing" in refused(folder / "x*.tar")
    assert "no shards given" in refused()
    assert "empty" in refused(" ")


def test_a_folder_without_shards_is_explained(tmp_path: Path) -> None:
    assert "it holds nothing" in refused(tmp_path)
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b.JPG").touch()
    assert "it holds 2 .jpg; it holds loose images" in refused(tmp_path)
    (tmp_path / "a.jpg").rename(tmp_path / "00000.tar.gz")
    assert "decompress" in refused(tmp_path)
    assert "decompress" in refused(tmp_path / "00000.tar.gz")


@pytest.mark.parametrize("spec", ["pipe:touch x", "x.tar::pipe:touch x", "pipe:cat {0..9}.tar"])
def test_commands_are_refused(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_shard(tmp_path / "x.tar", [sample("a")])
    assert "refused" in refused(spec)
    assert not (tmp_path / "x").exists()


def test_lists_are_bounded_and_flat(tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text("@list.txt\n")
    assert "cannot name another list" in refused(f"@{listing}")
    listing.write_text("# nothing\n")
    assert "names no shards" in refused(f"@{listing}")
    listing.write_bytes(b"\xff\xfe\n")
    assert "cannot be read as a list" in refused(f"@{listing}")
    assert "cannot be read as a list" in refused(f"@{tmp_path / 'missing'}")
    listing.write_text("pipe:ls\n")
    assert "refused" in refused(f"@{listing}")


def test_only_regular_files_are_shards(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.tar")
    assert "not a regular file" in refused(tmp_path / "fifo.tar")
    assert "no .tar files" in refused(tmp_path)
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff.tar")).touch()
    assert "not valid UTF-8" in refused(tmp_path)


def test_open_shard_gives_the_bytes(folder: Path, tmp_path: Path) -> None:
    shard = expand_shards([str(folder)])[0]
    with open_shard(shard) as buffer:
        assert buffer[:] == (folder / "00000.tar").read_bytes()
        assert isinstance(buffer[3:9], bytes)
    (tmp_path / "empty.tar").touch()
    with open_shard(expand_shards([str(tmp_path / "empty.tar")])[0]) as buffer:
        assert len(buffer) == 0


def test_a_shard_that_changed_or_vanished_is_an_error_that_names_it(folder: Path) -> None:
    shard = expand_shards([str(folder)])[0]
    with (folder / "00000.tar").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ShardError, match=r"00000\.tar: the file changed"), open_shard(shard):
        pass
    (folder / "00000.tar").unlink()
    with pytest.raises(ShardError, match=r"00000\.tar: cannot be read \(No such file"), open_shard(shard):
        pass


def test_errors_of_the_block_are_not_blamed_on_the_shard(folder: Path) -> None:
    with pytest.raises(OSError, match="disk full"), open_shard(expand_shards([str(folder)])[0]):
        raise OSError("disk full")


def test_shards_behind_urls(folder: Path) -> None:
    memory = fsspec.filesystem("memory")
    content = (folder / "00000.tar").read_bytes()
    for number in (1, 2, 10):
        memory.pipe(f"/test-shards/sub/x-{number}.tar", content)
    memory.pipe("/test-shards/sub/x-1.parquet", b"beside")
    try:
        expected = expand_shards(["memory://test-shards/sub/"])
        assert [shard.name for shard in expected] == ["x-1.tar", "x-2.tar", "x-10.tar"]
        for spec in (
            "memory://test-shards/",
            "memory://test-shards/sub/*.tar",
            "memory://test-shards/sub/x-{1,2,10}.tar",
        ):
            assert expand_shards([spec]) == expected
        with open_shard(expected[0]) as buffer:
            assert buffer[:] == content
        assert read_beside(expected[0], ".parquet", max_bytes=10) == b"beside"
        assert read_beside(expected[0], "_stats.json", max_bytes=10) is None
        assert "x-3.tar: does not exist (1 of 3" in refused("memory://test-shards/sub/x-{1..3}.tar")
        assert "a folder ends in /" in refused("memory://test-shards/sub")
        assert "no .tar files" in refused("memory://test-shards/sub/*.zip")
        memory.pipe("/test-shards/sub/x-1.tar", content + b"more")
        with pytest.raises(ShardError, match="changed"), open_shard(expected[0]):
            pass
        memory.rm("/test-shards/sub/x-1.tar")
        with pytest.raises(ShardError, match="cannot be read"), open_shard(expected[0]):
            pass
    finally:
        memory.rm("/test-shards", recursive=True)


def test_unknown_protocols_are_explained() -> None:
    assert "nosuch" in refused("nosuch://bucket/x.tar")
    with pytest.raises(ShardError, match="nosuch"), open_shard(Shard("nosuch://bucket/x.tar", "x.tar", 1, 0)):
        pass


def test_files_beside_a_shard_are_read_within_a_limit(folder: Path) -> None:
    shard = expand_shards([str(folder)])[0]
    assert read_beside(shard, "_stats.json", max_bytes=10) is None
    (folder / "00000_stats.json").write_bytes(b"x" * 11)
    with pytest.raises(ShardError, match=r"00000_stats\.json: larger than 10 bytes"):
        read_beside(shard, "_stats.json", max_bytes=10)
    assert read_beside(shard, "_stats.json", max_bytes=11) == b"x" * 11
    (folder / "00001.parquet").mkdir()
    assert read_beside(expand_shards([str(folder)])[1], ".parquet", max_bytes=10) is None
