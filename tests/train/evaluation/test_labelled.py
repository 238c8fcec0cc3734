"""Labels: index, name or both; shards or folders; and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from roclip_audit.core.errors import ConfigError, ShardError
from roclip_audit.train.evaluation.class_names import RawLabel, read_class_names, resolve_labels, same_class
from roclip_audit.train.evaluation.labelled import Labelled, read_labelled
from tests.shardkit import make_shard, sample
from tests.train.evaluation.evalkit import NAMES, class_folders, labelled_shards


def read(path: Path, classes: tuple[str, ...] | None = None, class_key: str = "class") -> Labelled:
    return read_labelled(str(path), option="--data", classes=classes, class_key=class_key)


def test_class_folders(tmp_path: Path) -> None:
    class_folders(tmp_path, {"red": 2, "hot_dog": 1}, colour_of={"hot_dog": "blue"})
    (tmp_path / "hot_dog" / "notes.txt").write_text("no picture")
    (tmp_path / ".cache").mkdir()
    found = read(tmp_path)
    assert found.class_names == ("hot dog", "red")
    assert found.labels_N.tolist() == [0, 1, 1]
    assert [found.pictures.where(i) for i in range(3)] == ["hot_dog/0.png", "red/0.png", "red/1.png"]
    assert found.pictures.pixels(0)[0, 0].tolist() == [0, 0, 255]
    assert read(tmp_path, ("sausage", "crimson")).class_names == ("sausage", "crimson")


def test_odd_class_folders_are_refused(tmp_path: Path) -> None:
    class_folders(tmp_path, {"red": 1, "blue": 1})
    with pytest.raises(ConfigError, match="2 class folders, but 3 names"):
        read(tmp_path, ("a", "b", "c"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty: a class folder without pictures"):
        read(tmp_path)
    class_folders(
        tmp_path,
        {"hot_dog": 1, "hot dog": 1, "empty": 1},
        colour_of=dict.fromkeys(("hot_dog", "hot dog", "empty"), "red"),
    )
    with pytest.raises(ConfigError, match="two folders mean the same class"):
        read(tmp_path)


def test_index_member_and_names_of_a_file(tmp_path: Path) -> None:
    shard = labelled_shards(tmp_path / "a.tar", [("red", 0), ("blue", 2), ("green", 1)])
    found = read(shard, NAMES)
    assert found.class_names == NAMES
    assert found.labels_N.tolist() == [0, 2, 1]
    assert found.pictures.pixels(1)[0, 0].tolist() == [0, 0, 255]
    assert found.pictures.where(1) == "a.tar:00001"
    with pytest.raises(ConfigError, match=r"a\.tar:00000: the class is an index, 0, without a name: --classes"):
        read(shard)
    with pytest.raises(ConfigError, match="index 2 is not among the 2 names"):
        read(shard, NAMES[:2])


def test_name_member(tmp_path: Path) -> None:
    shard = labelled_shards(tmp_path / "a.tar", [("red", "red"), ("blue", "sky_blue")])
    assert read(shard).class_names == ("red", "sky blue")
    assert read(shard, ("Z", "sky blue", "red")).labels_N.tolist() == [2, 1]
    with pytest.raises(ConfigError, match="'sky_blue' is not among"):
        read(shard, NAMES)


def test_json_names_in_any_field_and_unlabelled_samples(tmp_path: Path) -> None:
    shard = labelled_shards(
        tmp_path / "a.tar", [("red", None), ("blue", None), ("red", None)], with_json=True, key="what"
    )
    found = read(shard, class_key="what")
    assert found.class_names == ("blue", "red")
    assert found.labels_N.tolist() == [1, 0, 1]
    with pytest.raises(ConfigError, match=r"no class column in 3 samples.*--class-key"):
        read(shard)
    mixed = [sample("a", meta={"class": "red"}), sample("b", meta=b"[1"), sample("c", meta={"class": "blue"})]
    assert read(make_shard(tmp_path / "b.tar", mixed)).n_unlabelled == 1


def test_index_and_name_together_make_the_list(tmp_path: Path) -> None:
    shard = labelled_shards(tmp_path / "a.tar", [("red", 7), ("blue", 2), ("red", 7)], with_json=True)
    found = read(shard)
    assert found.class_names == ("blue", "red")
    assert found.labels_N.tolist() == [1, 0, 1]
    with pytest.raises(ConfigError, match="class 7 is 'blue' here and 'red' before"):
        read(labelled_shards(tmp_path / "b.tar", [("red", 7), ("blue", 7)], with_json=True))


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        read(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="a single class, 'red'"):
        read(labelled_shards(tmp_path / "one.tar", [("red", "red")]))
    shard = labelled_shards(tmp_path / "cut.tar", [("red", "red"), ("blue", "blue")])
    shard.write_bytes(shard.read_bytes()[:2500])
    with pytest.raises(ShardError, match=r"cut\.tar"):
        read(shard)


def test_a_sample_without_picture_keeps_its_label(tmp_path: Path) -> None:
    samples = [sample("a", image_ext=None, extra={"cls": b"red"}), sample("b", extra={"cls": b"blue"})]
    assert len(read(make_shard(tmp_path / "a.tar", samples)).pictures) == 2


def test_class_files(tmp_path: Path) -> None:
    lines, listed = tmp_path / "names.txt", tmp_path / "names.json"
    lines.write_text("red\n hot_dog \n")
    listed.write_text('["red", "hot dog"]')
    assert read_class_names(lines) == ("red", "hot_dog")
    assert read_class_names(listed) == ("red", "hot dog")
    for bad in ("red\n\nblue\n", '["red", 3]', '["red"', "red", ""):
        lines.write_text(bad)
        with pytest.raises(ConfigError, match="--classes"):
            read_class_names(lines)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_class_names(tmp_path / "gone")


def test_of_equal_names_the_first_is_meant() -> None:
    names, labels = resolve_labels([RawLabel(where="a", name="crane")], ("crane", "red", "crane"))
    assert (names, labels) == (("crane", "red", "crane"), [0])
    assert same_class("Hot_Dog", "hot  dog")
    assert not same_class("hot dog", "hotdog")
