"""What every training method promises, whatever it does."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.methods import METHODS, build_method
from roclip_audit.train.methods.base import Features, ImageView, Loss, Method, MethodSettings, TextView
from tests.train.trainkit import FakeEmbedder, unit

N_PAIRS, BATCH, DIM, N_EPOCHS = 24, 6, 8, 6
SETTINGS = MethodSettings(
    n_pairs=N_PAIRS, batch_size=BATCH, n_epochs=N_EPOCHS, dim=DIM, seed=3, device=torch.device("cpu"), pool_share=0.5
)
CASES = [
    *((name, SETTINGS) for name in METHODS),
    ("roclip", replace(SETTINGS, strict=True)),
    ("roclip", replace(SETTINGS, contest=0.1)),
]
EVERY = pytest.mark.parametrize(
    ("name", "settings"),
    CASES,
    ids=[f"{name}{'-strict' * case.strict}{'-contest' * (case.contest > 0)}" for name, case in CASES],
)


def features_of(method: Method, epoch: int, step: int, *, grad: bool = True) -> Features:
    views = method.views(epoch)
    place = 100 * epoch + 10 * step

    def side(n_views: int, first: int) -> tuple[torch.Tensor, ...]:
        return tuple(unit(BATCH, DIM, seed=place + first + v).requires_grad_(grad) for v in range(n_views))

    return Features(
        image_VND=side(len(views.image), 0),
        text_VND=side(len(views.text), 5),
        scale=torch.tensor(14.0, requires_grad=grad),
        pair_N=torch.arange(step * BATCH, (step + 1) * BATCH) % N_PAIRS,
        judge_ND=None if views.judge is None else unit(BATCH, DIM, seed=place + 9),
    )


def train_epochs(method: Method, first: int, last: int) -> list[float]:
    losses = []
    embedder = FakeEmbedder(N_PAIRS, DIM)
    for epoch in range(first, last + 1):
        method.begin_epoch(epoch, embedder)
        losses += [float(method.loss(features_of(method, epoch, s, grad=False), epoch).total) for s in range(4)]
    return losses


@EVERY
def test_views_are_known_and_at_least_one_of_either_side(name: str, settings: MethodSettings) -> None:
    method = build_method(name, settings)
    assert method.name == name
    for epoch in range(1, N_EPOCHS + 1):
        views = method.views(epoch)
        assert views.image
        assert views.text
        assert set(views.image) <= set(get_args(ImageView))
        assert set(views.text) <= set(get_args(TextView))


@EVERY
def test_the_loss_is_a_finite_scalar_with_a_gradient_for_the_images(name: str, settings: MethodSettings) -> None:
    method = build_method(name, settings)
    for epoch in range(1, N_EPOCHS + 1):
        method.begin_epoch(epoch, FakeEmbedder(N_PAIRS, DIM))
        features = features_of(method, epoch, 0)
        loss = method.loss(features, epoch)
        assert isinstance(loss, Loss)
        assert loss.total.shape == ()
        assert loss.total.isfinite()
        assert all(part.shape == () for part in loss.parts.values())
        loss.total.backward()
        gradients = [tensor.grad for tensor in features.image_VND if tensor.grad is not None]
        assert gradients
        assert all(gradient.isfinite().all() for gradient in gradients)
        if not method.is_matched(epoch) and method.trains_text(epoch):
            assert any(tensor.grad is not None and tensor.grad.any() for tensor in features.text_VND)


@EVERY
def test_a_restored_method_goes_on_alike(name: str, settings: MethodSettings) -> None:
    for stop in range(1, N_EPOCHS):
        whole = build_method(name, settings)
        train_epochs(whole, 1, stop)
        state = {key: tensor.clone() for key, tensor in whole.state().items()}
        resumed = build_method(name, settings)
        resumed.restore(state)
        assert train_epochs(resumed, stop + 1, N_EPOCHS) == train_epochs(whole, stop + 1, N_EPOCHS)


@EVERY
def test_a_method_restored_within_an_epoch_goes_on_alike(name: str, settings: MethodSettings) -> None:
    """An epoch that is resumed in its middle is not begun anew."""
    for epoch in range(1, N_EPOCHS + 1):
        whole = build_method(name, settings)
        train_epochs(whole, 1, epoch - 1)
        whole.begin_epoch(epoch, FakeEmbedder(N_PAIRS, DIM))
        whole.loss(features_of(whole, epoch, 0, grad=False), epoch)
        resumed = build_method(name, settings)
        resumed.restore({key: tensor.clone() for key, tensor in whole.state().items()})
        for step in (1, 2):
            expected = whole.loss(features_of(whole, epoch, step, grad=False), epoch)
            found = resumed.loss(features_of(resumed, epoch, step, grad=False), epoch)
            assert torch.equal(found.total, expected.total)


@EVERY
def test_is_deterministic(name: str, settings: MethodSettings) -> None:
    losses = [train_epochs(build_method(name, settings), 1, N_EPOCHS) for _ in range(2)]
    assert losses[0] == losses[1]


@EVERY
def test_state_is_tensors_that_a_checkpoint_can_hold(name: str, settings: MethodSettings) -> None:
    method = build_method(name, settings)
    method.begin_epoch(1, FakeEmbedder(N_PAIRS, DIM))
    before = method.state()
    train_epochs(method, 1, 2)
    assert all(isinstance(tensor, torch.Tensor) for tensor in method.state().values())
    assert {key: (t.shape, t.dtype) for key, t in before.items()} == {
        key: (t.shape, t.dtype) for key, t in method.state().items()
    }


@EVERY
def test_a_batch_may_be_smaller_where_pictures_are_unreadable(name: str, settings: MethodSettings) -> None:
    method = build_method(name, settings)
    for epoch in range(1, N_EPOCHS + 1):
        method.begin_epoch(epoch, FakeEmbedder(N_PAIRS, DIM))
        whole = features_of(method, epoch, 0, grad=False)
        some = Features(
            image_VND=tuple(tensor[:3] for tensor in whole.image_VND),
            text_VND=tuple(tensor[:3] for tensor in whole.text_VND),
            scale=whole.scale,
            pair_N=whole.pair_N[:3],
            judge_ND=None if whole.judge_ND is None else whole.judge_ND[:3],
        )
        assert method.loss(some, epoch).total.isfinite()


@EVERY
def test_the_rate_is_a_positive_factor(name: str, settings: MethodSettings) -> None:
    method = build_method(name, settings)
    assert all(method.rate(epoch) > 0 for epoch in range(1, N_EPOCHS + 1))


def test_an_unknown_method_names_the_others() -> None:
    with pytest.raises(ConfigError, match=", ".join(METHODS)):
        build_method("moco", SETTINGS)
