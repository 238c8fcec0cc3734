from __future__ import annotations

import json
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.nn import functional as F

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.progress import Progress, SilentReporter
from roclip_audit.core.shards import expand_shards
from roclip_audit.train.checkpoint import read_checkpoint
from roclip_audit.train.config import Recipe, TrainConfig
from roclip_audit.train.data.pairs import PairTable, read_pairs
from roclip_audit.train.methods import build_method
from roclip_audit.train.methods.base import Features, MethodSettings
from roclip_audit.train.methods.safeclip import SafeClip, upper_posterior
from roclip_audit.train.trainer import train
from tests.encoderkit import tiny_config
from tests.shardkit import make_dataset

SETTINGS = MethodSettings(
    n_pairs=200, batch_size=4, n_epochs=32, dim=6, seed=0, device=torch.device("cpu"), pool_share=0.04
)
FIRST_SPLIT = 7  # of 32 epochs: 5 of warm-up, a slow one


class KnownCosines:
    """An embedder that says what it is told."""

    def __init__(self, cosine_N: Tensor) -> None:
        self.cosine_N = cosine_N

    def texts(self, pairs: NDArray[np.int64]) -> Tensor:
        raise AssertionError("SafeCLIP asks for cosines only")

    def cosines(self) -> Tensor:
        return self.cosine_N

    def picture_numbers(self) -> NDArray[np.int64]:
        raise AssertionError("SafeCLIP asks for cosines only")


def two_clusters(*, n_high: int = 120, n_low: int = 80) -> Tensor:
    rng = np.random.default_rng(0)
    high, low = rng.normal(0.6, 0.05, n_high), rng.normal(0.1, 0.05, n_low)
    return torch.from_numpy(np.concatenate([high, low]))


def unit(n: int, seed: int, *, dim: int = 6) -> Tensor:
    return F.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=-1).requires_grad_()


def features(n: int = 4, *, n_views: int = 2, first_pair: int = 0, seed: int = 0) -> Features:
    return Features(
        image_VND=tuple(unit(n, seed + view) for view in range(n_views)),
        text_VND=tuple(unit(n, seed + 100 + view) for view in range(n_views)),
        scale=torch.tensor(10.0, requires_grad=True),
        pair_N=torch.arange(first_pair, first_pair + n),
    )


def cross_entropy(left_ND: Tensor, right_ND: Tensor, ignored: Set[tuple[int, int]] = frozenset()) -> float:
    """InfoNCE in numbers and loops, scale 10."""
    logits = 10 * left_ND.detach().double().numpy() @ right_ND.detach().double().numpy().T
    losses = []
    for rows in (logits, logits.T):
        for i, row in enumerate(rows):
            others = [np.exp(value) for j, value in enumerate(row) if (i, j) not in ignored]
            losses.append(-np.log(np.exp(row[i]) / sum(others)))
    return float(np.mean(losses))


def split(cosine_N: Tensor, epoch: int = FIRST_SPLIT) -> SafeClip:
    method = SafeClip.build(SETTINGS)
    method.begin_epoch(epoch, KnownCosines(cosine_N))
    return method


@pytest.mark.parametrize(("n_low", "mean", "spread"), [(1000, 0.6, 0.05), (300, 0.5, 0.1), (50, 0.7, 0.15)])
def test_the_mixture_is_that_of_scikit_learn(n_low: int, mean: float, spread: float) -> None:
    rng = np.random.default_rng(n_low)
    values = np.concatenate([rng.normal(0, 0.08, n_low), rng.normal(mean, spread, 1000)])
    known = GaussianMixture(2, random_state=0, tol=1e-9, max_iter=5000).fit(values[:, None])
    expected = known.predict_proba(values[:, None])[:, known.means_[:, 0].argmax()]
    assert np.allclose(upper_posterior(torch.from_numpy(values)), expected, atol=1e-3)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30))
def test_posteriors_are_probabilities_for_any_values(values: list[float]) -> None:
    posterior_N = upper_posterior(torch.tensor(values))
    assert posterior_N.shape == (len(values),)
    assert bool(((posterior_N >= 0) & (posterior_N <= 1)).all())


def test_equal_values_are_not_told_apart() -> None:
    assert torch.allclose(upper_posterior(torch.full((5,), 0.3)), torch.full((5,), 0.5, dtype=torch.float64))


@pytest.mark.parametrize(("n_epochs", "n_warmup"), [(32, 5), (64, 10), (16, 2), (4, 1), (3, 1)])
def test_the_warm_up_is_a_share_of_the_run(n_epochs: int, n_warmup: int) -> None:
    method = SafeClip.build(replace(SETTINGS, n_epochs=n_epochs))
    assert method.n_warmup == n_warmup
    rates = {epoch: method.rate(epoch) for epoch in range(1, n_epochs + 2)}
    assert [epoch for epoch, rate in rates.items() if rate != 1] == [n_warmup + 1]
    assert {len(method.views(epoch).image) for epoch in range(1, n_warmup + 1)} == {2}
    assert len(method.views(n_warmup + 1).image) == len(method.views(n_warmup + 1).text) == 1


def test_nothing_is_scored_before_the_first_split() -> None:
    method = SafeClip.build(SETTINGS)
    for epoch in range(1, FIRST_SPLIT):
        method.begin_epoch(epoch, KnownCosines(torch.empty(0)))
    assert not method.is_safe_N.any()


def test_the_first_split_is_that_of_the_mixture() -> None:
    method = split(two_clusters())
    assert torch.equal(method.is_safe_N, torch.arange(200) < 120)
    assert method.safe_share(FIRST_SPLIT) == 0.6


def test_the_safe_share_grows_by_a_hundredth_an_epoch_up_to_its_cap() -> None:
    cosine_N = two_clusters()
    method = split(cosine_N)
    for epoch in range(FIRST_SPLIT + 1, 40):
        method.begin_epoch(epoch, KnownCosines(cosine_N))
        n_safe = min(120 + 2 * (epoch - FIRST_SPLIT), 170)
        assert int(method.is_safe_N.sum()) == n_safe
        assert cosine_N[method.is_safe_N].min() > cosine_N[~method.is_safe_N].max()


def test_pairs_are_scored_anew_in_every_epoch() -> None:
    method = split(two_clusters())
    method.begin_epoch(FIRST_SPLIT + 1, KnownCosines(two_clusters().flip(0)))
    assert torch.equal(method.is_safe_N[80:], torch.ones(120, dtype=torch.bool))


def test_preparing_an_epoch_twice_changes_nothing() -> None:
    method = split(two_clusters())
    for _ in range(3):
        method.begin_epoch(FIRST_SPLIT + 2, KnownCosines(two_clusters()))
    assert int(method.is_safe_N.sum()) == 124


def test_a_split_that_finds_nothing_safe_grows_from_zero() -> None:
    method = split(torch.full((200,), 0.2))
    assert not method.is_safe_N.any()
    method.begin_epoch(FIRST_SPLIT + 1, KnownCosines(two_clusters()))
    assert int(method.is_safe_N.sum()) == 2


def test_warm_up_draws_view_two_to_the_neighbour_of_view_one() -> None:
    method = SafeClip.build(SETTINGS)
    first, second = features(first_pair=0), features(first_pair=4, seed=50)
    method.loss(first, 1)
    loss = method.loss(second, 1)
    expected = 0.0
    for queue_VND, views_VND in ((first.image_VND, second.image_VND), (first.text_VND, second.text_VND)):
        nearest = (views_VND[0] @ queue_VND[0].T).argmax(dim=1).tolist()
        same = {(i, j) for i in range(4) for j in range(4) if i != j and nearest[i] == nearest[j]}
        expected += cross_entropy(queue_VND[0][nearest], views_VND[1], same)
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)


def test_the_first_batch_finds_itself() -> None:
    batch = features()
    loss = SafeClip.build(SETTINGS).loss(batch, 1)
    (image_a, image_b), (text_a, text_b) = batch.image_VND, batch.text_VND
    expected = cross_entropy(image_a, image_b) + cross_entropy(text_a, text_b)
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)


def test_warm_up_moves_neither_modality_towards_the_other() -> None:
    method = SafeClip.build(SETTINGS)
    batch = features()
    images = method.loss(batch, 1).parts["images"]
    for gradient_ND in torch.autograd.grad(images, batch.text_VND, allow_unused=True, materialize_grads=True):
        assert bool((gradient_ND == 0).all())


def test_the_slow_epoch_is_clip() -> None:
    batch = features(n_views=1)
    loss = SafeClip.build(SETTINGS).loss(batch, FIRST_SPLIT - 1)
    assert loss.total.item() == pytest.approx(cross_entropy(batch.image_VND[0], batch.text_VND[0]), rel=1e-5)


def test_safe_pairs_meet_across_views_and_risky_ones_stay_alone() -> None:
    method = split(two_clusters())
    batch = features(6, first_pair=117)  # three safe, three risky
    loss = method.loss(batch, FIRST_SPLIT)
    (image_a, image_b), (text_a, text_b) = batch.image_VND, batch.text_VND
    safe = (cross_entropy(image_a[:3], text_b[:3]) + cross_entropy(image_b[:3], text_a[:3])) / 2
    risky = cross_entropy(image_a[3:], image_b[3:]) + cross_entropy(text_a[3:], text_b[3:])
    assert loss.parts["safe"].item() == pytest.approx(safe, rel=1e-5)
    assert loss.parts["risky"].item() == pytest.approx(risky, rel=1e-5)
    assert loss.total.item() == pytest.approx(safe + risky, rel=1e-5)
    assert loss.parts["safe_share"].item() == 0.5


def test_risky_pairs_get_no_gradient_from_the_other_modality() -> None:
    """The gradient of risky images does not change with any text, and is zero where no image depends on them."""
    method = split(two_clusters())
    batch = features(6, first_pair=117)
    other = replace(batch, text_VND=(unit(6, 900), unit(6, 901)))
    gradients = [torch.autograd.grad(method.loss(one, FIRST_SPLIT).total, one.image_VND) for one in (batch, other)]
    for before_ND, after_ND in zip(*gradients, strict=True):
        assert torch.equal(before_ND[3:], after_ND[3:])
        assert bool((before_ND[3:] != 0).any())
        assert not torch.allclose(before_ND[:3], after_ND[:3])
    safe = method.loss(batch, FIRST_SPLIT).parts["safe"]
    for gradient_ND in torch.autograd.grad(safe, (*batch.image_VND, *batch.text_VND)):
        assert bool((gradient_ND[3:] == 0).all())


@pytest.mark.parametrize("first_pair", [0, 190])
def test_a_batch_of_one_kind_has_a_finite_loss(first_pair: int) -> None:
    batch = features(first_pair=first_pair)
    loss = split(two_clusters()).loss(batch, FIRST_SPLIT)
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert loss.parts["risky" if first_pair == 0 else "safe"].item() == 0
    gradient_ND = batch.text_VND[1].grad
    assert gradient_ND is not None
    assert torch.isfinite(gradient_ND).all()


def test_a_restored_method_goes_on_as_the_old_one() -> None:
    old, new = (SafeClip.build(SETTINGS) for _ in range(2))
    old.loss(features(), 1)
    old.begin_epoch(FIRST_SPLIT, KnownCosines(two_clusters()))
    new.restore({name: tensor.clone() for name, tensor in old.state().items()})
    assert {name: tensor.shape for name, tensor in new.state().items()} == {
        name: tensor.shape for name, tensor in SafeClip.build(SETTINGS).state().items()
    }
    batch = features(6, first_pair=117)
    for epoch in (1, FIRST_SPLIT):
        assert torch.equal(old.loss(batch, epoch).total, new.loss(batch, epoch).total)
    assert new.safe_share(FIRST_SPLIT + 3) == old.safe_share(FIRST_SPLIT + 3)


@pytest.mark.parametrize("wrong", [{"augment": False}, {"pool_share": 0.0}, {"n_epochs": 2}])
def test_settings_that_cannot_work_fail_at_once(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"augment|pool share|more --epochs"):
        build_method("safeclip", replace(SETTINGS, **wrong))  # type: ignore[arg-type]


class StopAfter(SilentReporter):
    """Interrupts a run after so many trained pairs."""

    def __init__(self, n_pairs: int) -> None:
        self.n_left = n_pairs

    @contextmanager
    def stage(self, name: str, total: int, *, unit: str = "pairs") -> Iterator[Progress]:
        if name == "train":
            yield self
        else:
            with super().stage(name, total, unit=unit) as progress:
                yield progress

    def advance(self, n: int, *, n_errors: int = 0, reused: bool = False, detail: str = "") -> None:
        self.n_left -= n
        if self.n_left <= 0:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> PairTable:
    folder = tmp_path_factory.mktemp("shards")
    make_dataset(folder, n_pairs=40, px=32)
    return read_pairs(expand_shards([str(folder)]))


def test_a_run_of_four_epochs_and_one_that_was_interrupted_agree(table: PairTable, tmp_path: Path) -> None:
    model = tmp_path / "tiny.json"
    config = tiny_config()
    config["text_cfg"]["context_length"] = 16
    model.write_text(json.dumps(config), encoding="utf-8")
    recipe = Recipe(model=str(model), epochs=4, batch_size=8, lr=1e-3)
    whole = TrainConfig(out=tmp_path / "whole", recipe=recipe, method="safeclip", device="cpu", workers=1)
    report = train(whole, table)
    assert report.n_steps == 20
    assert np.isfinite(report.loss)

    broken = replace(whole, out=tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        train(broken, table, reporter=StopAfter(8 * 12))  # in the third epoch, the first with safe pairs
    assert read_checkpoint(broken.out / "checkpoint.safetensors").cursor.epoch == 3
    train(broken, table, resume=True)
    name = "model/open_clip_model.safetensors"
    assert (whole.out / name).read_bytes() == (broken.out / name).read_bytes()
