"""Draw the loss of a run as SVG.

Matched epochs are shaded: their loss is on a scale of its own (the positives are the nearest captions of a pool), so
the two kinds of epoch have a line each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from roclip_audit.core.run import write_atomic

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 320, 58, 14, 30, 42
_TICKS: Final = (1, 2, 5)
_STYLE: Final = (
    "text{font:12px sans-serif;fill:#444}.grid{stroke:#ddd}.matched{fill:#f3e6d3}"
    ".own{stroke:#2a6f97}.pool{stroke:#b5541c}polyline{fill:none;stroke-width:1.6}"
)


def write_loss_plot(entries: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the plot of a run's metrics; nothing if there are none.

    Args:
        entries: lines of ``metrics.jsonl``.
        path: the SVG.
    """
    if entries:
        text = loss_svg(entries)
        write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def loss_svg(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return the plot as SVG text: loss over steps, one line an epoch, matched epochs shaded.

    A loss that is no finite number has no point.
    """
    n_steps = max(int(entry["n_steps_done"]) for entry in entries)
    top = max((float(entry["loss"]) for entry in entries if math.isfinite(entry["loss"])), default=0.0) * 1.05 or 1.0

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / n_steps

    def y(loss: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * loss / top

    shades, lines = [], []
    start = 0
    for _, group in groupby(entries, key=lambda entry: entry["epoch"]):
        epoch = list(group)
        end = int(epoch[-1]["n_steps_done"])
        is_matched = bool(epoch[0]["is_matched"])
        if is_matched:
            shades.append(
                f'<rect class="matched" x="{x(start):.1f}" y="{TOP}" width="{x(end) - x(start):.1f}" '
                f'height="{HEIGHT - TOP - BOTTOM}"/>'
            )
        drawn = [entry for entry in epoch if math.isfinite(entry["loss"])]
        points = " ".join(f"{x(entry['n_steps_done']):.1f},{y(entry['loss']):.1f}" for entry in drawn)
        lines.append(f'<polyline class="{"pool" if is_matched else "own"}" points="{points}"/>')
        start = end
    grid = [
        f'<path class="grid" d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
        for value in _ticks(top)
    ]
    steps = [
        f'<text x="{x(value):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value:,.0f}</text>'
        for value in _ticks(n_steps)
        if value == int(value)
    ]
    legend = (
        f'<text x="{LEFT}" y="18">loss</text>'
        f'<text x="{WIDTH - RIGHT}" y="18" text-anchor="end">shaded: matched epochs (nearest pool caption)</text>'
        f'<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">steps</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="Loss over {n_steps} steps"><style>{_STYLE}</style>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
        f"{''.join([*shades, *grid, *lines, *steps])}{legend}</svg>\n"
    )


def _ticks(top: float) -> list[float]:
    """Return about five round values from 0 to ``top``."""
    scale = 10.0 ** (math.floor(math.log10(top)) - 1)
    step = next(tick * scale * factor for factor in (1, 10) for tick in _TICKS if top / (tick * scale * factor) <= 6)
    return [step * number for number in range(int(top / step) + 1)]
