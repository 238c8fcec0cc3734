"""Small pieces of output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from roclip_audit.cli.render import count, percent, print_facts, print_json


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.41, "41 %"), (0.0642, "6.4 %"), (0.00042, "0.042 %"), (0.0042, "0.42 %"), (0.0, "0.000 %"), (1.0, "100 %")],
)
def test_percent(share: float, text: str) -> None:
    assert percent(share) == text


def test_count() -> None:
    assert (count(0, "pair"), count(1, "pair"), count(6881, "pair")) == ("0 pairs", "1 pair", "6,881 pairs")


def test_facts_stand_under_each_other_and_cannot_steer(capsys: pytest.CaptureFixture[str]) -> None:
    print_facts([("a", "x\ny"), ("long", "\x1b[31m"), ("", "more")])
    assert capsys.readouterr().out == "a     x\\ny\nlong  \\x1b[31m\n      more\n"


def test_no_facts(capsys: pytest.CaptureFixture[str]) -> None:
    print_facts([])
    assert capsys.readouterr().out == ""


def test_json_is_ascii_and_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"caption": "\x9b31m caf\u00e9 \u202e"}
    print_json(value)
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out) == value


def test_json_has_null_where_a_number_is_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    nan, inf = float("nan"), float("inf")
    print_json({"loss": nan, "rows": [{"q": -inf}, (inf, 0.5)], "path": Path("run"), 3: True})
    found = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert found == {"loss": None, "rows": [{"q": None}, [None, 0.5]], "path": "run", "3": True}
