"""What is kept of stamps beside who carries them: evidence/stamps.json in the run folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from roclip_audit.core.run import RunFolder, write_json
from roclip_audit.sanitize.detail import GRID
from roclip_audit.sanitize.stamps.search import Stamps

FILE = "stamps.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What is kept of a stamp.

    Attributes:
        kind: ``place``, ``window``, ``grain``, ``tone`` or ``bend``.
        x, y: middle of a place, shares of the image's width and height; None of the others.
        coherence: see ``Stamp``.
        p_value: of the rank test, not adjusted.
        p_adjusted: for all groups that were tested.
        n_tested: how many those are.
        by_captions: see ``Stamp``.
    """

    kind: str
    x: float | None
    y: float | None
    coherence: float
    p_value: float
    p_adjusted: float
    n_tested: int
    by_captions: bool


def write_stamps(run: RunFolder, stamps: Stamps) -> None:
    """Write evidence/stamps.json, number 1 first."""
    told = [
        Told(
            kind=stamp.kind,
            x=None if stamp.x is None else (stamp.x + 0.5) / GRID,
            y=None if stamp.y is None else (stamp.y + 0.5) / GRID,
            coherence=stamp.coherence,
            p_value=stamp.p_value,
            p_adjusted=stamp.p_adjusted,
            n_tested=stamp.n_tested,
            by_captions=stamp.by_captions,
        )
        for stamp in stamps.found
    ]
    write_json(run.file("evidence", FILE), [asdict(one) for one in told])


def read_stamps(run: RunFolder) -> list[Told]:
    """Read what ``write_stamps`` wrote."""
    return [Told(**one) for one in json.loads(run.file("evidence", FILE).read_text(encoding="utf-8"))]
