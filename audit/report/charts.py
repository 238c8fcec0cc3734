"""The charts of the report: inline SVG without scripts and inline styles, which the page's policy forbids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from markupsafe import Markup

from roclip_audit.audit.report.axes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    across,
    decades,
    frame,
    round_ticks,
    svg,
    tick_text,
    upwards,
)
from roclip_audit.audit.report.facts import Cut, Scores
from roclip_audit.core.schema import FLAG_FDR
from roclip_audit.core.words import count, level, percent

LOG_FROM: Final = 20
"""Counts are drawn on a log scale where the highest bar is so many times the lowest."""
_LINE_PX: Final = 17
_LABEL_PX: Final = (38, 16)


def estimate_chart(share: tuple[float, float, float]) -> Markup:
    """Draw the estimated share of mismatched pairs as a dot on the interval around it."""
    estimate, low, high = share
    ticks = round_ticks(min(1.0, max(high * 1.15, 0.01)), 4)
    x = across(0.0, min(1.0, ticks[-1]))
    height, at = 74, 26
    parts = [Markup('<path class="axis" d="M{} {}H{}"/>').format(LEFT, 46, WIDTH - RIGHT)]
    for value in ticks:
        if value <= 1.0:
            parts.append(Markup('<path class="axis" d="M{} 46v4"/>').format(x(value)))
            text = level(value)
            parts.append(Markup('<text class="tick mid" x="{}" y="64">{}</text>').format(x(value), text))
    parts.append(Markup('<path class="span" d="M{} {}H{}"/>').format(x(low), at, x(high)))
    parts.append(Markup('<path class="ends" d="M{} {}v12M{} {}v12"/>').format(x(low), at - 6, x(high), at - 6))
    parts.append(Markup('<circle class="dot" cx="{}" cy="{}" r="6"/>').format(x(estimate), at))
    label = f"Estimated share of mismatched pairs: {percent(estimate)}, interval {percent(low)} to {percent(high)}"
    return svg(Markup("").join(parts), label=label, height=height)


def suspicion_chart(scores: Scores) -> Markup:
    """Draw how many pairs have which suspicion, with the lines where lists are cut."""
    filled = [n for n in scores.histogram if n]
    highest = max(filled, default=1)
    log = highest >= LOG_FROM * min(filled, default=1)
    ticks = decades(highest) if log else round_ticks(highest)
    x, y = across(0.0, 1.0), upwards(0.8 if log else 0.0, ticks[-1] * (1.05 if log else 1.0), log=log)
    title = "pairs, log scale" if log else "pairs"
    parts = [
        frame(
            Axis(
                scale=x,
                ticks=(0, 0.2, 0.4, 0.6, 0.8, 1),
                title="suspicion: P(caption and image are unrelated)",
            ),
            Axis(scale=y, ticks=ticks, title=title),
        )
    ]
    n_bins = len(scores.histogram)
    for i, n in enumerate(scores.histogram):
        if n:
            left, right, top = x(i / n_bins), x((i + 1) / n_bins), y(n)
            tip = f"{i / n_bins:g} to {(i + 1) / n_bins:g}: {count(n, 'pair')}"
            parts.append(
                Markup('<rect class="bar" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>').format(
                    left + 0.5, top, round(right - left - 1, 1), round(HEIGHT - BOTTOM - top, 1), tip
                )
            )
    parts += _flag_lines(scores.cuts)
    label = f"Distribution of suspicion over {count(sum(scores.histogram), 'pair')}; numbers in the table below"
    return svg(Markup("").join(parts), label=label)


def _flag_lines(cuts: Sequence[Cut]) -> list[Markup]:
    """Draw a line where each list ends, labelled to its left, each label on a line of its own."""
    x, parts = across(0.0, 1.0), []
    shown = [cut for cut in cuts if cut.lowest_suspicion is not None]
    for i, cut in enumerate(sorted(shown, key=lambda cut: cut.fdr)):
        at, top = x(cut.lowest_suspicion or 0.0), TOP + 6 + i * _LINE_PX
        parts.append(Markup('<path class="flag" d="M{} {}V{}"/>').format(at, top - 6, HEIGHT - BOTTOM))
        side, dx = ("end", -5) if at > LEFT + 140 else ("start", 5)
        text = f"FDR {level(cut.fdr)}: {count(cut.n_pairs, 'pair')}"
        parts.append(Markup('<text class="mark {}" x="{}" y="{}">{}</text>').format(side, at + dx, top + 4, text))
    return parts


def promise_chart(scores: Scores) -> Markup:
    """Draw how many sound pairs the n most suspicious are expected to hold, n up to the longest list."""
    n_last, m_last = scores.curve[-1]
    x_ticks, y_ticks = round_ticks(max(n_last, 1)), round_ticks(max(m_last, 1.0))
    x, y = across(0.0, max(n_last, 1)), upwards(0.0, y_ticks[-1])
    points = " ".join(f"{x(n)},{y(m)}" for n, m in scores.curve)
    parts = [
        frame(
            Axis(scale=x, ticks=[t for t in x_ticks if t <= n_last], title="pairs removed, the most suspicious first"),
            Axis(scale=y, ticks=y_ticks, title="of them sound, expected"),
        ),
        Markup('<polyline class="curve" points="{}"/>').format(points),
    ]
    dots = [(cut, x(cut.n_pairs), y(cut.expected_sound)) for cut in scores.cuts if cut.n_pairs]
    for cut, at_x, at_y in dots:
        tip = f"FDR {level(cut.fdr)}: remove {cut.n_pairs:,}, about {cut.expected_sound:,.0f} of them sound"
        parts.append(
            Markup('<circle class="dot" cx="{}" cy="{}" r="4"><title>{}</title></circle>').format(at_x, at_y, tip)
        )
    parts += _dot_labels(dots)
    label = f"Expected sound pairs among the removed ones, up to {tick_text(n_last)} pairs; numbers in the table"
    return svg(Markup("").join(parts), label=label)


def _dot_labels(dots: Sequence[tuple[Cut, float, float]]) -> list[Markup]:
    """Label the dots with their FDR, the flag's first; one that would cover another is left out, the table has it."""
    parts: list[Markup] = []
    taken: list[tuple[float, float]] = []
    for cut, at_x, at_y in sorted(dots, key=lambda dot: (dot[0].fdr != FLAG_FDR, -dot[0].fdr)):
        if all(abs(at_x - x) > _LABEL_PX[0] or abs(at_y - y) > _LABEL_PX[1] for x, y in taken):
            taken.append((at_x, at_y))
            side, dx = ("end", -8) if at_x > WIDTH - RIGHT - 20 else ("mid", 0)
            place = (side, at_x + dx, at_y - 9 if side == "mid" else at_y + 4, level(cut.fdr))
            parts.append(Markup('<text class="mark {}" x="{}" y="{}">{}</text>').format(*place))
    return parts


def meter(value: float, most: float) -> Markup:
    """Draw a small bar for a table cell; the number stands beside it, so it needs no words."""
    width = round(100 * min(1.0, value / most), 1) if most > 0 else 0
    return Markup(
        '<svg class="meter" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="rail" width="100" height="8"/><rect class="bar" width="{}" height="8"/></svg>'
    ).format(width)


def box_mark(box: tuple[float, float, float, float]) -> Markup:
    """Draw the frame of a trigger to lie over a picture, both from edge to edge."""
    x, y, width, height = (round(100 * min(1.0, max(0.0, side)), 2) for side in box)
    return Markup(
        '<svg class="mark-box" viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">'
        '<rect x="{}" y="{}" width="{}" height="{}"/></svg>'
    ).format(x, y, min(width, 100 - x), min(height, 100 - y))
