"""The frame of a chart: scales, round ticks, and the SVG of axes with titles and units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup, escape

WIDTH: Final = 480
HEIGHT: Final = 270
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 46


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Maps values to pixels; ``log`` takes the logarithm first, so that values must be above 0."""

    low: float
    high: float
    first_px: float
    last_px: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the place of a value to a tenth of a pixel; one outside of the scale is moved to its end."""
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, self._within(value)))
        share = (at - low) / (high - low) if high > low else 0.0
        return round(self.first_px + share * (self.last_px - self.first_px), 1)

    def _within(self, value: float) -> float:
        return min(max(value, self.low), self.high)


def across(low: float, high: float) -> Scale:
    """Return a scale from left to right."""
    return Scale(low=low, high=high, first_px=LEFT, last_px=WIDTH - RIGHT)


def upwards(low: float, high: float, *, log: bool = False) -> Scale:
    """Return a scale from the bottom to the top."""
    return Scale(low=low, high=high, first_px=HEIGHT - BOTTOM, last_px=TOP, log=log)


def round_ticks(high: float, n: int = 5) -> tuple[float, ...]:
    """Return about n ticks from 0 to at least ``high``, at multiples of 1, 2 or 5 times a power of ten."""
    if high <= 0:
        return (0.0, 1.0)
    rough = high / n
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    return tuple(round(i * step, 12) for i in range(math.ceil(high / step - 1e-9) + 1))


def decades(high: float) -> tuple[float, ...]:
    """Return 1, 10, 100, ... up to the first that is not below ``high``."""
    return tuple(10.0**i for i in range(max(1, math.ceil(math.log10(max(high, 1)) - 1e-9)) + 1))


def tick_text(value: float) -> str:
    """Return 0.2, 15, 1,000, 20 k, 3 M."""
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if value >= factor:
            shown = value / (1e3 if unit == " k" else factor)
            return f"{shown:g}{unit}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis: scale, ticks and what it shows, unit included."""

    scale: Scale
    ticks: Sequence[float]
    title: str


def frame(x: Axis, y: Axis) -> Markup:
    """Return grid lines, tick labels and axis titles."""
    left, right, bottom = LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for value in y.ticks:
        at = y.scale(value)
        parts.append(Markup('<path class="grid" d="M{} {}H{}"/>').format(left, at, right))
        parts.append(
            Markup('<text class="tick end" x="{}" y="{}">{}</text>').format(left - 7, at + 4, tick_text(value))
        )
    for value in x.ticks:
        at = x.scale(value)
        parts.append(Markup('<path class="axis" d="M{} {}v4"/>').format(at, bottom))
        parts.append(Markup('<text class="tick mid" x="{}" y="{}">{}</text>').format(at, bottom + 18, tick_text(value)))
    parts.append(Markup('<path class="axis" d="M{} {}H{}"/>').format(left, bottom, right))
    middle = (left + right) / 2
    parts.append(Markup('<text class="title mid" x="{}" y="{}">{}</text>').format(middle, HEIGHT - 8, x.title))
    height = (TOP + bottom) / 2
    parts.append(
        Markup('<text class="title mid" transform="translate(13 {}) rotate(-90)">{}</text>').format(height, y.title)
    )
    return Markup("").join(parts)


def svg(content: Markup, *, label: str, height: int = HEIGHT) -> Markup:
    """Wrap a drawing, with the text that stands for it where it cannot be seen."""
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, escape(label), content
    )
