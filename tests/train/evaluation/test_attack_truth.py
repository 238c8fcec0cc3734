"""The truth that `poison` wrote, read back with its pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.attacks import AttackPlan
from roclip_audit.train.evaluation.attack_truth import read_attack_truth
from roclip_audit.train.planting.poison import poison
from tests.shardkit import make_dataset
from tests.train.planting.poisonkit import read

PLANS = ("targeted:desk:0.1:n_pictures=2", "targeted:tiger:0.05", "badnets_fixed:banana:0.05", "mismatch::0.05")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clean/, poisoned/ and poisoned-truth/."""
    root = tmp_path_factory.mktemp("planted")
    make_dataset(root / "clean", 60)
    poison([str(root / "clean")], root / "poisoned", plan=[AttackPlan.parse(text) for text in PLANS])
    return root


def test_distinct_pictures_per_word_as_they_lie_in_the_poisoned_shards(planted: Path) -> None:
    truth = read_attack_truth(planted / "poisoned-truth", None)
    assert sorted(truth.words) == ["desk", "desk", "tiger"]
    assert truth.not_measured == ("mismatch",)
    assert list(truth.triggers) == ["02-badnets_fixed"]
    assert set(truth.target_words) == {"desk", "tiger", "banana"}
    table = pl.read_parquet(planted / "poisoned-truth" / "truth.parquet")
    pairs = read(planted / "poisoned")
    for index, word in enumerate(truth.words):
        key = truth.pictures.where(index).split(":")[1]
        row = table.filter((pl.col("key") == key) & (pl.col("attack") == "targeted")).row(0, named=True)
        assert row["target"] == word
        assert pairs[row["uid"]].jpeg == truth.pictures.pictures[index].read()
    images = [truth.pictures.pixels(index) for index, word in enumerate(truth.words) if word == "desk"]
    assert (images[0] != images[1]).any()


def test_the_poisoned_shards_may_lie_elsewhere(planted: Path, tmp_path: Path) -> None:
    truth = tmp_path / "truth"
    truth.mkdir()
    for name in ("truth.parquet", "poison.json"):
        (truth / name).write_bytes((planted / "poisoned-truth" / name).read_bytes())
    with pytest.raises(ConfigError, match="--poisoned"):
        read_attack_truth(truth, None)
    assert len(read_attack_truth(truth, str(planted / "poisoned")).words) == 3
    make_dataset(tmp_path / "other", 60)
    with pytest.raises(ConfigError, match="not the data that the truth is about"):
        read_attack_truth(truth, str(tmp_path / "other"))


@pytest.mark.parametrize("out", ["../elsewhere", "/etc", "..", ".", "", 3])
def test_poison_json_names_no_place_but_beside_it(planted: Path, tmp_path: Path, out: object) -> None:
    (tmp_path / "truth.parquet").write_bytes((planted / "poisoned-truth" / "truth.parquet").read_bytes())
    (tmp_path / "poison.json").write_text(json.dumps({"out": out}))
    with pytest.raises(ConfigError, match="not the name of a folder"):
        read_attack_truth(tmp_path, None)


def test_what_is_no_truth(planted: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no truth\.parquet"):
        read_attack_truth(planted / "poisoned", None)
    (tmp_path / "truth.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ConfigError, match="not a table of truth"):
        read_attack_truth(tmp_path, None)
    pl.DataFrame({"attack": ["sig"]}).write_parquet(tmp_path / "truth.parquet")
    with pytest.raises(ConfigError, match="not a table of truth"):
        read_attack_truth(tmp_path, None)


def test_attacks_that_cannot_be_tested(planted: Path, tmp_path: Path) -> None:
    table = pl.read_parquet(planted / "poisoned-truth" / "truth.parquet")
    table.filter(pl.col("attack").is_null() | (pl.col("attack") == "mismatch")).write_parquet(
        tmp_path / "truth.parquet"
    )
    with pytest.raises(ConfigError, match="mismatch cannot be tested"):
        read_attack_truth(tmp_path, None)


def test_a_stamp_repeats(planted: Path) -> None:
    trigger = read_attack_truth(planted / "poisoned-truth", None).triggers["02-badnets_fixed"]
    grey = np.full((40, 40, 3), 128, dtype=np.uint8)
    first, second = (trigger.stamp(grey, np.random.default_rng(0))[0] for _ in range(2))
    assert (first == second).all()
    assert (first != grey).any()
