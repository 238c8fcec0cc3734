"""Oracle: the braceexpand package, which webdataset and open_clip use."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.patterns import expand_braces, natural_key

atoms = st.sampled_from(
    ["a", "x-", "{1..3}", "{00..11}", "{9..1..4}", "{a,b}", "{,c}", "{a..d}", "{x}", "{}", "{1,{2,3}}", "{5..5}"]
)


@given(st.lists(atoms, max_size=4).map("".join))
@settings(max_examples=200, deadline=None)
def test_expansion_is_that_of_webdataset(pattern: str) -> None:
    braceexpand = pytest.importorskip("braceexpand").braceexpand
    assert expand_braces(pattern) == list(braceexpand(pattern, escape=False))


def test_expansion_by_example() -> None:
    assert expand_braces("x-{08..11}.tar") == ["x-08.tar", "x-09.tar", "x-10.tar", "x-11.tar"]
    assert expand_braces("{a,b{1,2}}/{0..1}") == ["a/0", "a/1", "b1/0", "b1/1", "b2/0", "b2/1"]
    assert expand_braces("{3..1}{B..A}") == ["3B", "3A", "2B", "2A", "1B", "1A"]
    assert expand_braces("plain") == ["plain"]


@pytest.mark.parametrize(
    "pattern", ["{0..999999999999}", "{1..1000}{1..1000}{1..1000}", "{a,b}" * 40, "{" * 9 + "a,b" + "}" * 9]
)
def test_bombs_are_refused_at_once(pattern: str) -> None:
    started = time.perf_counter()
    with pytest.raises(ConfigError, match=r"more than|deeper"):
        expand_braces(pattern, limit=10_000)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("pattern", ["{", "}", "a}{b", "{{a}", "{0..3"])
def test_unbalanced_braces_are_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match="pair up"):
        expand_braces(pattern)


@given(st.lists(st.integers(0, 10**30), min_size=2, max_size=6))
def test_natural_order_is_the_order_of_the_numbers(numbers: list[int]) -> None:
    names = [f"x-{number}.tar" for number in numbers]
    assert sorted(names, key=natural_key) == [f"x-{number}.tar" for number in sorted(numbers)]


@given(st.text(max_size=8), st.text(max_size=8))
def test_natural_keys_tell_all_names_apart(a: str, b: str) -> None:
    assert (natural_key(a) == natural_key(b)) == (a == b)


def test_a_name_full_of_digits_has_a_key() -> None:
    assert natural_key("9" * 100_000) > natural_key("8")
