"""The learning rate over a run: a linear ramp, then a cosine down to zero."""

from __future__ import annotations

import math


def learning_rate(step: int, *, n_steps: int, n_warmup: int, peak: float) -> float:
    """Return the learning rate of a step.

    Args:
        step: from 0 to n_steps - 1.
        n_steps: of the whole run, at least 1.
        n_warmup: steps of the ramp, 0 to n_steps; the peak is reached at step ``n_warmup``.
        peak: highest rate.

    Source: the schedule of open_clip (``cosine_lr``). RoCLIP's code starts it one epoch late and overshoots its end
    (its step count begins at a full epoch); this does not.
    """
    if step < n_warmup:
        return peak * (step + 1) / (n_warmup + 1)
    done = (step - n_warmup) / max(1, n_steps - n_warmup)
    return 0.5 * peak * (1 + math.cos(math.pi * done))
