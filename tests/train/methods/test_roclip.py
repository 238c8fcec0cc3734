"""RoCLIP: matched epochs, by hand and through a real model."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.losses import info_nce
from roclip_audit.train.methods import build_method
from roclip_audit.train.methods.base import Features, MethodSettings
from roclip_audit.train.methods.roclip import LEAST_WINNERS, LEAST_WINNERS_REPEATED, RoClip, pool_size
from roclip_audit.train.model import is_text_parameter, new_model
from roclip_audit.train.pool import CaptionPool
from tests.train.trainkit import FakeEmbedder, unit, write_model

SETTINGS = MethodSettings(
    n_pairs=20, batch_size=4, n_epochs=4, dim=6, seed=0, device=torch.device("cpu"), pool_share=0.4
)
STRICT = MethodSettings(
    n_pairs=20, batch_size=4, n_epochs=4, dim=6, seed=0, device=torch.device("cpu"), pool_share=0.4, strict=True
)


def built(settings: MethodSettings) -> RoClip:
    method = build_method("roclip", settings)
    assert isinstance(method, RoClip)
    return method


def batch(*, seed: int = 0, first: int = 0, n: int = 4, dim: int = 6) -> Features:
    images, texts = unit(n, dim, seed=2 * seed), unit(n, dim, seed=2 * seed + 1)
    scale = torch.tensor(10.0, requires_grad=True)
    return Features(
        image_VND=(images.requires_grad_(True),),
        text_VND=(texts.requires_grad_(True),),
        scale=scale,
        pair_N=torch.arange(first, first + n),
    )


def by_hand(rows: list[list[float]], columns: list[list[float]], scale: float) -> float:
    """Return the symmetric InfoNCE loss with the standard library."""
    n = len(rows)
    logits = [[scale * sum(a * b for a, b in zip(row, column, strict=True)) for column in columns] for row in rows]
    across = [math.log(sum(map(math.exp, logits[i]))) - logits[i][i] for i in range(n)]
    down = [math.log(sum(math.exp(logits[j][i]) for j in range(n))) - logits[i][i] for i in range(n)]
    return (sum(across) / n + sum(down) / n) / 2


IMAGES = [[1.0, 0.0], [0.6, 0.8]]
TEXTS = [[0.0, 1.0], [-1.0, 0.0]]
POOL = [[0.96, 0.28], [0.0, 1.0], [-0.6, -0.8]]


def hand_made(*, strict: bool) -> tuple[RoClip, Features]:
    """Return N=2 pairs (numbers 7 and 8) and a pool of P=3 rows, of which row 1 belongs to pair 8; D=2."""
    pool = CaptionPool(3, 2, strict=strict)
    pool.put(torch.tensor(POOL), torch.tensor([1, 8, 3]))
    method = RoClip(pool, match_every=2, augment=True, seed=0, n_pairs=20)
    features = Features(
        image_VND=(torch.tensor(IMAGES),),
        text_VND=(torch.tensor(TEXTS),),
        scale=torch.tensor(3.0),
        pair_N=torch.tensor([7, 8]),
    )
    return method, features


def test_strict_loss_by_hand() -> None:
    """Cosines of the images and the pool: [.96, 0, -.6] and [.8, .8, -1.]: the first of two equal ones wins."""
    method, features = hand_made(strict=True)
    method.pool.rows_PD[0] = torch.tensor([0.936, 0.352])  # now .936, 0, -.6 and .8432, .8, -1.
    expected = by_hand([[0.936, 0.352]] * 2, IMAGES, 3.0)
    assert float(method.loss(features, 2).total) == pytest.approx(expected, rel=1e-5)
    assert method.pool.owner_P.tolist() == [7, 8, 3]  # the refresh came after
    assert float(hand_made(strict=True)[0].loss(features, 1).total) == pytest.approx(by_hand(IMAGES, TEXTS, 3.0))


def test_strict_takes_its_own_caption_and_the_raw_row() -> None:
    method, features = hand_made(strict=True)
    method.pool.rows_PD.copy_(torch.tensor([[4.8, 1.4], [1.2, 1.6], [-0.6, -0.8]]))  # 5 and 2 long
    expected = by_hand([[4.8, 1.4], [1.2, 1.6]], IMAGES, 3.0)  # image 1 matches row 1, which is its own caption
    assert float(method.loss(features, 2).total) == pytest.approx(expected, rel=1e-5)


def test_fixed_loss_by_hand() -> None:
    method, features = hand_made(strict=False)
    method.pool.rows_PD[1] = torch.tensor([0.6, 0.8])  # the nearest of image 1, but its own caption
    method.pool.rows_PD[2] = torch.tensor([0.28, 0.96])  # .936 to image 1; row 0 is .8
    expected = by_hand([POOL[0], [0.28, 0.96]], IMAGES, 3.0)
    loss = method.loss(features, 2)
    assert float(loss.total) == pytest.approx(expected, rel=1e-5)
    assert float(loss.parts["shared_neighbours"]) == 0.0
    assert method.pool.owner_P.tolist() == [7, 8, 3]


def test_fixed_masks_images_that_share_a_neighbour() -> None:
    """With one row filled, both match it: neither is the other's negative, so nothing is left to lose."""
    _, features = hand_made(strict=False)
    method = RoClip(CaptionPool(3, 2), match_every=2, augment=True, seed=0, n_pairs=20)
    method.pool.put(torch.tensor(POOL[:1]), torch.tensor([1]))
    loss = method.loss(features, 2)
    assert float(loss.total) == pytest.approx(0.0, abs=1e-7)
    assert float(loss.parts["shared_neighbours"]) == 1.0


@pytest.mark.parametrize(("every", "matched"), [(1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3]), (9, [])])
def test_every_kth_epoch_is_matched(every: int, matched: list[int]) -> None:
    method = RoClip(CaptionPool(4, 6), match_every=every, augment=True, seed=0, n_pairs=20)
    assert [epoch for epoch in range(1, 5) if method.is_matched(epoch)] == matched


@pytest.mark.parametrize(("strict", "matched"), [(False, [4]), (True, [2, 4])])
def test_the_first_matched_epoch_may_come_later(strict: bool, matched: list[int]) -> None:
    settings = MethodSettings(
        n_pairs=20, batch_size=4, n_epochs=4, dim=6, seed=0, device=torch.device("cpu"), strict=strict, match_after=0.5
    )
    assert [epoch for epoch in range(1, 5) if built(settings).is_matched(epoch)] == matched


@pytest.mark.parametrize(
    ("changes", "n_epochs", "says"),
    [
        ({"match_every": 4}, 4, "epochs 3: none.*would be epoch 4: more --epochs, or a smaller --match-every .it is 4"),
        ({"match_every": 4, "match_after": 0.25, "strict": True}, 4, "would be epoch 4:.*--match-every .it is 4.$"),
        ({"match_every": 2, "match_after": 0.5}, 4, "epochs 3: none.*would be epoch 4:.* or --match-after .it is 0.5."),
    ],
)
def test_a_run_without_a_matched_epoch_is_refused(changes: dict[str, Any], n_epochs: int, says: str) -> None:
    """It would be plain training by the name of a defence."""
    enough = built(replace(SETTINGS, n_epochs=n_epochs, **changes))
    assert [epoch for epoch in range(1, n_epochs + 1) if enough.is_matched(epoch)] == [n_epochs]
    with pytest.raises(ConfigError, match=says):
        built(replace(SETTINGS, n_epochs=n_epochs - 1, **changes))


@pytest.mark.parametrize("settings", [SETTINGS, STRICT], ids=["fixed", "strict"])
def test_epoch_1_is_plain_clip(settings: MethodSettings) -> None:
    features = batch()
    expected = info_nce(features.image_VND[0], features.text_VND[0], features.scale)
    assert torch.equal(built(settings).loss(features, 1).total, expected)


def test_strict_refreshes_in_matched_epochs_only() -> None:
    method = built(STRICT)
    noise = method.pool.rows_PD.clone()
    embedder = FakeEmbedder(20, 6)
    method.begin_epoch(1, embedder)
    method.loss(batch(seed=1), 1)
    method.begin_epoch(2, embedder)
    assert torch.equal(method.pool.rows_PD, noise)
    assert embedder.asked == []
    features = batch(seed=2)
    method.loss(features, 2)
    assert torch.equal(method.pool.rows_PD[:4], features.text_VND[0])
    assert torch.equal(method.pool.rows_PD[4:], noise[4:])


def test_strict_asks_the_pool_before_it_is_refreshed() -> None:
    """Were the batch's own captions in the pool at the query, each image would match the one that equals it."""
    method = built(STRICT)
    images = unit(4, 6, seed=3)
    features = Features(
        image_VND=(images,), text_VND=(images.clone(),), scale=torch.tensor(10.0), pair_N=torch.arange(4)
    )
    before = method.pool.rows_PD.clone()
    nearest = (images @ F.normalize(before, dim=1).T).argmax(dim=1)
    expected = info_nce(before[nearest], images, 10.0)
    assert float(method.loss(features, 2).total) == pytest.approx(float(expected), rel=1e-6)
    assert torch.equal(method.pool.rows_PD[:4], images)


def test_fixed_refreshes_in_every_epoch() -> None:
    method = built(SETTINGS)
    method.begin_epoch(1, FakeEmbedder(20, 6))
    method.loss(batch(seed=1), 1)
    assert method.pool.owner_P.tolist() == [0, 1, 2, 3, -1, -1, -1, -1]
    method.begin_epoch(2, FakeEmbedder(20, 6))
    method.loss(batch(seed=2, first=10), 2)
    assert {10, 11, 12, 13} <= set(method.pool.owner_P.tolist())


def test_fixed_fills_the_pool_before_the_first_matched_epoch() -> None:
    method, embedder = built(SETTINGS), FakeEmbedder(20, 6)
    method.begin_epoch(1, embedder)
    assert embedder.asked == []
    method.loss(batch(seed=1), 1)
    method.begin_epoch(2, embedder)
    assert embedder.asked == [4]
    assert method.pool.n_valid == len(method.pool) == 8
    drawn = method.pool.owner_P[4:]
    assert torch.equal(method.pool.rows_PD[4:], embedder.text_ND[drawn])
    method.begin_epoch(4, embedder)
    assert embedder.asked == [4]  # nothing is missing any more
    torch.testing.assert_close(method.pool.rows_PD.norm(dim=1), torch.ones(8))


def test_neighbours_carry_no_gradient_but_images_and_scale_do() -> None:
    for settings in (SETTINGS, STRICT):
        method = built(settings)
        method.begin_epoch(2, FakeEmbedder(20, 6))
        features = batch(seed=5)
        method.loss(features, 2).total.backward()
        assert features.image_VND[0].grad is not None
        assert features.image_VND[0].grad.abs().sum() > 0
        assert features.scale.grad is not None
        text_gradient = features.text_VND[0].grad
        assert text_gradient is None if settings is SETTINGS else not text_gradient.any()  # type: ignore[union-attr]


def test_strict_gives_the_text_tower_of_a_real_model_a_gradient_of_exactly_zero(tmp_path: Path) -> None:
    model = new_model(str(write_model(tmp_path / "vit.json")), tmp_path / "model", seed=0)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = model.tokenize(["a red circle", "a dog", "two boats", "blue"])
    method = built(MethodSettings(**{**settings_dict(STRICT), "dim": model.dim}))

    def gradients(epoch: int) -> dict[str, Tensor]:
        model.model.zero_grad(set_to_none=True)
        image_ND, text_ND, scale = model.model(images, tokens)
        features = Features(image_VND=(image_ND,), text_VND=(text_ND,), scale=scale, pair_N=torch.arange(4))
        method.loss(features, epoch).total.backward()
        found = {name: parameter.grad for name, parameter in model.model.named_parameters()}
        assert None not in found.values()  # DDP waits for all of them
        return {name: gradient for name, gradient in found.items() if gradient is not None}

    matched, plain = gradients(2), gradients(3)
    text = [name for name in matched if is_text_parameter(name)]
    assert len(text) > 5
    assert not any(matched[name].any() for name in text)
    assert all(plain[name].any() for name in text if "bias" not in name)
    assert all(matched[name].any() for name in matched if name.endswith("weight") and name not in text)


def settings_dict(settings: MethodSettings) -> dict[str, object]:
    return {name: getattr(settings, name) for name in MethodSettings.__dataclass_fields__}


def test_text_is_trained_but_in_the_matched_epochs_of_fixed() -> None:
    assert [built(SETTINGS).trains_text(epoch) for epoch in (1, 2, 3, 4)] == [True, False, True, False]
    assert all(built(STRICT).trains_text(epoch) for epoch in (1, 2, 3, 4))


def test_views_are_strong_with_eda_drawn_once_in_strict() -> None:
    assert built(STRICT).views(1).text == ("eda_once",)
    assert built(SETTINGS).views(1).text == ("eda",)
    assert built(SETTINGS).views(1).image == built(STRICT).views(2).image == ("strong",)
    plain = built(MethodSettings(**{**settings_dict(SETTINGS), "augment": False})).views(1)
    assert (plain.image, plain.text) == (("light",), ("plain",))


def test_a_pool_is_a_whole_number_of_batches() -> None:
    assert pool_size(1_000_000, 512, 0.02) == 39 * 512
    assert pool_size(100, 32, 0.02) == 32
    for share in np.linspace(0.01, 1, 23):
        assert pool_size(10_000, 64, share) % 64 == 0
        assert abs(pool_size(10_000, 64, share) - share * 10_000) <= 32 or share < 0.0064


@pytest.mark.parametrize("changes", [{"match_every": 0}, {"pool_share": 0.0}, {"pool_share": 1.5}])
def test_settings_that_cannot_work_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        built(MethodSettings(**{**settings_dict(SETTINGS), **changes}))


def judged(features: Features) -> Features:
    """Let the judge see what the method sees."""
    return replace(features, judge_ND=features.image_VND[0].detach())


def of_winners(features: Features, wins_N: torch.Tensor) -> float:
    """CLIP's loss, of which those that lost are negatives only."""
    (image_ND,), (text_ND,) = features.image_VND, features.text_VND
    return float(info_nce(image_ND, text_ND, features.scale, trained_N=wins_N).detach())


def test_fixed_trains_plain_epochs_on_the_captions_that_win() -> None:
    method = built(replace(SETTINGS, contest=0.1))
    features = judged(batch(n=8, seed=4))
    method.pool.put(unit(8, 6, seed=11), torch.arange(100, 108))
    q_N = method.pool.rank_share(features.image_VND[0], features.text_VND[0], features.pair_N)
    wins_N = q_N <= max(0.1, float(q_N.quantile(LEAST_WINNERS)))
    share = float(wins_N.float().mean())
    assert LEAST_WINNERS <= share < 1
    loss = method.loss(features, 1)
    assert float(loss.total.detach()) == of_winners(features, wins_N)
    assert float(loss.parts["winners"]) == pytest.approx(share)


def test_the_contest_is_held_on_the_glimpse_and_matches_on_the_strong_view() -> None:
    method = built(replace(SETTINGS, contest=0.1))
    assert method.views(1).judge == "glimpse"
    assert method.views(2).judge is None
    assert built(SETTINGS).views(1).judge is None
    assert built(replace(STRICT, contest=0.1)).views(1).judge is None
    method.pool.put(unit(8, 6, seed=11), torch.arange(100, 108))
    features = replace(batch(n=8, seed=4), judge_ND=unit(8, 6, seed=5))
    q_N = method.pool.rank_share(unit(8, 6, seed=5), features.text_VND[0], features.pair_N)
    wins_N = q_N <= max(0.1, float(q_N.quantile(LEAST_WINNERS)))
    assert not wins_N.all()
    assert float(method.loss(features, 1).total.detach()) == of_winners(features, wins_N)


def test_captions_of_one_picture_win_or_lose_together() -> None:
    method = built(replace(SETTINGS, contest=0.1))
    embedder = FakeEmbedder(20, 6)
    embedder.picture_A[:4] = 0
    method.begin_epoch(1, embedder)
    method.pool.put(unit(8, 6, seed=11), torch.arange(100, 108))
    features = judged(batch(n=8, seed=4))
    q_N = method.pool.rank_share(features.image_VND[0], features.text_VND[0], features.pair_N)
    assert len(q_N[:4].unique()) > 1
    q_N[:4] = q_N[:4].mean()
    wins_N = q_N <= max(0.1, float(q_N.quantile(LEAST_WINNERS)))
    wins_N[:4] = q_N[:4] <= max(0.1, float(q_N.quantile(LEAST_WINNERS_REPEATED)))
    assert not wins_N.all()
    assert float(method.loss(features, 1).total.detach()) == of_winners(features, wins_N)
    again = built(replace(SETTINGS, contest=0.1))
    again.restore(method.state())
    asked = FakeEmbedder(20, 6)
    again.begin_epoch(1, asked)  # the numbers came with the state
    assert {name: tensor.tolist() for name, tensor in again.state().items()} == {
        name: tensor.tolist() for name, tensor in method.state().items()
    }


@pytest.mark.parametrize(
    ("n_alike", "n_winners"), [(1, 7), (4, 3), (12, 7)], ids=["each once", "some repeated", "most repeated"]
)
def test_a_picture_with_several_captions_has_to_do_better_where_that_is_not_usual(
    monkeypatch: pytest.MonkeyPatch, n_alike: int, n_winners: int
) -> None:
    q_N = torch.tensor([0.32, 0.32, 0.32, 0.32, 0.2, 0.2, 0.3, 0.9])
    method = built(replace(SETTINGS, contest=0.1))
    embedder = FakeEmbedder(20, 6)
    embedder.picture_A[:4] = 0
    embedder.picture_A[8 : 4 + n_alike] = 8
    if n_alike == 1:
        embedder.picture_A = np.arange(20)
    method.begin_epoch(1, embedder)
    method.pool.put(unit(8, 6, seed=11), torch.arange(100, 108))
    monkeypatch.setattr(method.pool, "rank_share", lambda *_: q_N)
    loss = method.loss(judged(batch(n=8, seed=4)), 1)
    assert float(loss.parts["winners"]) == n_winners / 8


def test_a_caption_that_is_not_beaten_always_wins() -> None:
    method = built(replace(SETTINGS, contest=1.0))
    method.pool.put(unit(8, 6, seed=11), torch.arange(100, 108))
    features = judged(batch(n=8, seed=4))
    assert float(method.loss(features, 1).parts["winners"]) == 1.0


def test_a_contest_without_a_judge_is_an_error() -> None:
    method = built(replace(SETTINGS, contest=0.1))
    method.pool.put(unit(8, 6, seed=11), torch.arange(100, 108))
    with pytest.raises(ValueError, match="judge"):
        method.loss(batch(n=8, seed=4), 1)


@pytest.mark.parametrize("settings", [replace(STRICT, contest=0.1), replace(SETTINGS, contest=0.0)])
def test_strict_and_a_contest_of_zero_train_on_every_pair(settings: MethodSettings) -> None:
    method = built(settings)
    method.pool.put(unit(8, 6, seed=11), torch.arange(100, 108))
    features = batch(n=4)
    expected = info_nce(features.image_VND[0], features.text_VND[0], features.scale)
    assert float(method.loss(features, 1).total.detach()) == pytest.approx(float(expected.detach()))
