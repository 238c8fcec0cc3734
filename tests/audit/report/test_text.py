"""Hostile text on the page: bounded, on one line, with nothing that a browser would obey."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roclip_audit.audit.report.text import CAPTION_CHARS, short, shown


def test_a_long_text_is_cut_and_says_how_long_it_is() -> None:
    found = shown("x" * 100_000)
    assert found.head == "x" * CAPTION_CHARS + "…"
    assert found.n_chars == 100_000
    assert shown("short").n_chars == 0


@pytest.mark.parametrize("text", [None, "", " \n\t "])
def test_nothing_is_nothing(text: str | None) -> None:
    assert (shown(text).head, short(text)) == ("", "")


@given(st.text())
def test_no_control_and_no_reordering_survives(text: str) -> None:
    for found in (shown(text, 40).head, short(text, 40)):
        assert not set(found) & set("\x00\x1b\n\r\t\x7f\x85\x9b\u2028\u2029\u202a\u202e\u2066\u2069\ufeff")
        assert len(found) <= 4 * 40 + 1
