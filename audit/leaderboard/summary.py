"""Numbers over seeds: the mean, and an interval that says how far to trust it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from roclip_audit.audit.leaderboard.rows import Row

# Two-sided 95 % quantiles of Student's t by degrees of freedom: the number of seeds - 1.
_T95: Final = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
_T95_MANY: Final = 2.228  # 10 degrees of freedom; a bit wide for more


class Setting(NamedTuple):
    """What one table is about."""

    data: str
    encoder: str
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A number over seeds.

    Attributes:
        value: mean.
        low, high: 95 % interval; None if there is none.
        n_seeds: seeds.
    """

    value: float
    low: float | None
    high: float | None
    n_seeds: int


def settings_of(rows: Iterable[Row]) -> list[Setting]:
    """Return the settings that rows are about, in the order in which they come."""
    return list(dict.fromkeys(Setting(row.data, row.encoder, row.rate) for row in rows))


def summarise(rows: Iterable[Row]) -> dict[tuple[Setting, str, str, str], Summary]:
    """Summarise rows over their seeds, by (setting, detector, attack, metric), in the order in which they come.

    From three seeds the interval is Student's t over the seeds' values: it covers other targets, other planted pairs
    and other heads. With one or two there is nothing to estimate that from, and the interval is that of the bootstrap
    over pairs within the runs (for two, with the standard error of their mean).
    """
    by_key: dict[tuple[Setting, str, str, str], list[Row]] = {}
    for row in rows:
        key = Setting(row.data, row.encoder, row.rate), row.detector, row.attack, row.metric
        by_key.setdefault(key, []).append(row)
    return {key: over_seeds(found) for key, found in by_key.items()}


def over_seeds(rows: Sequence[Row]) -> Summary:
    """Summarise the same number of several seeds; see ``summarise``."""
    values, n = np.array([row.value for row in rows]), len(rows)
    mean = float(values.mean())
    if n >= 3:
        half = _T95.get(n - 1, _T95_MANY) * float(values.std(ddof=1)) / n**0.5
        low, high = mean - half, mean + half
    elif n == 1:
        return Summary(value=mean, low=rows[0].low, high=rows[0].high, n_seeds=1)
    else:
        ends = [(row.low, row.high) for row in rows]
        known = [(low, high) for low, high in ends if low is not None and high is not None]
        if len(known) < n:
            return Summary(value=mean, low=None, high=None, n_seeds=n)
        half = float(np.sqrt(sum(((high - low) / 2) ** 2 for low, high in known))) / n
        low, high = mean - half, mean + half
    if all(0.0 <= value <= 1.0 for value in values):
        low, high = max(0.0, low), min(1.0, high)
    return Summary(value=mean, low=low, high=high, n_seeds=n)
