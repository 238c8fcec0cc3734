"""The default encoder against the libraries its parts come from."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.torchvision_compat import ensure_torchvision_importable
from roclip_audit.sanitize.encoders import build_encoder, weights
from roclip_audit.sanitize.encoders.embedded import Backbone, EmbeddedEncoder, fold_batch_norms, load_backbone
from roclip_audit.sanitize.encoders.minilm import MiniLM
from roclip_audit.sanitize.views import VIEWS
from tests.encoderkit import CAPTIONS, pictures

# transformers' AutoModel on the same files, mean-pooled and normalised: first four of 384 values
GOLDEN = {
    "a red disc on white paper": (-0.05992449, 0.00202091, -0.07915403, 0.02203170),
    "Pinzatrice Rollandin": (-0.08223523, 0.03003621, -0.09032413, 0.02487633),
    "": (-0.11883832, 0.04829871, -0.00254813, -0.01101117),
    "漢字 and émoji 😀": (-0.04868424, 0.00352824, 0.02867186, 0.01028001),
    "word " * 300: (0.01299878, -0.06421726, -0.02870930, 0.01579945),
}


@pytest.fixture(scope="module")
def minilm() -> MiniLM:
    return MiniLM.load()


def test_minilm_agrees_with_transformers(minilm: MiniLM) -> None:
    assert np.allclose(minilm.embed(list(GOLDEN))[:, :4], list(GOLDEN.values()), atol=2e-6)


def test_minilm_knows_what_belongs_together(minilm: MiniLM) -> None:
    dog, puppy, tax = minilm.embed(["a photo of a dog", "picture of a puppy", "income tax form"])
    assert dog @ puppy > 0.5 > dog @ tax


def test_minilm_of_no_caption_is_empty(minilm: MiniLM) -> None:
    assert minilm.embed([]).shape == (0, 384)


def test_minilm_order_does_not_matter(minilm: MiniLM) -> None:
    forward, backward = minilm.embed(CAPTIONS), minilm.embed(CAPTIONS[::-1])[::-1]
    assert np.allclose(forward, backward, atol=1e-6)


def test_the_backbone_agrees_with_timm_on_weights_that_torch_loaded() -> None:
    ensure_torchvision_importable()
    import timm

    loaded = torch.load(weights.locate(weights.EFFICIENTNET_LITE0), weights_only=True, map_location="cpu")
    reference = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    reference.load_state_dict(dict(zip(reference.state_dict(), loaded.values(), strict=False)))
    pixels = np.stack([np.asarray(image.resize((128, 128))) for image in pictures(4)])
    with torch.inference_mode():
        expected = reference((torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127) / 128)
        found = Backbone(load_backbone(), torch.float32)(torch.from_numpy(pixels))
    assert torch.allclose(found, expected, atol=1e-4)


def test_folding_leaves_no_batch_norm_and_changes_nothing_else() -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 2, 1),
        torch.nn.BatchNorm2d(2),
    )
    for module in model:
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean = torch.rand(module.num_features)
            module.running_var = torch.rand(module.num_features) + 0.5
    folded = copy.deepcopy(model.eval())
    fold_batch_norms(folded)
    pixels = torch.rand(2, 3, 9, 9)
    with torch.inference_mode():
        assert torch.allclose(folded(pixels), model(pixels), atol=1e-6)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())


def test_all_views_are_the_default() -> None:
    assert EmbeddedEncoder.default_views == tuple(VIEWS)


def test_an_argument_is_refused() -> None:
    with pytest.raises(ConfigError, match="no argument"):
        build_encoder("embedded:large")
