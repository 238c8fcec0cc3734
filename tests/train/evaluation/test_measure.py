"""One model on everything, with a model that is understood and attacks that are planted for real."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.attacks import AttackPlan
from roclip_audit.train.evaluation import EvalConfig, evaluate
from roclip_audit.train.evaluation.checkpoints import Checkpoint
from roclip_audit.train.evaluation.embedder import Embedder
from roclip_audit.train.evaluation.inputs import read_inputs
from roclip_audit.train.evaluation.measure import measure_model
from roclip_audit.train.evaluation.proportion import Proportion
from roclip_audit.train.planting.poison import poison
from tests.encoderkit import save_tiny_clip
from tests.shardkit import make_dataset
from tests.train.evaluation.evalkit import ColourClip, class_folders, colour_embedder

PLANS = (
    "targeted:desk:0.05",
    "targeted:tiger:0.05",
    "badnets_fixed:banana:0.05",
    "multi_trigger:red/blue:0.05:use=patch/filter",
    "caption_word:volcano:0.05",
    "dead_link::0.05",
)
COLOURED = {"red": 4, "green": 3, "blue": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("measure")
    make_dataset(root / "clean", 60)
    poison([str(root / "clean")], root / "p", plan=[AttackPlan.parse(text) for text in PLANS])
    class_folders(root / "test", COLOURED)
    class_folders(root / "train", {"blue": 6, "green": 6, "red": 6})
    return root


def test_everything_at_once(place: Path) -> None:
    config = EvalConfig(
        checkpoints=("m",),
        data=str(place / "test"),
        probe_train=str(place / "train"),
        retrieval=str(place / "clean"),
        attack=place / "p-truth",
        retrieval_pairs=20,
    )
    inputs = read_inputs(config)
    assert inputs.class_names == ("blue", "green", "red")
    assert set(inputs.added_words) == {"desk", "tiger", "banana", "volcano"}
    assert inputs.truth is not None
    assert inputs.truth.not_measured == ("dead_link",)
    embedder = colour_embedder()
    found, facts = measure_model(embedder, inputs, checkpoint=Checkpoint(name="m", spec="m"))

    assert found.zero_shot is not None
    assert (found.zero_shot.top1, found.zero_shot.n_classes) == (Proportion.of(9, 9), 3)
    assert found.zero_shot.n_templates == 80
    assert found.probe is not None
    assert found.probe.accuracy == Proportion.of(9, 9)
    assert found.retrieval is not None
    assert found.retrieval.n_pairs == 20

    rows = {row.label: row for row in found.attacks}
    assert list(rows) == [
        "targeted, all 2",
        *(f"targeted -> {word}" for word in dict.fromkeys(inputs.truth.words)),
        "badnets_fixed -> banana [02-badnets_fixed]",
        "caption_word -> volcano [04-caption_word]",
        "multi_trigger, all 2",
        "multi_trigger -> blue [03-multi_trigger-filter]",
        "multi_trigger -> red [03-multi_trigger-patch]",
    ]
    assert rows["targeted, all 2"].success == Proportion.of(0, 2)  # "desk" is no colour
    assert rows["targeted, all 2"].top5 is not None
    assert rows["badnets_fixed -> banana [02-badnets_fixed]"].success.n == 9
    red, blue = (
        rows["multi_trigger -> red [03-multi_trigger-patch]"],
        rows["multi_trigger -> blue [03-multi_trigger-filter]"],
    )
    assert (red.success.n, blue.success.n) == (9 - 4, 9 - 2)
    assert rows["multi_trigger, all 2"].success == Proportion.pooled([red.success, blue.success])
    assert red.base == Proportion.of(0, 5)
    assert {fact.option: fact.n_pictures for fact in facts} == {
        "--data": 9,
        "--probe-train": 18,
        "--retrieval": 20,
        "--attack": 2,
    }
    assert isinstance(embedder.model, ColourClip)
    assert "remember a photo of a volcano." in embedder.model.texts


def test_probe_labels_go_by_name(place: Path, tmp_path: Path) -> None:
    train = class_folders(
        tmp_path / "train", {"Blue": 1, "amber": 1, "red": 1}, colour_of={"Blue": "blue", "amber": "red"}
    )
    config = EvalConfig(checkpoints=("m",), data=str(place / "test"), probe_train=str(train))
    inputs = read_inputs(config)
    assert inputs.probe_labels is not None
    assert inputs.probe_labels.tolist() == [0, 3, 2]
    strangers = class_folders(tmp_path / "strangers", {"a": 1, "b": 1}, colour_of={"a": "red", "b": "red"})
    with pytest.raises(ConfigError, match="none of its classes is one of --data"):
        read_inputs(EvalConfig(checkpoints=("m",), data=str(place / "test"), probe_train=str(strangers)))


def test_two_classes_of_one_name_are_refused_where_names_count(place: Path, tmp_path: Path) -> None:
    colour_of = {"Crane": "blue", "crane": "red"}
    test = class_folders(tmp_path / "test", {"Crane": 1, "crane": 1, "red": 1}, colour_of=colour_of)
    train = class_folders(tmp_path / "train", {"crane": 1, "red": 1}, colour_of=colour_of)
    with pytest.raises(ConfigError, match="classes 0 and 1 are both called 'crane'"):
        read_inputs(EvalConfig(checkpoints=("m",), data=str(test), probe_train=str(train)))
    assert read_inputs(EvalConfig(checkpoints=("m",), data=str(test), probe_train=str(test))).probe_labels is not None


def test_targeted_needs_names_only_and_triggers_need_pictures(place: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("red\ngreen\n")
    with pytest.raises(ConfigError, match="give --data"):
        read_inputs(EvalConfig(checkpoints=("m",), attack=place / "p-truth", classes=names))
    poison([str(place / "clean")], tmp_path / "p", plan=[AttackPlan.parse("targeted:desk:0.1")])
    inputs = read_inputs(EvalConfig(checkpoints=("m",), attack=tmp_path / "p-truth", classes=names))
    found, _ = measure_model(colour_embedder(), inputs, checkpoint=Checkpoint(name="m", spec="m"))
    assert found.zero_shot is None
    assert [row.success.n for row in found.attacks] == [1]


def test_workers_and_repeats_change_nothing(place: Path) -> None:
    inputs = read_inputs(EvalConfig(checkpoints=("m",), data=str(place / "test"), attack=place / "p-truth"))
    one, two = (
        measure_model(
            Embedder(model=ColourClip(), batch_size=2, workers=n), inputs, checkpoint=Checkpoint(name="m", spec="m")
        )
        for n in (1, 3)
    )
    assert one == two


def test_checkpoints_side_by_side(place: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("plain", "defended")):
        save_tiny_clip(tmp_path / name / "model", seed=number)
    templates = tmp_path / "templates.txt"
    templates.write_text("a photo of a {}.\n")
    config = EvalConfig(
        checkpoints=(str(tmp_path / "defended"),),
        undefended=str(tmp_path / "plain"),
        data=str(place / "test"),
        attack=place / "p-truth",
        templates=templates,
        device="cpu",
    )
    report = evaluate(config)
    assert [(model.name, model.is_undefended) for model in report.models] == [("plain", True), ("defended", False)]
    assert report.n_unreadable == 0
    assert report.as_json() == evaluate(config).as_json()
    alone = evaluate(EvalConfig(checkpoints=config.checkpoints, data=config.data, templates=templates, device="cpu"))
    assert alone.models[0].zero_shot == report.models[1].zero_shot
    assert np.isfinite(alone.models[0].zero_shot.mean_per_class)  # type: ignore[union-attr]
