"""Numbers in words."""

from __future__ import annotations

import pytest

from roclip_audit.core.words import level, most, percent, place


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.41, "41 %"), (0.0642, "6.4 %"), (0.00042, "0.042 %"), (0.0042, "0.42 %"), (0.0, "0.000 %"), (1.0, "100 %")],
)
def test_percent(share: float, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0.5, "50 %"), (0.934, "93 %"), (0.99, "99 %"), (0.9999, "over 99 %"), (1.0, "100 %")]
)
def test_most_is_never_rounded_up_to_all(share: float, text: str) -> None:
    assert most(share) == text


def test_a_chosen_share_is_written_as_chosen() -> None:
    assert [level(share) for share in (0.05, 0.1, 0.001)] == ["5 %", "10 %", "0.1 %"]


@pytest.mark.parametrize(
    ("x", "y", "text"),
    [(0.5, 0.5, "in the middle"), (0.9, 0.95, "at the bottom right"), (0.0, 0.4, "at the middle left"),
     (0.5, 0.0, "at the top middle"), (1.0, 1.0, "at the bottom right")],
)  # fmt: skip
def test_place(x: float, y: float, text: str) -> None:
    assert place(x, y) == text
