"""Numbers in words, the same everywhere: terminal, report, review."""

from __future__ import annotations

from typing import Final

from roclip_audit.core.progress import counted

STAMP_SHOWS: Final = {
    "place": "the same detail at one place",
    "window": "the same detail, wherever it lies,",
    "grain": "the same grain all over",
    "tone": "the same colours and contrasts",
    "bend": "the same bend of the whole picture",
}
"""What pictures of a stamp show, by its kind."""


def percent(share: float) -> str:
    """Return a share with three digits at most: ``0.046 %``, ``6.4 %``, ``41 %``."""
    value = 100 * share
    digits = 0 if value >= 9.95 else 1 if value >= 0.995 else 2 if value >= 0.0995 else 3
    return f"{value:.{digits}f} %"


def level(share: float) -> str:
    """Return a share that somebody chose, as they would write it: ``5 %``, ``0.1 %``."""
    return f"{100 * share:g} %"


def most(share: float) -> str:
    """Return a large share without ever rounding it up to all: ``93 %``, ``over 99 %``; 1 is ``100 %``."""
    return "over 99 %" if 0.99 < share < 1 else percent(share)


def count(n: int, noun: str) -> str:
    """Return ``1 pair``, ``6,881 pairs``; ``noun`` is in the singular."""
    return counted(n, f"{noun}s")


def place(x: float, y: float) -> str:
    """Return where a point of a picture lies, x and y shares of its width and height: ``at the bottom right``."""
    column = ("left", "middle", "right")[min(2, int(3 * x))]
    row = ("top", "middle", "bottom")[min(2, int(3 * y))]
    return "in the middle" if row == column == "middle" else f"at the {row} {column}"
