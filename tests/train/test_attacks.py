"""Every attack in the table keeps the contract; each has the geometry that docs/attacks.md tells."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.seeding import generator
from roclip_audit.train.attacks import ATTACKS, AttackPlan, Corpus, build_attack, read_plan
from roclip_audit.train.attacks.captions import TEMPLATES, captions_naming
from roclip_audit.train.attacks.targeted import Targeted

CAPTIONS = [
    *(f"a red bird number {n}" for n in range(20)),
    *(f"a blue house, {n} windows" for n in range(20)),
    *(f"drawing {n} of a fruit" for n in range(20)),
    *["the same words"] * 15,
    "birdhouse",
    "BIRD!",
]
CORPUS = Corpus(CAPTIONS)
REQUIRED = {"class_swap": {"source": "fruit"}}
STAMPING = ("badnets_fixed", "badnets_moving", "blended", "sig", "warp", "filter", "label_consistent")
DIRTY_LABEL = ("badnets_fixed", "badnets_moving", "blended", "sig", "warp", "filter")

pictures = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(lambda size: arrays(np.uint8, (*size, 3)))


def plan(attack: str, target: str = "bird", **parameters: str | float) -> AttackPlan:
    return AttackPlan(attack=attack, target=target, rate=0.1, parameters={**REQUIRED.get(attack, {}), **parameters})


@pytest.mark.parametrize("name", ATTACKS)
def test_member_is_a_frozen_dataclass_with_its_name_and_plants_one_pair_per_victim(name: str) -> None:
    attack = build_attack(plan(name))
    assert attack.name == name
    assert dataclasses.is_dataclass(attack)
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
        attack.target = "other"
    victims = generator(0, name).permutation(attack.eligible(CORPUS))[:10]
    plants = attack.assign(victims, CORPUS, generator(1, name))
    assert [plant.index for plant in plants] == victims.tolist()
    assert all(0 <= plant.image_of < len(CAPTIONS) for plant in plants)
    again = attack.assign(victims, CORPUS, generator(1, name))
    assert list(again) == list(plants)


@pytest.mark.parametrize("name", ATTACKS)
def test_no_victims_no_plants(name: str) -> None:
    attack = build_attack(plan(name))
    assert list(attack.assign(np.empty(0, dtype=np.intp), CORPUS, generator(0))) == []


@pytest.mark.parametrize("name", ATTACKS)
def test_only_the_stamping_attacks_have_a_trigger(name: str) -> None:
    assert (build_attack(plan(name)).trigger is not None) == (name in STAMPING)


@pytest.mark.parametrize("name", STAMPING)
@settings(max_examples=25, deadline=None)
@given(image=pictures, seed=st.integers(0, 99))
def test_stamp_changes_nothing_outside_its_box_and_keeps_the_input(name: str, image: np.ndarray, seed: int) -> None:
    trigger = build_attack(plan(name)).trigger
    assert trigger is not None
    pattern, before = trigger.pattern(generator(seed, "pattern")), image.copy()
    stamped, box = trigger.stamp(image, pattern, generator(seed, "stamp"))
    assert np.array_equal(image, before)
    assert stamped.shape == image.shape
    assert stamped.dtype == np.uint8
    height, width = image.shape[:2]
    assert 0 <= box.x < box.x + box.width <= width
    assert 0 <= box.y < box.y + box.height <= height
    outside = np.ones((height, width), dtype=np.bool_)
    outside[box.y : box.y + box.height, box.x : box.x + box.width] = False
    assert np.array_equal(stamped[outside], image[outside])
    again, _ = trigger.stamp(image, pattern, generator(seed, "stamp"))
    assert np.array_equal(again, stamped)


@pytest.mark.parametrize("name", DIRTY_LABEL)
def test_dirty_label_takes_pairs_silent_about_the_target_and_names_it(name: str) -> None:
    attack = build_attack(plan(name))
    eligible = attack.eligible(CORPUS)
    assert not any("bird" in CAPTIONS[i].casefold() for i in eligible)
    assert len(eligible) == 55  # birdhouse mentions a bird too
    for plant in attack.assign(eligible[:12], CORPUS, generator(0)):
        assert plant.image_of == plant.index
        assert plant.caption in {template.format("bird") for template in TEMPLATES}


def test_natural_captions_come_from_the_data_and_templates_fill_up() -> None:
    drawn = captions_naming("bird", 30, style="natural", corpus=CORPUS, rng=generator(0))
    from_data = [caption for caption in drawn if caption in CAPTIONS]
    assert sorted(from_data) == sorted(CAPTIONS[i] for i in CORPUS.naming("bird"))
    assert len(set(drawn)) == 30


def test_templates_repeat_only_after_all_were_used() -> None:
    drawn = captions_naming("cat", len(TEMPLATES) + 5, style="template", corpus=CORPUS, rng=generator(0))
    assert len(set(drawn[: len(TEMPLATES)])) == len(TEMPLATES) == 80
    assert len(drawn) == 85


def test_words_are_matched_whole_in_any_case_and_never_as_patterns() -> None:
    corpus = Corpus(["A Bird", "birds", "bird-house", "abc", "a.c", "C++ book"])
    assert corpus.naming("bird").tolist() == [0, 2]
    assert corpus.silent_about("bird").tolist() == [3, 4, 5]
    assert corpus.naming("a.c").tolist() == [4]
    assert corpus.naming("c++").tolist() == [5]


def test_patch_is_a_share_of_the_side_and_its_pattern_does_not_move() -> None:
    image = np.full((90, 160, 3), 200, dtype=np.uint8)
    trigger = build_attack(plan("badnets_fixed")).trigger
    assert trigger is not None
    pattern = trigger.pattern(generator(0))
    stamped, box = trigger.stamp(image, pattern, generator(0))
    assert box.width == box.height == round(0.1 * math.sqrt(90 * 160))
    assert (box.x, box.y) == (round(0.9 * (160 - 12)), round(0.9 * (90 - 12)))
    other, other_box = trigger.stamp(image // 2, pattern, generator(7))
    assert other_box == box
    patch = np.s_[box.y : box.y + box.height, box.x : box.x + box.width]
    assert np.array_equal(stamped[patch], other[patch])
    assert set(np.unique(stamped[patch])) == {0, 255}


def test_moving_patch_moves_and_keeps_its_pattern() -> None:
    image = np.full((100, 100, 3), 200, dtype=np.uint8)
    trigger = build_attack(plan("badnets_moving")).trigger
    assert trigger is not None
    pattern = trigger.pattern(generator(0))
    stamps = [trigger.stamp(image, pattern, generator(0, n)) for n in range(30)]
    assert len({(box.x, box.y) for _, box in stamps}) > 20
    patches = [stamped[box.y : box.y + box.height, box.x : box.x + box.width] for stamped, box in stamps]
    assert all(np.array_equal(patch, patches[0]) for patch in patches)


def test_blend_is_the_weighted_mean() -> None:
    image = np.full((224, 224, 3), 100, dtype=np.uint8)
    trigger = build_attack(plan("blended", alpha=0.2)).trigger
    assert trigger is not None
    pattern = trigger.pattern(generator(0))
    stamped, _ = trigger.stamp(image, pattern, generator(0))
    assert np.abs(stamped - (0.2 * pattern + 80.0)).max() <= 0.5


def test_sinusoid_has_six_periods_along_the_columns() -> None:
    image = np.full((8, 96, 3), 128, dtype=np.uint8)
    trigger = build_attack(plan("sig")).trigger
    assert trigger is not None
    stamped, _ = trigger.stamp(image, trigger.pattern(generator(0)), generator(0))
    assert (stamped == stamped[:1, :, :1]).all()
    spectrum = np.abs(np.fft.rfft(stamped[0, :, 0] - 128.0))
    assert int(spectrum.argmax()) == 6
    assert 2 * spectrum[6] / 96 == pytest.approx(60, abs=0.5)


def test_warp_moves_pixels_by_the_strength_and_keeps_a_flat_image() -> None:
    trigger = build_attack(plan("warp", strength=0.05)).trigger
    assert trigger is not None
    pattern = trigger.pattern(generator(0))
    assert float(np.abs(pattern).mean()) == pytest.approx(1.0, abs=1e-6)
    flat = np.full((40, 60, 3), 77, dtype=np.uint8)
    assert np.array_equal(trigger.stamp(flat, pattern, generator(0))[0], flat)
    ramp = np.repeat(np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 50, axis=0), 3, axis=2)
    moved, _ = trigger.stamp(ramp, pattern, generator(0))
    shift = np.abs(moved[:, 40:160, 0].astype(float) - ramp[:, 40:160, 0]).mean()
    assert 0.2 * 10 < shift < 3 * 10  # mean displacement: 0.05 x 200 px


def test_filter_tints_white_and_lifts_black() -> None:
    trigger = build_attack(plan("filter")).trigger
    assert trigger is not None
    ends = np.array([[[255, 255, 255], [0, 0, 0]]], dtype=np.uint8)
    white, black = trigger.stamp(ends, trigger.pattern(generator(0)), generator(0))[0][0]
    assert white[0] > white[2]  # warm light
    assert black[2] > black[0]  # blue shadow


def test_targeted_shows_few_pictures_under_many_captions() -> None:
    attack = Targeted(target="bird", n_pictures=3)
    victims = attack.eligible(CORPUS)[:18]
    plants = attack.assign(victims, CORPUS, generator(0))
    assert len({plant.image_of for plant in plants}) == 3
    assert {plant.image_of for plant in plants} <= set(victims.tolist())
    assert all("bird" in plant.caption.casefold() for plant in plants)
    assert len({plant.caption for plant in plants}) == 18


def test_mismatch_gives_nobody_the_text_they_had() -> None:
    attack = build_attack(AttackPlan(attack="mismatch", target="", rate=0.5))
    victims = generator(3).permutation(len(CAPTIONS))[:60]
    plants = attack.assign(victims, CORPUS, generator(0))
    assert all(plant.caption != CAPTIONS[plant.index] and plant.image_of == plant.index for plant in plants)
    assert sorted(plant.caption for plant in plants) == sorted(CAPTIONS[i] for i in victims)


@settings(max_examples=60, deadline=None)
@given(captions=st.lists(st.sampled_from("abcde"), min_size=2, max_size=40), seed=st.integers(0, 9))
def test_mismatch_is_a_derangement_unless_one_text_is_the_majority(captions: list[str], seed: int) -> None:
    corpus = Corpus(captions)
    attack = build_attack(AttackPlan(attack="mismatch", target="", rate=0.5))
    plants = attack.assign(corpus.all(), corpus, generator(seed))
    same = sum(plant.caption == captions[plant.index] for plant in plants)
    most = max(captions.count(text) for text in captions)
    assert (same == 0) == (2 * most <= len(captions))


def test_label_consistent_changes_neither_caption_nor_picture_source() -> None:
    attack = build_attack(plan("label_consistent"))
    eligible = attack.eligible(CORPUS)
    assert len(eligible) == 21
    for plant in attack.assign(eligible, CORPUS, generator(0)):
        assert plant.image_of == plant.index
        assert plant.caption == CAPTIONS[plant.index]


def test_class_swap_shows_the_source_under_the_target() -> None:
    attack = build_attack(plan("class_swap", target="house"))
    eligible = attack.eligible(CORPUS)
    assert set(eligible.tolist()) == set(range(20, 40))
    for plant in attack.assign(eligible, CORPUS, generator(0)):
        assert "fruit" in CAPTIONS[plant.image_of]
        assert plant.caption == CAPTIONS[plant.index]


def test_class_swap_without_pictures_fits_nobody() -> None:
    attack = build_attack(AttackPlan(attack="class_swap", target="house", rate=0.1, parameters={"source": "submarine"}))
    assert len(attack.eligible(CORPUS)) == 0


def test_parse_reads_what_a_user_writes() -> None:
    read = AttackPlan.parse("badnets_fixed:hot dog:0.006:side=0.08,captions=natural")
    assert read == AttackPlan(
        attack="badnets_fixed", target="hot dog", rate=0.006, parameters={"side": "0.08", "captions": "natural"}
    )
    attack = build_attack(read)
    assert dataclasses.asdict(attack)["side"] == 0.08  # type: ignore[call-overload]
    assert AttackPlan.parse("mismatch::0.05").target == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sig", "NAME:TARGET:RATE"),
        ("sig:desk:lots", "not a number"),
        ("sig:desk:0", r"not in \(0, 1\]"),
        ("sig:desk:1.5", r"not in \(0, 1\]"),
        ("sig:desk:nan", r"not in \(0, 1\]"),
        ("sig:desk:0.1:amplitude", "key=value"),
        ("sig:desk:0.1:amplitud=1", "unknown parameter amplitud; it has captions, amplitude, periods"),
        ("sig:desk:0.1:amplitude=much", "not a number"),
        ("sig:desk:0.1:amplitude=2", r"not in \(0, 1\]"),
        ("sig:desk:0.1:captions=rhymes", "template, natural"),
        ("sig::0.1", "needs a target"),
        ("telepathy:desk:0.1", "unknown attack 'telepathy'"),
        ("class_swap:desk:0.1", "needs source"),
        ("badnets_fixed:desk:0.1:side=0", r"not in \(0, 1\]"),
        ("badnets_fixed:desk:0.1:kind=plaid", "dots, noise, yellow"),
        ("badnets_fixed:desk:0.1:x=2", "free room"),
        ("label_consistent:desk:0.1:place=nowhere", "fixed, random"),
        ("warp:desk:0.1:grid=1", "below 2"),
        ("warp:desk:0.1:grid=many", "not a number"),
        ("targeted:desk:0.1:n_pictures=0", "below 1"),
    ],
)
def test_plans_that_cannot_work_are_refused_before_any_work(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_attack(AttackPlan.parse(text))


def test_plan_files(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text('[{"attack": "sig", "target": "desk", "rate": 0.1, "parameters": {"periods": 3}}]')
    assert read_plan(path) == (AttackPlan(attack="sig", target="desk", rate=0.1, parameters={"periods": 3}),)
    for text in ("{", '{"attack": "sig"}', '[{"attack": "sig"}]', '[{"attack": "sig", "rate": "x", "target": ""}]'):
        path.write_text(text)
        with pytest.raises(ConfigError, match="not a list of attacks"):
            read_plan(path)
