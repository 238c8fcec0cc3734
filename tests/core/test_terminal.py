"""Whatever a caption holds, a terminal shows it and does nothing else."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roclip_audit.core.terminal import printable, say


@pytest.mark.parametrize("text", ["a cat", "naïve café", "日本語", "👩\u200d👧 family", "نمی\u200cدانم", "x" * 300])
def test_honest_text_is_unchanged(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b]52;c;AAAA\x07", "\\x1b]52;c;AAAA\\x07"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\x9b31m", "\\x9b31m"),
        ("gpj.\u202eexe", "gpj.\\u202eexe"),
        ("\ud800", "\\ud800"),
        ("a\U000e0041b\u2028", "a\\U000e0041b\\u2028"),
    ],
)
def test_steering_characters_are_shown(hostile: str, shown: str) -> None:
    assert printable(hostile) == shown


@given(st.text(alphabet=st.characters(exclude_categories=())), st.integers(1, 40))
def test_nothing_dangerous_survives_and_limits_hold(text: str, limit: int) -> None:
    for shown in (printable(text), printable(text, limit=limit)):
        assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cs", "Zl", "Zp"}
        shown.encode()
    assert len(printable(text, limit=limit)) <= limit


def test_a_cut_is_visible() -> None:
    assert printable("abcdef", limit=4) == "abc…"
    assert printable("abcd", limit=4) == "abcd"


def test_say_writes_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("two\nlines")
    assert capsys.readouterr().err == "two\\nlines\n"
    stream = io.StringIO()
    say("here", stream=stream)
    assert stream.getvalue() == "here\n"
