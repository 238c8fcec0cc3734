"""What escaping must do to any text at all."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from roclip_audit.audit.escape import ellipsize, markdown_cell, spreadsheet_cell
from tests.audit.runkit import HOSTILE

ANY = st.text() | st.sampled_from(sorted(HOSTILE.values())) | st.just("\ud800 lone")


@given(ANY)
def test_a_spreadsheet_sees_no_formula(text: str) -> None:
    cell = spreadsheet_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"))
    assert cell in (text, "'" + text)


@pytest.mark.parametrize("text", ["", "a = b", "'quoted", " =1", "1-2", "naïve"])
def test_other_text_is_left_alone(text: str) -> None:
    assert spreadsheet_cell(text) == text


@given(ANY)
def test_a_markdown_cell_stays_in_its_cell(text: str) -> None:
    cell = markdown_cell(text)
    assert "\n" not in cell
    assert "<" not in cell
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`\[*]", cell)


@given(st.text(alphabet="abc XYZ09,.'\"?", max_size=50))
def test_plain_words_are_the_same_in_markdown(text: str) -> None:
    assert markdown_cell(text) == text.replace("&", "&amp;")


@given(ANY, st.integers(2, 60))
def test_a_cut_text_fits_and_steers_nothing(text: str, width: int) -> None:
    shown = ellipsize(text, width)
    assert cell_len(shown) <= width
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]", shown)


def test_wide_characters_count_double() -> None:
    assert ellipsize("写真写真写真", 7) == "写真写…"
    assert ellipsize("写真写真", 8) == "写真写真"
