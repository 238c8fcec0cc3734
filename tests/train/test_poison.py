"""Poisoning drawn shards: the truth tells the truth, and nothing but content tells planted from clean."""

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
from roclip_audit.train.attacks import AttackPlan
from roclip_audit.train.poison import PoisonReport, poison
from roclip_audit.train.triggers import load_trigger
from tests.shardkit import draw, draw_samples, make_dataset, make_shard, sample

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
        ),
    )
)
N_PAIRS = 400


class Member:
    """One pair as written: tar headers, bytes, sidecar."""

    def __init__(self, infos: list[tarfile.TarInfo], content: dict[str, bytes]) -> None:
        self.infos = infos
        self.jpeg = content["jpg"]
        self.text = content["txt"].decode()
        self.json = json.loads(content["json"])


def read(folder: Path) -> dict[str, Member]:
    pairs: dict[str, Member] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            infos = tar.getmembers()
            content = [tar.extractfile(info).read() for info in infos]  # type: ignore[union-attr]
        for start in range(0, len(infos), 3):
            three = infos[start : start + 3]
            extensions = [info.name.partition(".")[2] for info in three]
            pair = Member(three, dict(zip(extensions, content[start : start + 3], strict=True)))
            pairs[pair.json["uid"]] = pair
    return pairs


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PoisonReport]:
    root = tmp_path_factory.mktemp("poison")
    make_dataset(root / "clean", N_PAIRS, n_shards=3, seed=5, image_ext="jpg")
    return root / "clean", poison([str(root / "clean")], root / "out", plan=PLAN, seed=1)


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
    originals: dict[tuple[str, str], np.ndarray] = {}
    for path in poisoned[0].glob("*.tar"):
        with tarfile.open(path) as tar:
            for info in tar:
                if info.name.endswith(".jpg"):
                    encoded = tar.extractfile(info).read()  # type: ignore[union-attr]
                    originals[path.name, info.name[:-4]] = np.asarray(Image.open(io.BytesIO(encoded)))
    for row in truth.filter(pl.col("attack").is_null()).to_dicts():
        assert row["caption"] == row["original_caption"]
        assert (row["image_shard"], row["image_key"]) == (row["source_shard"], row["source_key"])
        written = np.asarray(Image.open(io.BytesIO(pairs[row["uid"]].jpeg))).astype(int)
        assert np.abs(written - originals[row["source_shard"], row["source_key"]]).mean() < 6  # JPEG twice


def test_planted_captions_and_pictures_are_what_the_attack_promises(truth: pl.DataFrame) -> None:
    rows = {name: truth.filter(pl.col("attack") == name) for name in truth["attack"].drop_nulls().unique()}
    for name in ("targeted", "badnets_fixed", "badnets_moving", "blended", "sig"):
        for row in rows[name].to_dicts():
            assert row["target"] in row["caption"]
            assert row["target"] not in row["original_caption"]
    assert rows["targeted"].select("image_shard", "image_key").n_unique() == 1
    assert rows["label_consistent"].filter(pl.col("caption") != pl.col("original_caption")).is_empty()
    assert rows["mismatch"].filter(pl.col("caption") == pl.col("original_caption")).is_empty()
    assert rows["mismatch"]["target"].null_count() == len(rows["mismatch"])
    assert rows["class_swap"].filter(pl.col("image_key") == pl.col("source_key")).is_empty()


def test_url_is_that_of_the_picture(truth: pl.DataFrame, pairs: dict[str, Member]) -> None:
    for row in truth.to_dicts():
        assert pairs[row["uid"]].json["url"].endswith(f"/{row['image_key']}.jpg")


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
        "badnets_fixed", "badnets_moving", "blended", "sig", "label_consistent",
    ]  # fmt: skip
    image = np.full((64, 64, 3), 180, dtype=np.uint8)
    for folder in folders:
        planted = load_trigger(folder)
        stamped, _ = planted.stamp(image, np.random.default_rng(0))
        assert not np.array_equal(stamped, image)
        assert (folder / "preview.png").stat().st_size > 0


def auroc(planted: np.ndarray, values: np.ndarray) -> float:
    """Share of (planted, clean) pairs in which the planted one has the higher value; ties count half."""
    a, b = values[planted], values[~planted]
    return float((a[:, None] > b[None, :]).mean() + (a[:, None] == b[None, :]).mean() / 2)


def test_form_is_the_same_for_all_pairs(pairs: dict[str, Member]) -> None:
    """One value for the whole data set, so it can tell nothing."""
    forms = set()
    for pair in pairs.values():
        image = Image.open(io.BytesIO(pair.jpeg))
        forms.add(
            (
                tuple(info.name.partition(".")[2] for info in pair.infos),
                tuple((info.mode, info.mtime, info.uid, info.gid, info.uname, info.type) for info in pair.infos),
                tuple(pair.json),
                pair.json["status"],
                pair.json["error_message"],
                image.mode,
                image.format,
                tuple(sorted(image.info)),
                tuple((number, tuple(table)) for number, table in image.quantization.items()),  # type: ignore[attr-defined]
                tuple(tuple(layer) for layer in image.layer),  # type: ignore[attr-defined]
            )
        )
    assert len(forms) == 1


def test_place_and_identity_are_at_chance(truth: pl.DataFrame, pairs: dict[str, Member]) -> None:
    """Order, key and uid are drawn without regard to the attacks: AUROC 0.5 within 4 standard deviations."""
    planted = truth["attack"].is_not_null().to_numpy()
    n, m = int(planted.sum()), int((~planted).sum())
    margin = 4 * float(np.sqrt((n + m + 1) / (12 * n * m)))
    assert abs(auroc(planted, np.arange(len(planted)).astype(float)) - 0.5) < margin
    assert abs(auroc(planted, np.asarray([int(uid[:12], 16) for uid in pairs], dtype=float)) - 0.5) < margin


def test_size_is_at_chance_where_the_picture_is_not_stamped(truth: pl.DataFrame, pairs: dict[str, Member]) -> None:
    """A stamp changes the size of the file for real (noise costs bytes); mismatched pairs must not differ at all."""
    sizes = np.asarray([len(pair.jpeg) for pair in pairs.values()], dtype=float)
    attack = truth["attack"].fill_null("").to_numpy()
    keep = (attack == "") | (attack == "mismatch")
    planted = attack[keep] == "mismatch"
    n, m = int(planted.sum()), int((~planted).sum())
    assert abs(auroc(planted, sizes[keep]) - 0.5) < 4 * float(np.sqrt((n + m + 1) / (12 * n * m)))


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


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
    assert "4 pairs (of 17 asked for: too few pairs fit)" in str(report)


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
    with pytest.raises(ConfigError, match="stamps nothing"):
        load_trigger(tmp_path)
    np.savez(tmp_path / "pattern.npz", pattern=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ConfigError, match="not a saved trigger"):
        load_trigger(tmp_path)
