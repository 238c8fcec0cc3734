"""The two towers as the loop sees them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from roclip_audit.train.data import augment
from roclip_audit.train.data.loader import CaptionTokens
from roclip_audit.train.data.pictures import ResidentPictures
from roclip_audit.train.distributed import World
from roclip_audit.train.model import is_text_parameter, new_model
from roclip_audit.train.towers import MAX_LOG_SCALE, PairEmbedder, Towers, on_device, uses_bf16
from tests.train.trainkit import RESNET, VIT, make_table, write_model

CPU = torch.device("cpu")
WORLD = World(device=CPU)
CAPTIONS = ["a red circle", "two dogs", "x"]


def towers_of(folder: Path, config: dict[str, Any], **how: Any) -> tuple[Towers, torch.Tensor, torch.Tensor]:
    model = new_model(str(write_model(folder / "m.json", config)), folder / "model", seed=0)
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return Towers(model, WORLD, **{"bf16": False} | how), pixels, model.tokenize(CAPTIONS)


@pytest.mark.parametrize("config", [VIT, RESNET], ids=["vit", "resnet"])
def test_features_are_the_models_own(tmp_path: Path, config: dict[str, Any]) -> None:
    towers, pixels, tokens = towers_of(tmp_path, config)
    towers.set_mode(trains_text=True)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
    image, text, scale = cast(Any, towers.model)((pixels - mean) / std, tokens)
    (image_ND,), (text_ND,), found = towers.features([pixels], [tokens])
    torch.testing.assert_close(image_ND, image)
    torch.testing.assert_close(text_ND, text)
    assert torch.equal(found, scale)


def test_two_views_come_back_in_their_order(tmp_path: Path) -> None:
    towers, pixels, tokens = towers_of(tmp_path, VIT)
    towers.set_mode(trains_text=True)
    images, texts, _ = towers.features([pixels, pixels.flip(0)], [tokens, tokens.flip(0)])
    torch.testing.assert_close(images[1], images[0].flip(0))
    torch.testing.assert_close(texts[1], texts[0].flip(0))


def test_a_resting_text_tower_has_features_but_no_gradient(tmp_path: Path) -> None:
    towers, pixels, tokens = towers_of(tmp_path, VIT)
    towers.set_mode(trains_text=True)
    learning = towers.features([pixels], [tokens])
    towers.set_mode(trains_text=False)
    (image_ND,), (text_ND,), scale = towers.features([pixels], [tokens])
    torch.testing.assert_close(text_ND, learning[1][0].detach())
    assert not text_ND.requires_grad
    (scale * image_ND @ text_ND.T).sum().backward()
    for name, parameter in towers.model.named_parameters():
        assert (parameter.grad is None) == is_text_parameter(name)
    towers.set_mode(trains_text=True)
    assert all(parameter.requires_grad for parameter in towers.model.parameters())


@pytest.mark.parametrize(("before", "after"), [(9.0, math.log(100)), (-1.0, 0.0), (2.0, 2.0)])
def test_the_scale_stays_between_1_and_100(tmp_path: Path, before: float, after: float) -> None:
    towers, _, _ = towers_of(tmp_path, VIT)
    cast(Any, towers.model).logit_scale.data.fill_(before)
    towers.clamp_scale()
    assert float(cast(Any, towers.model).logit_scale.detach()) == pytest.approx(after)
    assert pytest.approx(100) == math.exp(MAX_LOG_SCALE)


def test_bf16_is_near_and_still_float32_outside(tmp_path: Path) -> None:
    towers, pixels, tokens = towers_of(tmp_path, VIT)
    rough, _, _ = towers_of(tmp_path, VIT, bf16=True)
    found = []
    for each in (towers, rough):
        each.set_mode(trains_text=True)
        found.append(each.features([pixels], [tokens]))
    assert found[1][0][0].dtype == found[1][2].dtype == torch.float32
    assert float(F.cosine_similarity(found[0][0][0].detach(), found[1][0][0].detach()).min()) > 0.999
    assert not torch.equal(found[0][0][0], found[1][0][0])


def test_precision_means_what_it_says() -> None:
    assert uses_bf16("bf16", CPU, 32)
    assert not uses_bf16("fp32", CPU, 224)
    assert not uses_bf16("auto", CPU, 32)


def test_each_view_is_that_of_the_augmentation(tmp_path: Path) -> None:
    strong = augment.AugmentConfig(scale=(0.4, 1.0))
    towers, _, _ = towers_of(tmp_path, VIT, strong=strong)
    pictures = ResidentPictures.decoded(make_table(tmp_path / "shards", 4, 1), 40, device=CPU, workers=1)
    canvases = on_device(pictures.load(np.arange(4)), CPU)
    draws = augment.draw(4, seed=0, epoch=1, step=0, view=0)
    for name, config in (("light", augment.LIGHT), ("strong", strong)):
        expected = augment.augment(canvases.pixels_NCHW, canvases.aspect_N, draws, config, 32)
        assert torch.equal(towers.view(name, canvases, draws), expected)
    expected = augment.whole(canvases.pixels_NCHW, canvases.aspect_N, 32)
    assert torch.equal(towers.view("whole", canvases, draws), expected)


def test_the_embedder_sees_pairs_as_evaluation_does(tmp_path: Path) -> None:
    """In evaluation mode and without gradient; the loop finds the model in training mode again."""
    model = new_model(str(write_model(tmp_path / "m.json", RESNET)), tmp_path / "model", seed=0)
    table = make_table(tmp_path / "shards", 6, 2)
    towers, pictures = Towers(model, WORLD, bf16=False), ResidentPictures.decoded(table, 40, device=CPU, workers=1)
    embedder = PairEmbedder(towers, pictures, CaptionTokens(table.captions, model.tokenize, seed=0), WORLD, 6)
    texts, cosines = embedder.texts(np.array([4, 1])), embedder.cosines()
    assert towers.model.training
    assert not texts.requires_grad

    plain = cast(Any, towers.model).eval()
    with torch.no_grad():
        expected = F.normalize(plain.encode_text(model.tokenize(list(table.captions))), dim=1)
        pixels = towers.view("whole", pictures.load(np.arange(6)))
        mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (model.mean, model.std))
        image = F.normalize(plain.encode_image((pixels - mean) / std), dim=1)
    torch.testing.assert_close(texts, expected[[4, 1]])
    torch.testing.assert_close(cosines, (image * expected).sum(dim=1), atol=1e-5, rtol=1e-4)
