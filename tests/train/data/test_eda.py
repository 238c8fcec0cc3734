"""EDA: what each operation keeps, what any caption comes back as, and how the operations are drawn."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.data.eda import AROUND_WORDS, MAX_CHARS, STOP_WORDS, Eda, EdaConfig, _Draws
from roclip_audit.train.data.synonyms import Synonyms

OFF = {"synonym_rate": 0.0, "insert_rate": 0.0, "swap_rate": 0.0, "delete_rate": 0.0}
CAPTION = "A brown dog on the grass, 1923."
HOSTILE = [
    "", " ", "\n\t", "\x00", "\ud800", "\ud800 \udfff dog", "犬", "草の上の茶色い犬", "草の上の　茶色い犬", "...",
    "- - -", "1234", "a", "the the the", "ſ İ ǅ", "‮dog‬ cat", "e\u0301te\u0301", "👩‍👩‍👧 👍🏽", "dog", "DOG!", "'", "I",
    " " * 10**6, "x" * 10**6, "dog " * 250_000, "\u3000" * 5000 + "dog cat",
]  # fmt: skip

synonyms = Synonyms()
eda = Eda(synonyms=synonyms)
another = Eda()
seeds = st.integers(-(2**70), 2**70)
known = st.sampled_from(
    [
        "dog",
        "Dog",
        "DOG!",
        "(cars)",
        "sofa.",
        "the",
        "on",
        "Running",
        "1923",
        "犬",
        "geese,",
        "x",
        "“photo”",
        "--",
        "it's",
    ]
)
captions = st.lists(known, max_size=30).map(" ".join) | st.text(st.characters(), max_size=80)
rates = st.floats(0.01, 1)


def only(name: str, rate: float = 0.1) -> Eda:
    return Eda(EdaConfig(**{**OFF, name: rate}), synonyms)


def n_of(rate: float, words: list[str]) -> int:
    return max(1, round(rate * len(words)))


def is_subsequence(short: Iterable[str], long: Iterable[str]) -> bool:
    rest = iter(long)
    return all(word in rest for word in short)


def has_synonyms(word: str) -> bool:
    bare = word.strip(AROUND_WORDS).lower()
    return bare not in STOP_WORDS and bool(synonyms.of(bare))


@given(captions, seeds)
def test_any_caption_comes_back_the_same_every_time(caption: str, seed: int) -> None:
    augmented = eda(caption, seed)
    assert augmented == eda(caption, seed) == another(caption, seed)
    assert (augmented.split() == []) == (caption.split() == [])
    words = caption.split()
    if len(set(words)) > 1 or any(map(has_synonyms, words)):
        assert augmented.split() != words
    if len(words) == 1 and not has_synonyms(words[0]):
        assert augmented == caption


@pytest.mark.parametrize("caption", HOSTILE)
def test_no_caption_is_refused(caption: str) -> None:
    for seed in range(50):
        augmented = eda(caption, seed)
        assert augmented.split() or not caption.split()
        assert augmented[2 * MAX_CHARS :] == "" or augmented[-MAX_CHARS:] == caption[-MAX_CHARS:]


@pytest.mark.parametrize(
    "caption", ["", "  ", "犬", "草の上の茶色い犬", "x" * 10**6, " " * 10**6, "the", "42", "\ud800"]
)
def test_what_nothing_can_change_comes_back_as_it_is(caption: str) -> None:
    assert all(eda(caption, seed) == caption for seed in range(20))


@given(captions, seeds, rates)
def test_swaps_keep_the_words(caption: str, seed: int, rate: float) -> None:
    words, augmented = caption.split(), only("swap_rate", rate)(caption, seed).split()
    assert Counter(augmented) == Counter(words)
    moved = sum(a != b for a, b in zip(augmented, words, strict=True))
    assert moved <= 2 * n_of(rate, words)
    if len(set(words)) == len(words) > 1:
        assert moved == 2 * min(n_of(rate, words), len(words) // 2)


@given(captions, seeds, rates)
def test_deletion_leaves_a_subsequence(caption: str, seed: int, rate: float) -> None:
    words, augmented = caption.split(), only("delete_rate", rate)(caption, seed).split()
    assert is_subsequence(augmented, words)
    assert len(augmented) == max(min(1, len(words)), len(words) - n_of(rate, words))


@given(captions, seeds, rates)
def test_insertion_keeps_the_words_in_order(caption: str, seed: int, rate: float) -> None:
    words, augmented = caption.split(), only("insert_rate", rate)(caption, seed).split()
    assert is_subsequence(words, augmented)
    possible = sum(map(has_synonyms, words))
    assert len(augmented) - len(words) == min(n_of(rate, words), possible)
    every_synonym = {one for word in words for one in synonyms.of(word.strip(AROUND_WORDS))}
    assert set(Counter(augmented) - Counter(words)) <= every_synonym


@given(captions, seeds, rates)
def test_replacement_keeps_the_count(caption: str, seed: int, rate: float) -> None:
    words, augmented = caption.split(), only("synonym_rate", rate)(caption, seed).split()
    changed = [(old, new) for old, new in zip(words, augmented, strict=True) if old != new]
    assert len(changed) == min(n_of(rate, words), sum(map(has_synonyms, words)))
    for old, new in changed:
        bare_old, bare_new = old.strip(AROUND_WORDS), new.strip(AROUND_WORDS)
        assert bare_new.lower() in {one.lower() for one in synonyms.of(bare_old)}
        assert old.split(bare_old) == new.split(bare_new)
        assert bare_new[0].isupper() or not bare_old[0].isupper()
        assert bare_old.lower() not in STOP_WORDS


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Puppy", {"Pup"}), ("PUPPY!", {"PUP!"}), ("(puppy),", {"(pup),"}), ("“sofa”", {"“couch”", "“lounge”"}),
        ("sofas", {"couch", "lounge"}), ("xmas", {"Christmas"}), ("beach-front", set()), ("the", set()),
    ],
)  # fmt: skip
def test_replacements_look_like_what_they_replace(caption: str, expected: set[str]) -> None:
    assert {only("synonym_rate")(caption, seed) for seed in range(200)} == (expected or {caption})


@pytest.mark.parametrize(("rate", "n"), [(0.1, 1), (0.14, 1), (0.26, 3), (0.5, 5), (1.0, 9)])
def test_rates(rate: float, n: int) -> None:
    caption = " ".join(f"word{i}" for i in range(10))
    assert len(only("delete_rate", rate)(caption, 5).split()) == 10 - n


def operation_of(augmented: str) -> str:
    words, original = augmented.split(), CAPTION.split()
    if len(words) != len(original):
        return "insert" if len(words) > len(original) else "delete"
    return "swap" if Counter(words) == Counter(original) else "synonym"


@pytest.mark.parametrize("stride", [1, 2**32, 0x9E3779B97F4A7C16])
def test_the_four_operations_are_equally_likely(stride: int) -> None:
    n = 4000
    counts = Counter(operation_of(eda(CAPTION, seed * stride)) for seed in range(n))
    assert set(counts) == {"synonym", "insert", "swap", "delete"}
    chi_square = sum((count - n / 4) ** 2 / (n / 4) for count in counts.values())
    assert chi_square < 16.27  # p = 0.001 at three degrees of freedom


def test_every_word_is_deleted_equally_often() -> None:
    n, original = 7000, CAPTION.split()
    missing = Counter(
        next(iter(Counter(original) - Counter(only("delete_rate")(CAPTION, s).split()))) for s in range(n)
    )
    assert sum((missing[word] - n / 7) ** 2 / (n / 7) for word in original) < 22.46  # p = 0.001, six degrees


def test_an_operation_that_cannot_gives_way() -> None:
    assert {eda("zzz 42", seed) for seed in range(100)} == {"42 zzz", "zzz", "42"}
    assert all(len(eda("puppy", seed).split()) in {1, 2} and eda("puppy", seed) != "puppy" for seed in range(100))


def test_a_rate_of_zero_switches_an_operation_off() -> None:
    without = Eda(EdaConfig(delete_rate=0.0, insert_rate=0.0), synonyms)
    assert {operation_of(without(CAPTION, seed)) for seed in range(300)} == {"swap", "synonym"}


@pytest.mark.parametrize("name", OFF)
@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan, math.inf])
def test_a_rate_out_of_range_is_refused(name: str, rate: float) -> None:
    with pytest.raises(ConfigError, match=name):
        EdaConfig(**{name: rate})


def test_all_rates_zero_are_refused() -> None:
    with pytest.raises(ConfigError, match="every rate is 0"):
        EdaConfig(**OFF)


def test_what_lies_beyond_the_limit_stays() -> None:
    caption = "brown dog " * 10_000
    for seed in range(20):
        augmented = eda(caption, seed)
        assert augmented != caption
        assert augmented.endswith(caption[MAX_CHARS:])
        assert abs(len(augmented.split()) - 20_000) <= 50


def test_the_draws_are_those_of_splitmix64() -> None:
    draws = _Draws(1234567)  # the values that its reference implementation gives for this seed
    assert [draws.below(2**64) for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(seeds, st.integers(0, 50))
def test_an_order_has_everything_once(seed: int, n: int) -> None:
    assert sorted(_Draws(seed).order(n)) == list(range(n))


def test_the_answers_do_not_change_between_versions() -> None:
    assert [eda(CAPTION, seed) for seed in range(5)] == [
        "A brown dog the grass, 1923.",
        "A brown dog on the 1923. grass,",
        "A brown dog grass, the on 1923.",
        "A brownness dog on the grass, 1923.",
        "A brown dog sens on the grass, 1923.",
    ]


def test_it_goes_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(eda))(CAPTION, 3) == eda(CAPTION, 3)


def test_it_loads_neither_torch_nor_nltk() -> None:
    script = (
        "import sys, roclip_audit.train.data.eda as e; e.Eda()('dog cat', 1); print({*sys.modules} & {'torch', 'nltk'})"
    )
    assert (
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout == "set()\n"
    )


def test_without_least_one_a_tenth_of_the_words_changes_and_short_captions_often_stay() -> None:
    eda = Eda(EdaConfig(least_one=False, synonym_rate=0, insert_rate=0, swap_rate=0))
    for n_words in (3, 10, 25):
        caption = " ".join(f"word{number}" for number in range(n_words))
        gone = [n_words - len(eda(caption, seed).split()) for seed in range(3_000)]
        assert sum(gone) / 3_000 == pytest.approx(0.1 * n_words, abs=0.04)
        assert set(gone) <= {int(0.1 * n_words), int(0.1 * n_words) + 1}
