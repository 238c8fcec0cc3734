"""Caption keys, near-duplicate groups against a simple search, and folds of whole groups."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roclip_audit.core.neighbours import connected_groups, nearest
from roclip_audit.sanitize.grouping import caption_key, deal_folds, first_of_each, number_captions

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


def test_numbers_follow_first_appearance() -> None:
    assert number_captions(["b", "A", "B!", "c", "a"]).tolist() == [0, 1, 0, 2, 1]
    empty = number_captions([])
    assert empty.shape == (0,)
    assert empty.dtype == torch.int64


def simple_components(n: int, edges: list[tuple[int, int]]) -> list[int]:
    """Spread the smallest number along the edges until nothing changes."""
    label = list(range(n))
    while True:
        before = list(label)
        for one, other in edges:
            label[one] = label[other] = min(label[one], label[other])
        if label == before:
            break
    order = {value: number for number, value in enumerate(dict.fromkeys(label))}
    return [order[value] for value in label]


@given(st.data(), st.integers(0, 25), st.integers(1, 4), st.floats(0.2, 0.95))
@settings(max_examples=60)
def test_components_equal_a_simple_search(data: st.DataObject, n: int, k: int, threshold: float) -> None:
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    similarity = torch.rand(n, k, generator=rng)
    index = torch.randint(-1, max(n, 1), (n, k), generator=rng) if n else torch.empty(0, k, dtype=torch.int64)
    edges = [
        (row, int(index[row, slot]))
        for row in range(n)
        for slot in range(k)
        if similarity[row, slot] >= threshold and index[row, slot] >= 0
    ]
    got = connected_groups(similarity, index, threshold)
    assert got.dtype == torch.int64
    assert got.tolist() == simple_components(n, edges)


def test_a_long_chain_is_one_group() -> None:
    n = 5_000
    index = torch.arange(1, n + 1).clamp_max(n - 1)[:, None]
    assert connected_groups(torch.ones(n, 1), index, 0.5).max() == 0
    backward = torch.arange(-1, n - 1).clamp_min(0)[:, None]
    assert connected_groups(torch.ones(n, 1), backward, 0.5).max() == 0


def test_hundreds_of_copies_are_one_group_though_only_a_few_neighbours_are_looked_up() -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.nn.functional.normalize(torch.randn(50, 16, generator=rng), dim=1)
    copies = torch.cat([images, images[:1].repeat(300, 1)])
    group = connected_groups(*nearest(copies, copies, 8), 0.98)
    assert (group[50:] == group[0]).all()
    assert group[:50].tolist() == list(range(50))


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


@given(st.lists(st.integers(0, 9), max_size=30))
def test_first_of_each(numbers: list[int]) -> None:
    first = first_of_each(torch.tensor(numbers, dtype=torch.int64))
    expected = [numbers.index(x) if x in numbers else -1 for x in range(max(numbers, default=-1) + 1)]
    assert first.tolist() == expected
