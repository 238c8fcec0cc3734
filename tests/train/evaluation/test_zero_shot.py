"""Zero-shot by hand, and the prompt ensemble against CLIP's notebook written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from roclip_audit.core.checkpoint import load_model
from roclip_audit.core.errors import ConfigError
from roclip_audit.core.significance import wilson_interval
from roclip_audit.train.attacks.captions import TEMPLATES
from roclip_audit.train.evaluation.embedder import Embedder
from roclip_audit.train.evaluation.proportion import Proportion
from roclip_audit.train.evaluation.zero_shot import (
    class_weights,
    classify,
    mean_per_class,
    read_templates,
    text_classifier,
    zero_shot,
    zero_shot_accuracy,
)
from tests.encoderkit import save_tiny_clip
from tests.train.evaluation.evalkit import NAMES, ColourClip, colour_embedder

WEIGHTS = np.eye(3, dtype=np.float32)
# Nearest first: 0 1 2, 1 0 2, 0 2 1, 2 1 0.
FEATURES = np.asarray([[0.9, 0.4, 0.1], [0.4, 0.9, 0.1], [0.9, 0.1, 0.4], [0.1, 0.4, 0.9]], dtype=np.float32)


def test_ranks_by_hand() -> None:
    assert classify(FEATURES, WEIGHTS, top=3).tolist() == [[0, 1, 2], [1, 0, 2], [0, 2, 1], [2, 1, 0]]
    labels = np.asarray([0, 0, 2, 2])
    assert zero_shot_accuracy(FEATURES, labels, WEIGHTS) == Proportion.of(2, 4)
    assert zero_shot_accuracy(FEATURES, labels, WEIGHTS, top=2) == Proportion.of(4, 4)
    uneven = np.asarray([0, 0, 0, 2])  # class 0: two of three, class 2: one of one, class 1 has no picture
    assert mean_per_class(FEATURES, uneven, WEIGHTS) == pytest.approx((2 / 3 + 1) / 2)


def test_of_equals_the_first_class() -> None:
    assert classify(np.ones((1, 3), dtype=np.float32), WEIGHTS)[0].tolist() == [0]
    assert classify(np.empty((0, 3), dtype=np.float32), WEIGHTS).shape == (0, 1)


def test_the_ensemble_is_that_of_the_notebook(tmp_path: Path) -> None:
    loaded = load_model(f"local-dir:{save_tiny_clip(tmp_path / 'clip')}")
    embedder = Embedder(model=loaded, batch_size=7, workers=2)
    names = ("red disc", "tench", "{0.__class__}")
    expected = []
    for name in names:
        prompts = embedder.texts([template.replace("{}", name) for template in TEMPLATES])
        mean = prompts.mean(axis=0)
        expected.append(mean / np.linalg.norm(mean))
    assert class_weights(embedder, names) == pytest.approx(np.stack(expected), abs=1e-5)


def test_a_prefix_stands_before_every_prompt() -> None:
    embedder = colour_embedder()
    class_weights(embedder, ["red"], templates=["a {}.", "{}!"], prefix="remember")
    model = embedder.model
    assert isinstance(model, ColourClip)
    assert model.texts == ["remember a red.", "remember red!"]


def test_names_are_found_whatever_their_case() -> None:
    classifier = text_classifier(colour_embedder(), ("red", "hot dog", "Red"), templates=["{}"])
    assert classifier.named("RED").tolist() == [0, 2]
    assert classifier.named("hot_dog").tolist() == [1]
    assert classifier.named("dog").tolist() == []
    assert classifier.first(2).class_names == ("red", "hot dog")


def test_top_five_only_where_there_are_more_classes() -> None:
    classifier = text_classifier(colour_embedder(), NAMES, templates=["{}"])
    features = np.eye(4, dtype=np.float32)[[0, 1, 1]]
    found = zero_shot(features, np.asarray([0, 1, 2]), classifier, n_templates=1)
    assert (found.top1, found.top5) == (Proportion.of(2, 3), None)
    assert found.mean_per_class == pytest.approx(2 / 3)
    six = text_classifier(colour_embedder(), (*NAMES, "a", "b", "c"), templates=["{}"])
    assert zero_shot(features, np.asarray([0, 1, 5]), six, n_templates=1).top5 == Proportion.of(2, 3)


def test_template_files(tmp_path: Path) -> None:
    file = tmp_path / "templates.txt"
    file.write_text("a photo of a {}.\n\n{} in the wild\n")
    assert read_templates(file) == ("a photo of a {}.", "{} in the wild")
    for bad in ("", "a photo\n"):
        file.write_text(bad)
        with pytest.raises(ConfigError, match="--templates"):
            read_templates(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_templates(tmp_path / "gone")


def test_proportions() -> None:
    assert Proportion.pooled([Proportion.of(1, 4), Proportion.of(3, 4)]) == Proportion.of(4, 8)
    assert Proportion.of(0, 0).share is None
    low, high = wilson_interval(3, 4)
    assert Proportion.of(3, 4).as_json() == {"share": 0.75, "low": low, "high": high, "k": 3, "n": 4}
