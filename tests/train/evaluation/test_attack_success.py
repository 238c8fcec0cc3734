"""Attack success by hand: denominators, words, stamps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from roclip_audit.core.seeding import generator
from roclip_audit.train.attacks import AttackPlan, Pixels
from roclip_audit.train.attacks.caption_word import WordedPatch
from roclip_audit.train.evaluation.backdoor import Stamping, backdoor_success, called_target
from roclip_audit.train.evaluation.embedder import Embedder
from roclip_audit.train.evaluation.pictures import PicturesInMemory
from roclip_audit.train.evaluation.proportion import Proportion
from roclip_audit.train.evaluation.targeted import targeted_success
from roclip_audit.train.evaluation.zero_shot import Classifier, text_classifier
from roclip_audit.train.planting.triggers import PlantedTrigger
from tests.train.evaluation.evalkit import NAMES, Paint, block, colour_embedder


def planted(trigger: Paint | WordedPatch, target: str) -> PlantedTrigger:
    plan = AttackPlan(attack="badnets_fixed", target=target, rate=0.1)
    return PlantedTrigger(plan=plan, target=target, name="t", trigger=trigger, pattern=np.zeros(0, dtype=np.float32))


@pytest.fixture
def embedder() -> Embedder:
    return colour_embedder()


@pytest.fixture
def classifier(embedder: Embedder) -> Classifier:
    return text_classifier(embedder, (*NAMES, "banana"), templates=["a {}"])


def features(*colours: int) -> np.ndarray:
    return np.eye(4, dtype=np.float32)[list(colours)]


def test_targeted_by_hand(classifier: Classifier) -> None:
    words = ["Banana", "red", "banana"]
    assert targeted_success(features(3, 0, 1), words, classifier) == Proportion.of(2, 3)
    assert targeted_success(features(3, 0, 1), words, classifier, top=4) == Proportion.of(3, 3)
    assert targeted_success(features()[:0], [], classifier) == Proportion.of(0, 0)
    with pytest.raises(ValueError, match="'desk' is not among"):
        targeted_success(features(0), ["desk"], classifier)


def test_the_target_class_is_left_out_of_the_denominator(classifier: Classifier) -> None:
    labels = np.asarray([0, 1, 2, 2, 0])
    assert called_target(features(0, 2, 2, 0, 2), labels, classifier, "blue") == Proportion.of(2, 3)
    assert called_target(features(0, 2, 2, 0, 2), labels, classifier, "banana") == Proportion.of(0, 5)
    assert called_target(features(2), np.asarray([2]), classifier, "blue") == Proportion.of(0, 0)


def test_stamped_before_preprocessing_and_counted(embedder: Embedder, classifier: Classifier) -> None:
    pictures = PicturesInMemory([block("red"), block("blue"), block("green"), block("red")])
    labels = np.asarray([0, 2, 1, 0])
    stamping = Stamping(name="00-paint", trigger=planted(Paint("blue"), "blue"))
    found = backdoor_success(embedder, pictures, labels, stamping=stamping, classifier=classifier)
    assert found == Proportion.of(3, 3)
    nothing = Stamping(name="00-paint", trigger=planted(Paint("blue", chance=0.0), "blue"))
    assert backdoor_success(embedder, pictures, labels, stamping=nothing, classifier=classifier) == Proportion.of(0, 3)
    only = PicturesInMemory([block("blue")])
    assert backdoor_success(embedder, only, np.asarray([2]), stamping=stamping, classifier=classifier) == Proportion.of(
        0, 0
    )


def test_what_differs_from_stamp_to_stamp_comes_from_seed_name_and_position(
    embedder: Embedder, classifier: Classifier
) -> None:
    n, chance = 30, 0.5
    pictures, labels = PicturesInMemory([block("red")] * n), np.zeros(n, dtype=np.intp)
    for name, seed in (("00-paint", 0), ("00-paint", 1), ("01-paint", 0)):
        stamping = Stamping(name=name, trigger=planted(Paint("green", chance), "green"), seed=seed)
        expected = sum(generator(seed, "eval", name, position).random() < chance for position in range(n))
        found = backdoor_success(embedder, pictures, labels, stamping=stamping, classifier=classifier)
        assert found == Proportion.of(expected, n)


def test_the_picture_that_is_stamped_stays_as_it_was() -> None:
    image: Pixels = block("red", px=32)
    patch = WordedPatch(word="remember", side=0.5, kind="yellow", place="fixed")
    trigger = replace(planted(patch, "blue"), pattern=patch.pattern(np.random.default_rng(0)))
    stamped = Stamping(name="00", trigger=trigger)(0, image)
    assert (image == block("red", px=32)).all()
    assert (stamped != image).any()
    assert trigger.caption_word == "remember"
