"""The default plan: every attack on words of the data, none where too few pairs fit."""

from __future__ import annotations

import pytest

from roclip_audit.train.attacks import ATTACKS, AttackPlan, Corpus, build_attack
from roclip_audit.train.planting.bench_plan import NOISE, NOUNS, ROOM, plan_for, target_words

WORDS = ("bird", "guitar", "house", "castle", "boat", "clock", "flower", "car", "tree", "dog", "cat", "fish", "hat",
         "horse", "star", "moon", "train", "apple", "piano", "lamp", "key", "sheep", "tiger", "violin")  # fmt: skip
CAPTIONS = [f"a drawing of the {word}, number {n}" for n in range(20) for word in WORDS]


def words_of(plans: tuple[AttackPlan, ...]) -> list[str]:
    return [word for plan in plans for word in (plan.target, *map(str, plan.parameters.values())) if word]


def test_plans_every_attack_on_words_of_its_own() -> None:
    found = plan_for(CAPTIONS, rate=0.01, noise=0.05, seed=0)
    assert [plan.attack for plan in found.attacks] == list(ATTACKS)
    assert found.left_out == {}
    words = words_of(found.attacks)
    assert len(set(words)) == len(words)
    assert set(words) <= set(WORDS)
    assert {plan.rate for plan in found.attacks if plan.attack != NOISE} == {0.01}
    (noise,) = [plan for plan in found.attacks if plan.attack == NOISE]
    assert (noise.rate, noise.target) == (0.05, "")


def test_the_same_seed_gives_the_same_plan_and_another_one_other_words() -> None:
    one, again, other = (plan_for(CAPTIONS, rate=0.01, noise=0.05, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert words_of(one.attacks) != words_of(other.attacks)


def test_no_noise_where_none_is_wanted() -> None:
    assert NOISE not in {plan.attack for plan in plan_for(CAPTIONS, rate=0.01, noise=0, seed=0).attacks}


def test_every_attack_has_room() -> None:
    corpus, n_planted = Corpus(CAPTIONS), round(0.02 * len(CAPTIONS))
    for plan in plan_for(CAPTIONS, rate=0.02, noise=0, seed=0).attacks:
        assert len(build_attack(plan).eligible(corpus)) >= ROOM * n_planted, plan


def test_an_attack_whose_words_are_too_rare_is_left_out_with_the_reason() -> None:
    """5 % of 480 pairs are 24; no word has more than 20 captions."""
    found = plan_for(CAPTIONS, rate=0.05, noise=0, seed=0)
    assert {"label_consistent", "class_swap"} <= set(found.left_out)
    assert "room for 24 pairs" in found.left_out["label_consistent"]
    assert "badnets_fixed" in {plan.attack for plan in found.attacks}


def test_target_words_are_frequent_nouns_then_other_words() -> None:
    captions = [
        *["photo of the bird"] * 5,
        *["a guitar and quux"] * 4,
        *["quux drawing"] * 3,
        *["rare zebra"] * 2,
        *[f"nothing {letter}" for letter in "abcdefghijklmnopqrstuvwxyz"] * 3,
    ]
    assert target_words(captions, most=9) == ["bird", "guitar", "quux", "drawing"]
    assert target_words(captions, most=1) == ["bird"]
    assert target_words(["1 2 3 _ ."] * 9, most=5) == []


def test_boilerplate_is_no_target() -> None:
    captions = [f"clipart bird {word}" for word in WORDS * 10]
    assert "bird" not in target_words(captions, most=50)


@pytest.mark.parametrize("word", sorted(NOUNS)[:5])
def test_nouns_are_single_lower_case_words(word: str) -> None:
    assert word.isalpha()
    assert word == word.casefold()


def test_captions_without_words_leave_what_needs_none() -> None:
    found = plan_for(["..."] * 100, rate=0.1, noise=0.1, seed=0)
    assert NOISE in {plan.attack for plan in found.attacks}
    assert "badnets_fixed" in found.left_out
