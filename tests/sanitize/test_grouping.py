"""Caption keys, and folds of whole groups."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roclip_audit.sanitize.grouping import (
    LEARNED_FROM,
    MAX_WORDS,
    caption_key,
    deal_folds,
    known_share,
    number_captions,
    words_of,
)

SAME = [
    ("A Red  Circle", "a red circle."),
    ("STRASSE", "straße"),
    ("café", "cafe\u0301"),  # one code point, and two
    ("ﬁle №1", "file no1"),
    ("ＡＢＣ", "abc"),
    ("a_b-c/d", "a b c d"),
    ("ΑΝΑΓΚΑΣ", "αναγκας"),
    ("10\u00a0cm", "10 cm"),
    ("❤️ heart", "❤ heart"),
    ("\u0130", "i\u0307"),
]
DIFFERENT = [
    ("a red circle", "a red circles"),
    ("दिल", "दाल"),  # heart and lentils: only the vowel signs differ, and those are no letters to a regex
    ("มา", "มี"),
    ("كَتَبَ", "كُتِبَ"),
    ("cafe", "café"),
    ("!!!", "???"),
    ("😀", "😁"),
    ("", " "),
    ("12", "1 2"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_captions_that_look_alike_have_one_key(one: str, other: str) -> None:
    assert caption_key(one) == caption_key(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_captions_that_say_different_things_have_two(one: str, other: str) -> None:
    assert caption_key(one) != caption_key(other)


@given(st.text())
def test_a_key_is_its_own_key(caption: str) -> None:
    key = caption_key(caption)
    assert caption_key(key) == key or not any(char.isalnum() for char in key)
    if caption:
        assert key


@given(st.text(), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_the_encoding_of_accents_does_not_matter(caption: str, form: str) -> None:
    key, other = caption_key(caption), caption_key(unicodedata.normalize(form, caption))
    assert key == other or not any(char.isalnum() for char in key)


@given(st.text(st.characters(codec="ascii")))
def test_the_fast_way_for_ascii_is_the_same(caption: str) -> None:
    assert caption_key(caption + "é").removesuffix("é").strip() == (caption_key(caption) if _has_word(caption) else "")


def _has_word(caption: str) -> bool:
    return any(char.isalnum() for char in caption)


def test_surrogates_and_nul_do_no_harm() -> None:
    assert caption_key("\x00") == "\x00"
    assert caption_key("\ud800a") == "a"


def shares(captions: list[str]) -> list[float]:
    return [float(share) for share in known_share(captions, number_captions(captions))]


def test_what_enough_captions_say_is_known_and_a_name_is_not() -> None:
    """Six distinct captions say red, four say blue; letters are names that occur once."""
    captions = [f"red {name}" for name in "abcde"] + [f"blue {name}" for name in "fghi"]
    captions += ["red", "Red!", "nothing"]
    red, name = np.log(11 / 6), np.log(11)  # of 11 distinct captions
    found = shares(captions)
    assert found[:5] == pytest.approx([red / (red + name)] * 5)
    assert found[5:] == [0.0] * 4 + [1.0, 1.0, 0.0]


def test_words_that_somebody_writes_without_end_do_not_count() -> None:
    endless = " ".join(f"word{number}" for number in range(5_000))
    assert words_of(endless) == [f"word{number}" for number in range(MAX_WORDS)]
    assert shares([f"{endless} {number}" for number in range(LEARNED_FROM)] + ["other"]) == [1.0] * 5 + [0.0]


def test_equal_captions_teach_once_and_a_word_of_all_captions_says_nothing() -> None:
    assert shares(["a dog"] * 40 + ["a cat"]) == [0.0] * 41
    assert shares(["photo"] * 7) == [1.0] * 7
    assert shares(["!!!", "???"]) == [0.0, 0.0]
    assert shares([]) == []


@given(st.lists(st.text("abé 1-", max_size=12), max_size=30))
def test_whatever_captions_say_is_known_if_enough_others_say_it(captions: list[str]) -> None:
    assert all(0 <= share <= 1 for share in shares(captions))
    captions = [caption for caption in captions if any(char.isalnum() for char in caption)]
    words = sorted({word for caption in captions for word in caption_key(caption).split()})
    others = [f"{word} and number {number}" for number in range(LEARNED_FROM) for word in words]
    assert all(share == 1 for share in shares([*captions, *others])[: len(captions)])


def test_numbers_follow_first_appearance() -> None:
    assert number_captions(["b", "A", "B!", "c", "a"]).tolist() == [0, 1, 0, 2, 1]
    empty = number_captions([])
    assert empty.shape == (0,)
    assert empty.dtype == torch.int64


@given(st.lists(st.integers(0, 12), max_size=60), st.integers(1, 6), st.integers(0, 99))
def test_folds_keep_groups_whole_and_are_balanced(groups: list[int], n_folds: int, seed: int) -> None:
    group = torch.tensor(groups, dtype=torch.int64)
    fold = deal_folds(group, n_folds, np.random.default_rng(seed))
    assert fold.shape == group.shape
    assert fold.dtype == torch.int64
    for one in set(groups):
        assert len(set(fold[group == one].tolist())) == 1
    if groups:
        assert 0 <= fold.min() <= fold.max() < n_folds
        load = torch.bincount(fold, minlength=n_folds)
        largest = int(torch.bincount(group).max())
        assert load.max() - load.min() <= largest  # the smallest fold is always served first


def test_folds_depend_on_the_generator_only() -> None:
    group = torch.arange(200) // 2
    one, same, other = (deal_folds(group, 5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
