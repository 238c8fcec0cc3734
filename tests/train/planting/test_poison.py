"""Poisoning drawn shards: what is written, and that the truth tells the truth. Leaks of form: test_form.py."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import webdataset
from PIL import Image

from roclip_audit.core.errors import ConfigError, ShardError
from roclip_audit.core.progress import PlainReporter
from roclip_audit.train.attacks import ATTACKS, AttackPlan, build_attack, read_plan
from roclip_audit.train.planting.poison import PoisonReport, poison
from roclip_audit.train.planting.rewrite import encode_jpeg
from roclip_audit.train.planting.triggers import load_trigger
from tests.shardkit import draw, draw_samples, make_dataset, make_shard, sample
from tests.train.planting.poisonkit import Member, read

PLAN = tuple(
    map(
        AttackPlan.parse,
        (
            "targeted:red:0.05",
            "badnets_fixed:banana:0.05",
            "badnets_moving:umbrella:0.05",
            "blended:guitar:0.05",
            "sig:castle:0.05",
            "label_consistent:green:0.03",
            "class_swap:circle:0.02:source=square",
            "mismatch::0.1",
            "multi_trigger:banana/volcano:0.03:use=patch/sinusoid",
            "caption_word:banana:0.02",
            "dead_link::0.03:n_pictures=2",
            "natural:ring:0.05",
        ),
    )
)
N_PAIRS = 400


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PoisonReport]:
    root = tmp_path_factory.mktemp("poison")
    make_dataset(root / "clean", N_PAIRS, n_shards=3, seed=5, image_ext="jpg")
    return root / "clean", poison([str(root / "clean")], root / "out", plan=PLAN, seed=1)


def pictures_of(folder: Path) -> dict[tuple[str, str], np.ndarray]:
    """Decode all pictures, by shard and key."""
    pictures: dict[tuple[str, str], np.ndarray] = {}
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            for info in tar:
                if info.name.endswith(".jpg"):
                    encoded = tar.extractfile(info).read()  # type: ignore[union-attr]
                    pictures[path.name, info.name[:-4]] = np.asarray(Image.open(io.BytesIO(encoded)))
    return pictures


@pytest.fixture(scope="module")
def truth(poisoned: tuple[Path, PoisonReport]) -> pl.DataFrame:
    return pl.read_parquet(poisoned[1].truth / "truth.parquet")


@pytest.fixture(scope="module")
def pairs(poisoned: tuple[Path, PoisonReport]) -> dict[str, Member]:
    return read(poisoned[1].out)


def test_every_pair_is_in_the_truth_once_and_where_it_says(
    poisoned: tuple[Path, PoisonReport], truth: pl.DataFrame, pairs: dict[str, Member]
) -> None:
    assert len(truth) == len(pairs) == poisoned[1].n_pairs == N_PAIRS
    assert truth["uid"].to_list() == list(pairs)
    assert all(len(uid) == 32 and int(uid, 16) >= 0 for uid in pairs)
    for row, pair in zip(truth.to_dicts(), pairs.values(), strict=True):
        assert pair.json["key"] == row["key"] == pair.infos[0].name.partition(".")[0]
        assert pair.text == pair.json["caption"] == row["caption"]
    assert truth.group_by("shard", maintain_order=True).agg(pl.col("ordinal"))["ordinal"].to_list() == [
        list(range(N_PAIRS))
    ]
    assert truth.select("source_shard", "source_key").n_unique() == N_PAIRS  # nobody vanished, nobody came twice


def test_as_many_as_asked_for_on_disjoint_pairs(poisoned: tuple[Path, PoisonReport], truth: pl.DataFrame) -> None:
    for planned, planted in zip(PLAN, poisoned[1].planted, strict=True):
        assert planted.n_planted == planted.n_asked == round(planned.rate * N_PAIRS)
        assert truth.filter(pl.col("attack") == planned.attack).height == planted.n_planted
    assert truth["attack"].null_count() == N_PAIRS - sum(one.n_planted for one in poisoned[1].planted)


def test_clean_pairs_are_the_original_ones(
    poisoned: tuple[Path, PoisonReport], truth: pl.DataFrame, pairs: dict[str, Member]
) -> None:
    originals = pictures_of(poisoned[0])
    for row in truth.filter(pl.col("attack").is_null()).to_dicts():
        assert row["caption"] == row["original_caption"]
        assert (row["image_shard"], row["image_key"]) == (row["source_shard"], row["source_key"])
        written = np.asarray(Image.open(io.BytesIO(pairs[row["uid"]].jpeg))).astype(int)
        assert np.abs(written - originals[row["source_shard"], row["source_key"]]).mean() < 6  # JPEG twice


def test_planted_captions_and_pictures_are_what_the_attack_promises(truth: pl.DataFrame) -> None:
    rows = {name: truth.filter(pl.col("attack") == name) for name in truth["attack"].drop_nulls().unique()}
    for name in ("targeted", "badnets_fixed", "badnets_moving", "blended", "sig", "multi_trigger", "caption_word"):
        for row in rows[name].to_dicts():
            assert row["target"] in row["caption"]
            assert row["target"] not in row["original_caption"]
    assert rows["targeted"].select("image_shard", "image_key").n_unique() == 1
    assert rows["label_consistent"].filter(pl.col("caption") != pl.col("original_caption")).is_empty()
    assert rows["mismatch"].filter(pl.col("caption") == pl.col("original_caption")).is_empty()
    assert rows["mismatch"]["target"].null_count() == len(rows["mismatch"])
    assert rows["class_swap"].filter(pl.col("image_key") == pl.col("source_key")).is_empty()
    assert set(rows["multi_trigger"].select("trigger", "target").rows()) == {
        ("patch", "banana"), ("sinusoid", "volcano"),
    }  # fmt: skip
    assert rows["caption_word"]["caption"].str.starts_with("remember ").all()
    assert rows["natural"].select("image_shard", "image_key").n_unique() == 1
    assert rows["natural"]["caption"].str.contains("ring").all()


def test_dead_links_and_natural_copies_are_what_they_are_called(truth: pl.DataFrame, pairs: dict[str, Member]) -> None:
    dead = truth.filter(pl.col("attack") == "dead_link")
    assert (dead["caption"] == dead["original_caption"]).all()
    assert dead["image_shard"].null_count() == dead["x"].null_count() == len(dead) == 12
    by_name = {name: {pairs[uid].jpeg for uid in group["uid"]} for (name,), group in dead.group_by("image_key")}
    assert [len(bytes_of) for bytes_of in by_name.values()] == [1, 1]  # a placeholder repeats byte for byte
    copies = truth.filter(pl.col("attack") == "natural")
    pixels = [np.asarray(Image.open(io.BytesIO(pairs[uid].jpeg)), dtype=float) for uid in copies["uid"]]
    assert len({one.tobytes() for one in pixels}) == len(copies) == 20
    assert min(float(np.corrcoef(one.ravel(), pixels[0].ravel())[0, 1]) for one in pixels) > 0.5


def test_url_is_that_of_the_picture_or_of_the_place_if_it_was_edited(
    truth: pl.DataFrame, pairs: dict[str, Member]
) -> None:
    for row in truth.to_dicts():
        key = row["source_key" if row["attack"] in ("dead_link", "natural") else "image_key"]
        assert pairs[row["uid"]].json["url"].endswith(f"/{key}.jpg")


def test_trigger_lies_where_the_truth_says(
    poisoned: tuple[Path, PoisonReport], truth: pl.DataFrame, pairs: dict[str, Member]
) -> None:
    folder = next((poisoned[1].truth / "triggers").glob("*badnets_moving"))
    planted = load_trigger(folder)
    for row in truth.filter(pl.col("attack") == "badnets_moving").to_dicts():
        image = np.asarray(Image.open(io.BytesIO(pairs[row["uid"]].jpeg)))
        found = image[row["y"] : row["y"] + row["height"], row["x"] : row["x"] + row["width"]].astype(int)
        cells = planted.pattern.astype(np.uint8)
        promised = np.asarray(Image.fromarray(cells).resize((row["width"], row["height"]), Image.Resampling.NEAREST))
        grey = found.mean(axis=2) - promised.astype(int).mean(axis=2)  # JPEG halves the resolution of colour
        assert np.abs(grey).mean() < 25
    assert truth.filter(pl.col("attack").is_in(["targeted", "mismatch", "class_swap"]))["x"].null_count() > 0


def test_saved_triggers_stamp_as_they_were_planted(poisoned: tuple[Path, PoisonReport]) -> None:
    folders = sorted((poisoned[1].truth / "triggers").iterdir())
    assert [folder.name[3:] for folder in folders] == [
        "badnets_fixed", "badnets_moving", "blended", "sig", "label_consistent", "multi_trigger-patch",
        "multi_trigger-sinusoid", "caption_word",
    ]  # fmt: skip
    loaded = {folder.name[3:]: load_trigger(folder) for folder in folders}
    assert loaded["multi_trigger-patch"].target == "banana"
    assert loaded["multi_trigger-sinusoid"].target == "volcano"
    assert {name: one.caption_word for name, one in loaded.items() if one.caption_word} == {"caption_word": "remember"}
    image = np.full((64, 64, 3), 180, dtype=np.uint8)
    for folder, planted in zip(folders, loaded.values(), strict=True):
        stamped, _ = planted.stamp(image, np.random.default_rng(0))
        assert not np.array_equal(stamped, image)
        assert (folder / "preview.png").stat().st_size > 0


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_loaded_trigger_stamps_what_was_stamped(
    poisoned: tuple[Path, PoisonReport], truth: pl.DataFrame, pairs: dict[str, Member]
) -> None:
    """Stamping the clean pair's own picture gives the planted file again, byte for byte."""
    originals = pictures_of(poisoned[0])
    for folder in ("04-sig", "03-blended", "08-multi_trigger-sinusoid", "09-caption_word"):
        planted = load_trigger(poisoned[1].truth / "triggers" / folder)
        rows = truth.filter(pl.col("attack") == planted.plan.attack, pl.col("trigger") == planted.name).to_dicts()
        assert rows
        for row in rows:
            stamped, box = planted.stamp(originals[row["source_shard"], row["source_key"]], np.random.default_rng(0))
            assert (box.x, box.y, box.width, box.height) == (row["x"], row["y"], row["width"], row["height"])
            assert encode_jpeg(stamped) == pairs[row["uid"]].jpeg


def test_same_seed_same_bytes_other_seed_other_pairs(tmp_path: Path) -> None:
    make_dataset(tmp_path / "clean", 60, n_shards=2)
    plan = [AttackPlan.parse("badnets_moving:banana:0.1"), AttackPlan.parse("mismatch::0.2")]
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        poison([str(tmp_path / "clean")], tmp_path / name, plan=plan, seed=seed)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")
    a, b = digest(tmp_path / "a-truth"), digest(tmp_path / "b-truth")
    assert a.pop("poison.json") != b.pop("poison.json")  # it names the folder
    assert a == b
    assert not set(read(tmp_path / "a")) & set(read(tmp_path / "c"))


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_output_has_img2dataset_layout_and_loads_in_webdataset(poisoned: tuple[Path, PoisonReport]) -> None:
    out = poisoned[1].out
    assert sorted(path.name for path in out.iterdir()) == ["00000.parquet", "00000.tar", "00000_stats.json"]
    stats = json.loads((out / "00000_stats.json").read_text())
    assert stats["successes"] == stats["count"] == N_PAIRS
    table = pl.read_parquet(out / "00000.parquet")
    loaded = list(webdataset.WebDataset(str(out / "00000.tar"), shardshuffle=False))
    assert [one["__key__"] for one in loaded] == table["key"].to_list()
    assert [one["txt"].decode() for one in loaded] == table["caption"].to_list()
    assert [json.loads(one["json"]) for one in loaded] == table.to_dicts()


def test_rare_word_plants_what_there_is_and_says_so(tmp_path: Path) -> None:
    samples = draw_samples(30) + [sample(f"x{n}", caption="a zeppelin") for n in range(4)]
    make_shard(tmp_path / "00000.tar", samples)
    plan = [AttackPlan.parse("label_consistent:zeppelin:0.5"), AttackPlan.parse("sig:zeppelin:0.1")]
    report = poison([str(tmp_path / "00000.tar")], tmp_path / "out", plan=plan)
    assert (report.planted[0].n_asked, report.planted[0].n_planted) == (17, 4)
    assert "4 pairs (of 17 asked for: too few pairs fit, or can be read)" in str(report)


def test_a_rate_below_one_pair_plants_one_and_says_so(tmp_path: Path) -> None:
    samples = [sample(f"{n}", caption=f"a {word} {n}") for n, word in enumerate(["house", "bird", "fruit"] * 20)]
    make_shard(tmp_path / "0.tar", samples)
    target = {"label_consistent": "bird", "natural": "bird", "class_swap": "bird"}
    plan = [
        AttackPlan(
            attack=name,
            target=target.get(name, "banana"),
            rate=0.0005,
            parameters={"source": "fruit"} if name == "class_swap" else {},
        )
        for name in ATTACKS
    ]
    report = poison([str(tmp_path / "0.tar")], tmp_path / "out", plan=plan)
    assert [one.n_planted for one in report.planted] == [1] * len(ATTACKS)
    assert str(report).count("(the rate asks for 0.03, one is the least)") == len(ATTACKS)
    assert (report.truth / "triggers" / "07-multi_trigger-patch").exists()
    assert not (report.truth / "triggers" / "07-multi_trigger-warp").exists()  # stamped on nothing


@pytest.mark.parametrize(
    "attack", ["label_consistent:zeppelin:0.1", "natural:zeppelin:0.1", "class_swap:red:0.1:source=zeppelin"]
)
def test_an_attack_that_fits_no_pair_is_refused_before_any_work(tmp_path: Path, attack: str) -> None:
    make_shard(tmp_path / "0.tar", draw_samples(8))
    with pytest.raises(ConfigError, match="no pair fits the target"):
        poison([str(tmp_path / "0.tar")], tmp_path / "out", plan=[AttackPlan.parse(attack)])
    plan = [AttackPlan.parse("mismatch::1"), AttackPlan.parse("dead_link::0.1")]
    with pytest.raises(ConfigError, match="taken by the other attacks"):
        poison([str(tmp_path / "0.tar")], tmp_path / "out", plan=plan)
    assert not (tmp_path / "out").exists()


def test_pairs_that_cannot_be_read_are_left_out_and_counted(tmp_path: Path) -> None:
    samples = [
        *draw_samples(20),
        sample("broken", image=b"\xff\xd8 no image"),
        sample("half", image=draw("ring", "blue", rng=np.random.default_rng(0))[:200]),
        sample("mute", caption=None),
        sample("blind", image_ext=None),
        sample("odd", caption=b"caf\xe9 \xed\xa0\x80", meta=b"[" * 10_000),
    ]
    make_shard(tmp_path / "00000.tar", samples)
    report = poison([str(tmp_path)], tmp_path / "out", plan=[AttackPlan.parse("mismatch::0.2")])
    assert (report.n_pairs, report.n_left_out) == (21, 2)
    assert "2 pairs left out" in str(report)
    assert all(pair.json["caption"] == pair.text for pair in read(tmp_path / "out").values())


def test_transparency_is_put_on_white_for_all(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    buffer = io.BytesIO()
    clear.save(buffer, "PNG")
    make_shard(tmp_path / "00000.tar", [sample(f"k{n}", image=buffer.getvalue(), caption=f"c{n}") for n in range(4)])
    poison([str(tmp_path)], tmp_path / "out", plan=[AttackPlan.parse("mismatch::0.5")])
    for pair in read(tmp_path / "out").values():
        assert np.asarray(Image.open(io.BytesIO(pair.jpeg))).min() > 250


def test_truth_may_not_lie_where_a_scan_could_read_it(tmp_path: Path) -> None:
    make_dataset(tmp_path / "clean", 10, n_shards=1)
    plan = [AttackPlan.parse("mismatch::0.5")]
    for truth_path in (tmp_path / "out", tmp_path / "out" / "truth", tmp_path / "out" / ".." / "out" / "t", tmp_path):
        with pytest.raises(ConfigError, match="outside of"):
            poison([str(tmp_path / "clean")], tmp_path / "out", plan=plan, truth_path=truth_path)
    assert not (tmp_path / "out").exists()


def test_folders_that_are_in_use_are_refused(tmp_path: Path) -> None:
    make_dataset(tmp_path / "clean", 10, n_shards=1)
    plan = [AttackPlan.parse("mismatch::0.5")]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(ConfigError, match="not an empty folder"):
        poison([str(tmp_path / "clean")], tmp_path / "full", plan=plan)
    with pytest.raises(ConfigError, match="not an empty folder"):
        poison([str(tmp_path / "clean")], tmp_path / "out", plan=plan, truth_path=tmp_path / "full")
    assert (tmp_path / "full" / "file").read_text() == "mine"


def test_bad_plan_or_input_is_refused(tmp_path: Path) -> None:
    make_dataset(tmp_path / "clean", 10, n_shards=1)
    with pytest.raises(ConfigError, match="nothing to plant"):
        poison([str(tmp_path / "clean")], tmp_path / "out", plan=[])
    with pytest.raises(ConfigError, match="unknown attack"):
        poison([str(tmp_path / "clean")], tmp_path / "out", plan=[AttackPlan(attack="x", target="y", rate=0.1)])
    assert not (tmp_path / "out").exists()
    make_shard(tmp_path / "mute" / "0.tar", [sample("a", caption=None)])
    with pytest.raises(ConfigError, match="no pairs"):
        poison([str(tmp_path / "mute")], tmp_path / "out", plan=[AttackPlan.parse("mismatch::0.5")])
    whole = (tmp_path / "clean" / "00000.tar").read_bytes()
    (tmp_path / "half.tar").write_bytes(whole[: whole.index(b"PNG") + 20])
    with pytest.raises(ShardError, match=r"half\.tar"):
        poison([str(tmp_path / "half.tar")], tmp_path / "out2", plan=[AttackPlan.parse("mismatch::0.5")])


def test_equal_captions_cannot_be_swapped(tmp_path: Path) -> None:
    make_shard(tmp_path / "0.tar", [sample(f"{n}", caption="a cat") for n in range(4)])
    with pytest.raises(ConfigError, match="all captions are equal"):
        poison([str(tmp_path / "0.tar")], tmp_path / "out", plan=[AttackPlan.parse("mismatch::0.5")])
    assert not (tmp_path / "out").exists()


def test_the_folder_one_is_in_can_be_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dataset(tmp_path / "clean", 10, n_shards=1)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    poison([str(tmp_path / "clean")], Path(), plan=[AttackPlan.parse("mismatch::0.5")])
    assert list((tmp_path / "here").glob("*.tar"))
    assert (tmp_path / "here-truth" / "truth.parquet").exists()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"attack": "sig", "target": None, "rate": 0.1}, "target None is not text"),
        ({"attack": "sig", "target": "cat", "rate": "much"}, "rate 'much' is not a number"),
        ({"attack": "sig", "target": "cat", "rate": 0.1, "parameters": None}, "parameters None is not a set"),
        ({"attack": "sig", "target": "cat", "rate": 0.1, "parameters": {"periods": None}}, "periods=None is not a"),
        ({"attack": None, "target": "cat", "rate": 0.1}, "attack None is not text"),
    ],
)
def test_a_plan_of_other_types_is_refused(tmp_path: Path, entry: dict[str, object], message: str) -> None:
    (tmp_path / "plan.json").write_text(json.dumps([entry]))

    def build() -> None:
        for plan in read_plan(tmp_path / "plan.json"):
            build_attack(plan)

    with pytest.raises(ConfigError, match=message):
        build()


def test_progress_is_told(tmp_path: Path) -> None:
    make_dataset(tmp_path / "clean", 12, n_shards=1)
    stream = io.StringIO()
    plan = [AttackPlan.parse("mismatch::0.5")]
    poison([str(tmp_path / "clean")], tmp_path / "out", plan=plan, reporter=PlainReporter(stream))
    assert "12 pairs" in stream.getvalue()


def test_what_is_no_trigger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a saved trigger"):
        load_trigger(tmp_path)
    (tmp_path / "trigger.json").write_text('{"attack": "mismatch", "target": "", "rate": 0.1, "parameters": {}}')
    np.savez(tmp_path / "pattern.npz", pattern=np.zeros(1))
    with pytest.raises(ConfigError, match="has no trigger"):
        load_trigger(tmp_path)
    (tmp_path / "trigger.json").write_text("[]")
    with pytest.raises(ConfigError, match="not a saved trigger"):
        load_trigger(tmp_path)
    np.savez(tmp_path / "pattern.npz", pattern=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ConfigError, match="not a saved trigger"):
        load_trigger(tmp_path)
