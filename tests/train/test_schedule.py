"""The learning rate, against open_clip's."""

from __future__ import annotations

import pytest
import torch

from roclip_audit.core.checkpoint import import_open_clip
from roclip_audit.train.schedule import learning_rate


@pytest.mark.parametrize(("n_steps", "n_warmup"), [(100, 0), (100, 21), (7, 7), (1, 0), (50, 49)])
def test_after_the_ramp_it_is_open_clips_cosine(n_steps: int, n_warmup: int) -> None:
    import_open_clip()
    from open_clip_train.scheduler import cosine_lr

    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = cosine_lr(optimiser, 3e-4, n_warmup, n_steps)
    for step in range(n_warmup, n_steps):
        ours = learning_rate(step, n_steps=n_steps, n_warmup=n_warmup, peak=3e-4)
        assert ours == pytest.approx(theirs(step), rel=1e-9)


def test_the_ramp_rises_in_equal_steps_to_the_peak() -> None:
    rates = [learning_rate(step, n_steps=20, n_warmup=4, peak=1.0) for step in range(20)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] < 0.02


def test_a_run_may_be_all_ramp() -> None:
    assert [learning_rate(step, n_steps=3, n_warmup=3, peak=1.0) for step in range(3)] == [0.25, 0.5, 0.75]
