"""AUROC by attack as a figure: our rankings and every peer on one axis per attack. Plain SVG, no dependency.

One panel a setting. In each row the interval and the dot of ``risk`` and of ``suspicion``, and the peers as ticks, the
best of them named. The best peer is chosen row by row, with hindsight: it is the hardest one to beat.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final

from roclip_audit.audit.leaderboard.rows import ALL, Row
from roclip_audit.audit.leaderboard.summary import Setting, Summary, settings_of, summarise
from roclip_audit.core.run import write_atomic
from roclip_audit.core.terminal import printable

SHOWN: Final = ("risk", "suspicion")
"""Of ours, what people sort by; the first is the default order."""

_LEFT, _AXIS, _RIGHT = 150, 520, 240
_ROW, _HEAD, _FOOT, _GAP = 34, 62, 44, 14
_WIDTH: Final = _LEFT + _AXIS + _RIGHT
_COLOURS: Final = {"risk": "#0b5fa5", "suspicion": "#d1661b"}
_INK, _FAINT, _GRID, _PEER = "#1c1c1c", "#666666", "#dddddd", "#8a8a8a"
_STYLE: Final = "font-family:system-ui,'DejaVu Sans',Arial,sans-serif"
_NAME_CHARS: Final = 90

Summaries = Mapping[tuple[Setting, str, str, str], Summary]


def write_figure(path: Path, rows: Sequence[Row], *, peers: Sequence[str]) -> None:
    """Write the figure; one without panels if there is nothing to show."""
    write_atomic(path, lambda temporary: temporary.write_text(svg(rows, peers=peers), encoding="utf-8"))


def svg(rows: Sequence[Row], *, peers: Sequence[str]) -> str:
    """Return the figure as SVG text. Names come from users and shards, and are escaped."""
    aurocs = [row for row in rows if row.metric == "auroc"]
    summaries, y = summarise(aurocs), 0
    parts: list[str] = []
    for setting in settings_of(aurocs):
        here = [row for row in aurocs if (row.data, row.encoder, row.rate) == setting]
        attacks = list(dict.fromkeys(row.attack for row in here if row.attack != ALL))
        parts += _panel(setting, attacks, summaries, peers, y)
        y += _HEAD + _ROW * len(attacks) + _FOOT + _GAP
    height = max(1, y)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label="AUROC by attack" style="{_STYLE}">'
    )
    return "\n".join([head, f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>', *parts, "</svg>"]) + "\n"


def _panel(
    setting: Setting, attacks: Sequence[str], summaries: Summaries, peers: Sequence[str], top: int
) -> Iterator[str]:
    title = printable(f"{setting.data}, encoder {setting.encoder}, rate {setting.rate:g}", limit=_NAME_CHARS)
    yield _text(_LEFT, top + 20, title, size=14, weight=600)
    yield from _legend(top + 42)
    first, last = top + _HEAD, top + _HEAD + _ROW * len(attacks)
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        dash = ' stroke-dasharray="4 3"' if tick == 0.5 else ""  # what guessing gets
        yield f'<path d="M{_x(tick):.1f} {first}V{last}" stroke="{_GRID}"{dash}/>'
        yield _text(_x(tick), last + 16, f"{tick:g}", anchor="middle", ink=_FAINT)
    yield _text(_LEFT + _AXIS / 2, last + 34, "AUROC (planted against left alone; 0.5 = chance)", anchor="middle")
    for number, attack in enumerate(attacks):
        y = first + _ROW * number + _ROW / 2
        yield _text(_LEFT - 12, y + 4, printable(attack, limit=_NAME_CHARS), anchor="end")
        yield f'<path d="M{_LEFT} {y:.1f}H{_LEFT + _AXIS}" stroke="{_GRID}"/>'
        yield from _row(setting, attack, summaries, peers, y)


def _row(setting: Setting, attack: str, summaries: Summaries, peers: Sequence[str], y: float) -> Iterator[str]:
    found = {
        name: one for name in (*peers, *SHOWN) if (one := summaries.get((setting, name, attack, "auroc"))) is not None
    }
    theirs = {name: one for name, one in found.items() if name in peers}
    for one in theirs.values():
        yield f'<path d="M{_x(one.value):.1f} {y - 5:.1f}v10" stroke="{_PEER}" stroke-width="1.5"/>'
    if theirs:
        best = max(theirs, key=lambda name: theirs[name].value)
        text = printable(f"best peer {theirs[best].value:.2f} {best}", limit=_NAME_CHARS)
        x = _x(theirs[best].value)
        yield f'<path d="M{x:.1f} {y - 8:.1f}v16" stroke="{_INK}" stroke-width="2.5"/>'
        yield _text(_LEFT + _AXIS + 12, y + 4, text, ink=_FAINT)
    for name, offset in zip(SHOWN, (-5.0, 5.0), strict=True):
        if name in found:
            yield from _dot(found[name], _COLOURS[name], y + offset)


def _dot(one: Summary, colour: str, y: float) -> Iterator[str]:
    if one.low is not None and one.high is not None:
        ends = f"M{_x(one.low):.1f} {y:.1f}H{_x(one.high):.1f}"
        yield f'<path d="{ends}" stroke="{colour}" stroke-width="2" stroke-opacity="0.55"/>'
    yield f'<circle cx="{_x(one.value):.1f}" cy="{y:.1f}" r="4.2" fill="{colour}"/>'


def _legend(y: int) -> Iterator[str]:
    x = _LEFT
    for name in SHOWN:
        yield f'<circle cx="{x + 5}" cy="{y}" r="4.2" fill="{_COLOURS[name]}"/>'
        yield _text(x + 14, y + 4, name, ink=_FAINT)
        x += 90
    yield f'<path d="M{x + 4} {y - 5}v10" stroke="{_PEER}" stroke-width="1.5"/>'
    yield _text(x + 12, y + 4, "a peer", ink=_FAINT)
    yield f'<path d="M{x + 74} {y - 8}v16" stroke="{_INK}" stroke-width="2.5"/>'
    yield _text(x + 82, y + 4, "the best peer of the row", ink=_FAINT)


def _x(share: float) -> float:
    return _LEFT + _AXIS * min(1.0, max(0.0, share))


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, ink: str = _INK, weight: int = 400
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
        f'fill="{ink}">{escape(text)}</text>'
    )
