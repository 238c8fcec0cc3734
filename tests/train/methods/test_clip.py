"""The undefended baseline and CleanCLIP, against sums of open_clip's loss."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from roclip_audit.core.checkpoint import import_open_clip
from roclip_audit.core.errors import ConfigError
from roclip_audit.train.methods import build_method
from roclip_audit.train.methods.base import Features, MethodSettings
from tests.train.trainkit import unit

SETTINGS = MethodSettings(n_pairs=8, batch_size=4, n_epochs=2, dim=5, seed=0, device=torch.device("cpu"))


def features(n_views: int) -> Features:
    return Features(
        image_VND=tuple(unit(4, 5, seed=v) for v in range(n_views)),
        text_VND=tuple(unit(4, 5, seed=10 + v) for v in range(n_views)),
        scale=torch.tensor(9.0),
        pair_N=torch.arange(4),
    )


def test_clip_is_open_clips_loss() -> None:
    batch = features(1)
    theirs = import_open_clip().ClipLoss()(batch.image_VND[0], batch.text_VND[0], batch.scale)
    assert float(build_method("clip", SETTINGS).loss(batch, 1).total) == pytest.approx(float(theirs), rel=1e-6)


def test_clip_augments_only_where_asked() -> None:
    augmented, plain = (build_method("clip", replace(SETTINGS, augment=on)).views(1) for on in (True, False))
    assert (augmented.image, augmented.text) == (("strong",), ("eda",))
    assert (plain.image, plain.text) == (("light",), ("plain",))


def test_cleanclip_cannot_go_without_augmentation() -> None:
    with pytest.raises(ConfigError, match=r"cleanclip.*without augmentation"):
        build_method("cleanclip", replace(SETTINGS, augment=False))


def test_cleanclip_adds_each_side_against_its_augmentation_at_half_weight() -> None:
    clip_loss = import_open_clip().ClipLoss()
    batch = features(2)
    (image, image_too), (text, text_too) = batch.image_VND, batch.text_VND
    expected = clip_loss(image, text, batch.scale)
    expected = expected + 0.5 * clip_loss(image, image_too, batch.scale) + 0.5 * clip_loss(text, text_too, batch.scale)
    loss = build_method("cleanclip", SETTINGS).loss(batch, 1)
    assert float(loss.total) == pytest.approx(float(expected), rel=1e-6)
    parts = {name: float(part) for name, part in loss.parts.items()}
    assert parts["pairs"] + (parts["images"] + parts["texts"]) / 2 == pytest.approx(float(loss.total), rel=1e-6)
