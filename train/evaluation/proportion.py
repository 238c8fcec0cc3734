"""A share with its 95 % interval: every number of an evaluation that counts something."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from roclip_audit.core.significance import wilson_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportion:
    """k of n.

    Args:
        k: successes.
        n: trials; with none there is no share, and the interval is (0, 1).
        low, high: Wilson's 95 % interval.
    """

    k: int
    n: int
    low: float
    high: float

    @classmethod
    def of(cls, k: int, n: int) -> Self:
        """Count ``k`` of ``n``."""
        low, high = wilson_interval(k, n)
        return cls(k=k, n=n, low=low, high=high)

    @classmethod
    def pooled(cls, parts: Iterable[Proportion]) -> Self:
        """Count several together.

        Trials on the same pictures are not independent, so the interval is too narrow for them.
        """
        counts = [(part.k, part.n) for part in parts]
        return cls.of(sum(k for k, _ in counts), sum(n for _, n in counts))

    @property
    def share(self) -> float | None:
        """The share of successes, 0 to 1; None without trials."""
        return self.k / self.n if self.n else None

    def as_json(self) -> dict[str, object]:
        """Return the numbers as JSON values."""
        return {"share": self.share, "low": self.low, "high": self.high, "k": self.k, "n": self.n}
