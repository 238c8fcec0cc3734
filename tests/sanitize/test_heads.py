"""The heads: their loss against open_clip's, and that they learn an alignment which they then have out of fold."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import normalize

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.parallel import map_ordered, one_thread_each
from roclip_audit.core.torchvision_compat import ensure_torchvision_importable
from roclip_audit.sanitize.heads import MAX_LOGIT_SCALE, Heads, HeadsConfig, info_nce, train_heads

SMALL = HeadsConfig(hidden=32, dim=8, epochs=10, batch_size=64, learning_rate=5e-3)
BRIEF = dataclasses.replace(SMALL, max_steps=3)


def unit(n: int, dim: int, seed: int) -> Tensor:
    return normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


@given(st.integers(1, 40), st.integers(1, 16), st.floats(-1, 4.5), st.integers(0, 99))
@settings(max_examples=25)
def test_loss_equals_open_clips_where_no_caption_repeats(n: int, dim: int, log_scale: float, seed: int) -> None:
    ensure_torchvision_importable()
    from open_clip import ClipLoss

    image, text, scale = unit(n, dim, seed), unit(n, dim, seed + 1), torch.tensor(log_scale)
    expected = ClipLoss()(image, text, scale.exp())
    torch.testing.assert_close(info_nce(image, text, torch.arange(n), scale), expected, rtol=1e-5, atol=1e-5)


def slow_loss(image: Tensor, text: Tensor, caption: list[int], scale: float) -> float:
    """Sum the two cross-entropies term by term, with the pairs of equal captions left out of the sums."""
    n = len(image)
    logit = (scale * image.double() @ text.double().T).tolist()
    total = 0.0
    for x in range(n):
        others = [y for y in range(n) if y == x or caption[y] != caption[x]]
        total += math.log(sum(math.exp(logit[x][y]) for y in others)) - logit[x][x]
        total += math.log(sum(math.exp(logit[y][x]) for y in others)) - logit[x][x]
    return total / (2 * n)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(0, 99))
@settings(max_examples=40)
def test_pairs_with_the_same_caption_are_not_each_others_negatives(captions: list[int], seed: int) -> None:
    image, text = unit(len(captions), 6, seed), unit(5, 6, seed + 1)[captions]
    got = info_nce(image, text, torch.tensor(captions), torch.tensor(math.log(7.0)))
    assert float(got) == pytest.approx(slow_loss(image, text, captions, 7.0), rel=1e-4, abs=1e-5)


def test_nothing_but_one_caption_teaches_nothing() -> None:
    image = unit(6, 4, 0).requires_grad_()
    loss = info_nce(image, unit(6, 4, 1), torch.zeros(6, dtype=torch.int64), torch.tensor(2.0))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0.0
    assert image.grad is not None
    assert not image.grad.any()


def test_the_temperature_has_a_limit() -> None:
    image, text, caption = unit(9, 4, 0), unit(9, 4, 1), torch.arange(9)
    assert info_nce(image, text, caption, torch.tensor(50.0)) == info_nce(
        image, text, caption, torch.tensor(MAX_LOGIT_SCALE)
    )


def toy(n: int, *, views: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Image and text features that are two noisy readings of the same hidden thing."""
    rng = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, 6, generator=rng)
    to_image, to_text = (torch.randn(6, dim, generator=torch.Generator().manual_seed(9)) for dim in (20, 15))
    image = (hidden @ to_image)[:, None] + 0.3 * torch.randn(n, views, 20, generator=rng)
    return 5 + 3 * image, hidden @ to_text + 0.3 * torch.randn(n, 15, generator=rng)


def mean_rank_share(heads: Heads, image_NVF: Tensor, text_NG: Tensor) -> float:
    score = heads.image(image_NVF)[:, 0] @ heads.text(text_NG).T
    return float((score > score.diagonal()[:, None]).float().mean())


def test_heads_learn_an_alignment_that_holds_for_pairs_they_never_saw() -> None:
    image, text = toy(400)
    heads = train_heads(image, text, torch.arange(400), torch.arange(300), SMALL, seed=0)
    assert mean_rank_share(heads, image[300:], text[300:]) < 0.03
    generator = torch.Generator().manual_seed(0)
    untrained = Heads.untrained(image, text, SMALL, generator)
    assert mean_rank_share(untrained, image[300:], text[300:]) > 0.3


def test_heads_learn_nothing_of_pairs_whose_captions_are_shuffled() -> None:
    image, text = toy(400)
    shuffled = text[torch.randperm(400, generator=torch.Generator().manual_seed(1))]
    longer = dataclasses.replace(SMALL, epochs=40)
    heads = train_heads(image, shuffled, torch.arange(400), torch.arange(300), longer, seed=0)
    assert 0.35 < mean_rank_share(heads, image[300:], text[300:]) < 0.65
    assert mean_rank_share(heads, image[:300], shuffled[:300]) < 0.3  # but memorise them: hence the folds


def test_only_the_given_rows_are_looked_at() -> None:
    image, text = toy(200)
    rows = torch.arange(0, 200, 2)
    spoiled, spoiled_text = image.clone(), text.clone()
    spoiled[1::2], spoiled_text[1::2] = torch.nan, torch.nan
    one = train_heads(image, text, torch.arange(200), rows, SMALL, seed=3)
    other = train_heads(spoiled, spoiled_text, torch.arange(200), rows, SMALL, seed=3)
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_the_seed_decides_and_the_number_of_workers_does_not() -> None:
    image, text = toy(150)

    def train(seed: int) -> dict[str, Tensor]:
        return dict(train_heads(image, text, torch.arange(150), torch.arange(150), SMALL, seed).state_dict())

    with one_thread_each():
        here = [train(1), train(2)]
    threads = list(map_ordered(train, [1, 2], workers=2))
    for one, other in zip(here, threads, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(here[0]["image.hidden.weight"], here[1]["image.hidden.weight"])


def test_training_touches_no_global_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    image, text = toy(30)
    train_heads(image, text, torch.arange(30), torch.arange(30), BRIEF, seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_heads_standardise_and_give_unit_vectors() -> None:
    image, text = toy(50)
    image[..., 0] = 7.0  # a feature that never changes
    heads = train_heads(image, text, torch.arange(50), torch.arange(50), BRIEF, 0)
    assert not heads.training
    assert not any(parameter.requires_grad for parameter in heads.parameters())
    for vectors in (heads.image(image), heads.text(text.half())):
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(vectors.shape[:-1]))
    assert heads.image(image).shape == (50, 2, 8)
    assert functional.cosine_similarity(heads.image(image)[:, 0], heads.image(image)[:, 1]).mean() > 0.5


def test_a_data_set_smaller_than_a_batch_and_one_of_two_pairs() -> None:
    for n in (2, 10):
        image, text = toy(n)
        heads = train_heads(image, text, torch.arange(n), torch.arange(n), BRIEF, 0)
        assert all(value.isfinite().all() for value in heads.state_dict().values())


def test_max_steps_is_a_limit() -> None:
    image, text = toy(64)
    few = dataclasses.replace(SMALL, max_steps=1)
    one = train_heads(image, text, torch.arange(64), torch.arange(64), few, seed=0)
    rows = torch.arange(64)
    rng = torch.Generator().manual_seed(0)
    sample = rows[torch.randperm(64, generator=rng)]
    start = Heads.untrained(image[sample], text[sample], few, rng)
    moved = (one.image.out.weight - start.image.out.weight).abs().max()
    assert 0 < moved < 2 * few.learning_rate  # one step of Adam moves a weight by at most about the learning rate


@pytest.mark.parametrize("name", ["hidden", "dim", "epochs", "batch_size", "max_steps"])
def test_refuses_settings_that_cannot_work(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        HeadsConfig(**{name: 0})
