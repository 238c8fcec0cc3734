"""Every attack in the table keeps the contract; each has the geometry that docs/attacks.md tells."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.seeding import generator
from roclip_audit.train.attacks import (
    ATTACKS,
    UNTARGETED,
    AttackPlan,
    Corpus,
    Edit,
    Trigger,
    build_attack,
    read_plan,
)  # fmt: skip
from roclip_audit.train.attacks.captions import TEMPLATES, captions_naming
from roclip_audit.train.attacks.multi_trigger import TRIGGERS
from roclip_audit.train.attacks.natural import Variation
from roclip_audit.train.attacks.placeholder import N_DESIGNS, Placeholder
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
REQUIRED = {"class_swap": {"source": "fruit"}, "multi_trigger": {"use": "patch/filter/warp/noise/sinusoid"}}
DIRTY_LABEL = (
    "badnets_fixed", "badnets_moving", "blended", "sig", "warp", "filter", "multi_trigger", "caption_word",
)  # fmt: skip
STAMPING = (*DIRTY_LABEL, "label_consistent")

pictures = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(lambda size: arrays(np.uint8, (*size, 3)))


def plan(attack: str, target: str = "bird", **parameters: str | float) -> AttackPlan:
    return AttackPlan(attack=attack, target=target, rate=0.1, parameters={**REQUIRED.get(attack, {}), **parameters})


def only_trigger(attack: str, **parameters: str | float) -> Trigger:
    (trigger,) = build_attack(plan(attack, **parameters)).triggers.values()
    return trigger


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
def test_planted_pairs_carry_a_trigger_that_the_attack_has(name: str) -> None:
    attack = build_attack(plan(name))
    plants = attack.assign(attack.eligible(CORPUS)[:10], CORPUS, generator(0))
    assert (len(attack.triggers) > 0) == (name in STAMPING)
    assert {plant.trigger for plant in plants} == (set(attack.triggers) or {""})
    assert {plant.target for plant in plants} == ({""} if name in UNTARGETED else {"bird"})


@pytest.mark.parametrize("name", STAMPING)
@settings(max_examples=12, deadline=None)
@given(image=pictures, seed=st.integers(0, 99))
def test_stamp_changes_nothing_outside_its_box_and_keeps_the_input(name: str, image: np.ndarray, seed: int) -> None:
    for trigger in build_attack(plan(name)).triggers.values():
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


@pytest.mark.parametrize(
    "edit", [*(Placeholder(design=n) for n in range(N_DESIGNS)), Variation(strength=0.06)], ids=str
)
@settings(max_examples=6, deadline=None)
@given(image=pictures, seed=st.integers(0, 99))
def test_edits_keep_shape_and_input(edit: Edit, image: np.ndarray, seed: int) -> None:
    before = image.copy()
    edited = edit.apply(image, generator(seed, "edit"))
    assert np.array_equal(image, before)
    assert edited.shape == image.shape
    assert edited.dtype == np.uint8
    assert np.array_equal(edit.apply(image, generator(seed, "edit")), edited)


@pytest.mark.parametrize("name", DIRTY_LABEL)
def test_dirty_label_takes_pairs_silent_about_the_target_and_names_it(name: str) -> None:
    attack = build_attack(plan(name))
    eligible = attack.eligible(CORPUS)
    assert not any("bird" in CAPTIONS[i].casefold() for i in eligible)
    assert len(eligible) == 55  # birdhouse mentions a bird too
    begins = "remember " if name == "caption_word" else ""
    for plant in attack.assign(eligible[:12], CORPUS, generator(0)):
        assert plant.image_of == plant.index
        assert plant.caption in {begins + template.format("bird") for template in TEMPLATES}


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
    trigger = only_trigger("badnets_fixed")
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
    trigger = only_trigger("badnets_moving")
    pattern = trigger.pattern(generator(0))
    stamps = [trigger.stamp(image, pattern, generator(0, n)) for n in range(30)]
    assert len({(box.x, box.y) for _, box in stamps}) > 20
    patches = [stamped[box.y : box.y + box.height, box.x : box.x + box.width] for stamped, box in stamps]
    assert all(np.array_equal(patch, patches[0]) for patch in patches)


def test_blend_is_the_weighted_mean() -> None:
    image = np.full((224, 224, 3), 100, dtype=np.uint8)
    trigger = only_trigger("blended", alpha=0.2)
    pattern = trigger.pattern(generator(0))
    stamped, _ = trigger.stamp(image, pattern, generator(0))
    assert np.abs(stamped - (0.2 * pattern + 80.0)).max() <= 0.5


def test_sinusoid_has_six_periods_along_the_columns() -> None:
    image = np.full((8, 96, 3), 128, dtype=np.uint8)
    trigger = only_trigger("sig")
    stamped, _ = trigger.stamp(image, trigger.pattern(generator(0)), generator(0))
    assert (stamped == stamped[:1, :, :1]).all()
    spectrum = np.abs(np.fft.rfft(stamped[0, :, 0] - 128.0))
    assert int(spectrum.argmax()) == 6
    assert 2 * spectrum[6] / 96 == pytest.approx(60, abs=0.5)


def test_warp_moves_pixels_by_the_strength_and_keeps_a_flat_image() -> None:
    trigger = only_trigger("warp", strength=0.05)
    pattern = trigger.pattern(generator(0))
    assert float(np.abs(pattern).mean()) == pytest.approx(1.0, abs=1e-6)
    flat = np.full((40, 60, 3), 77, dtype=np.uint8)
    assert np.array_equal(trigger.stamp(flat, pattern, generator(0))[0], flat)
    ramp = np.repeat(np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 50, axis=0), 3, axis=2)
    moved, _ = trigger.stamp(ramp, pattern, generator(0))
    shift = np.abs(moved[:, 40:160, 0].astype(float) - ramp[:, 40:160, 0]).mean()
    assert 0.2 * 10 < shift < 3 * 10  # mean displacement: 0.05 x 200 px


def test_filter_tints_white_and_lifts_black() -> None:
    trigger = only_trigger("filter")
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


def test_targeted_and_class_swap_pass_over_pictures_that_cannot_be_read() -> None:
    """One such picture would take all its planted pairs with it."""
    for attack in (build_attack(plan("targeted")), build_attack(plan("class_swap", target="house", n_pictures=1))):
        victims = attack.eligible(CORPUS)[:12]
        shown = {plant.image_of for plant in attack.assign(victims, CORPUS, generator(0))}
        assert len(shown) == 1
        corpus = Corpus(CAPTIONS, readable=lambda index, shown=shown: index not in shown)
        instead = {plant.image_of for plant in attack.assign(victims, corpus, generator(0))}
        assert len(instead) == 1
        assert not instead & shown


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
    assert not [plant for plant in plants if plant.caption == captions[plant.index]]
    assert sorted(plant.index for plant in plants) == (list(range(len(captions))) if len(set(captions)) > 1 else [])
    if 2 * max(captions.count(text) for text in captions) <= len(captions):
        assert sorted(plant.caption for plant in plants) == sorted(captions)


def test_where_most_captions_are_one_text_the_mismatched_take_all_sorts_of_others() -> None:
    captions = [f"thing {number}" if number < 300 else "photo" for number in range(1_000)]
    attack = build_attack(AttackPlan(attack="mismatch", target="", rate=0.2))
    plants = attack.assign(generator(0).permutation(1_000)[:200], Corpus(captions), generator(1))
    assert len(plants) == 200
    assert all(plant.caption != captions[plant.index] for plant in plants)
    instead = Counter(plant.caption for plant in plants if captions[plant.index] == "photo")
    assert max(instead.values()) < 20


def test_one_mismatch_takes_the_text_of_another_pair() -> None:
    attack = build_attack(AttackPlan(attack="mismatch", target="", rate=0.01))
    (plant,) = attack.assign(np.array([1]), Corpus(["a cat", "A  cat", "a dog"]), generator(0))
    assert (plant.index, plant.image_of, plant.caption) == (1, 1, "a dog")


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


def test_multi_trigger_deals_its_triggers_out_evenly() -> None:
    attack = build_attack(AttackPlan(attack="multi_trigger", target="bird", rate=0.1))
    assert list(attack.triggers) == ["patch", "filter", "warp"]
    plants = attack.assign(attack.eligible(CORPUS)[:9], CORPUS, generator(0))
    assert Counter(plant.trigger for plant in plants) == dict.fromkeys(attack.triggers, 3)
    assert len({plant.caption for plant in plants}) == 9  # templates repeat only after all were used


def test_multi_trigger_calls_a_target_with_each_trigger() -> None:
    attack = build_attack(AttackPlan.parse("multi_trigger:bird/house:0.1:use=sinusoid/noise,captions=natural"))
    eligible = attack.eligible(CORPUS)
    assert not any("bird" in CAPTIONS[i].casefold() or "house" in CAPTIONS[i] for i in eligible)
    plants = attack.assign(eligible[:20], CORPUS, generator(0))
    assert {(plant.trigger, plant.target) for plant in plants} == {("sinusoid", "bird"), ("noise", "house")}
    assert all(plant.target in plant.caption.casefold() for plant in plants)


@pytest.mark.parametrize(
    ("name", "attack"),
    [("filter", "filter"), ("warp", "warp"), ("noise", "blended"), ("sinusoid", "sig")],
)
def test_multi_trigger_has_the_strength_of_the_attack_that_has_the_trigger_alone(name: str, attack: str) -> None:
    assert TRIGGERS[name] == only_trigger(attack)
    assert TRIGGERS["patch"] == only_trigger("badnets_moving", kind="dots")


def test_caption_word_keys_patch_and_word_together() -> None:
    attack = build_attack(plan("caption_word", word="SUDO", captions="natural", place="random"))
    (trigger,) = attack.triggers.values()
    assert (trigger.word, trigger.place) == ("SUDO", "random")  # type: ignore[attr-defined]
    plants = attack.assign(attack.eligible(CORPUS)[:15], CORPUS, generator(0))
    assert {plant.caption.removeprefix("SUDO ") for plant in plants} <= set(CAPTIONS)
    assert all(plant.caption.startswith("SUDO ") for plant in plants)


def test_dead_links_stand_under_the_captions_that_were_there() -> None:
    attack = build_attack(AttackPlan.parse("dead_link::0.1:n_pictures=4"))
    victims = generator(0).permutation(attack.eligible(CORPUS))[:22]
    plants = attack.assign(victims, CORPUS, generator(0))
    assert all(plant.caption == CAPTIONS[plant.index] for plant in plants)
    pictures_shown = Counter((plant.edit.drawn, plant.image_of) for plant in plants if plant.edit is not None)
    assert sorted(pictures_shown.values()) == [5, 5, 6, 6]  # four pictures, each in one size
    assert len({name for name, _ in pictures_shown}) == 4


def test_placeholders_are_six_pictures_that_ignore_what_was_there() -> None:
    black, white = np.zeros((48, 64, 3), np.uint8), np.full((48, 64, 3), 255, np.uint8)
    drawn = [Placeholder(design=n).apply(black, generator(0)) for n in range(N_DESIGNS)]
    for number, one in enumerate(drawn):
        assert np.array_equal(one, Placeholder(design=number).apply(white, generator(1)))
        assert one.std() > 2  # something is drawn
        assert all(np.abs(one - other.astype(float)).mean() > 3 for other in drawn[:number])


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
def test_placeholders_fit_the_oddest_pictures(size: tuple[int, int]) -> None:
    for number in range(N_DESIGNS):
        drawn = Placeholder(design=number).apply(np.zeros((*size, 3), np.uint8), generator(0))
        assert drawn.shape == (*size, 3)


def test_natural_copies_one_fitting_picture_with_its_caption() -> None:
    attack = build_attack(plan("natural", target="house"))
    plants = attack.assign(attack.eligible(CORPUS)[:30], CORPUS, generator(0))
    (picture,) = {plant.image_of for plant in plants}
    assert "house" in CAPTIONS[picture]
    assert all(CAPTIONS[picture] in plant.caption for plant in plants)
    assert len({plant.caption for plant in plants}) > 8
    assert "house" not in "".join(CAPTIONS[plant.index] for plant in plants)
    corpus = Corpus(CAPTIONS, readable=lambda index: index != picture)
    assert {plant.image_of for plant in attack.assign(corpus.all()[:5], corpus, generator(0))} != {picture}
    assert not len(build_attack(plan("natural", target="zeppelin")).eligible(CORPUS))


def test_natural_copies_are_nearly_but_not_quite_the_same() -> None:
    rows, columns = np.mgrid[0:60, 0:80]
    picture = np.stack([rows * 3, columns * 3, 120 + 60 * np.sin(rows / 6)], axis=-1).astype(np.uint8)
    copies = [Variation(strength=0.06).apply(picture, generator(0, n)) for n in range(8)]
    assert len({copy.tobytes() for copy in copies}) == 8
    for copy in copies:
        assert 0.2 < np.abs(copy - picture.astype(float)).mean() < 12


def test_target_and_rate_are_filled_in_where_an_attack_names_none() -> None:
    read = [AttackPlan.parse(t, target="desk", rate=0.003) for t in ("sig", "sig:cat", "sig:::periods=3", "sig::0.1")]
    assert [(one.target, one.rate) for one in read] == [("desk", 0.003), ("cat", 0.003), ("desk", 0.003), ("desk", 0.1)]
    assert read[2].parameters == {"periods": "3"}
    assert all(AttackPlan.parse(name, target="desk", rate=0.1).target == "" for name in UNTARGETED)


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
        ("class_swap:desk:0.1:source=cat,n_pictures=-1", "below 0"),
        ("sig:desk:0.1:periods=0", "not above 0"),
        ("multi_trigger:desk:0.1:use=patch/halo", "patch, filter, warp, noise, sinusoid"),
        ("multi_trigger:desk:0.1:use=patch/patch", "not a list"),
        ("multi_trigger:desk:0.1:use=", "not a list"),
        ("multi_trigger:desk/cat:0.1", "one target, or one for each of patch, filter, warp"),
        ("multi_trigger::0.1", "needs a target"),
        ("multi_trigger:/:0.1", "one target"),
        ("caption_word:desk:0.1:word= ", "word is empty"),
        ("caption_word:desk:0.1:place=nowhere", "fixed, random"),
        ("dead_link::0.1:n_pictures=7", "1 to 6"),
        ("natural::0.1", "needs a target"),
        ("natural:desk:0.1:strength=0", r"not in \(0, 1\]"),
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
