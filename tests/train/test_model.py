"""Models to train: built, named, saved, and loaded again by open_clip and by the scan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from roclip_audit.core.checkpoint import import_open_clip
from roclip_audit.core.errors import ConfigError, EncoderError
from roclip_audit.sanitize.encoders import EncoderConfig, build_encoder
from roclip_audit.train.model import (
    TrainableModel,
    copy_tokenizer,
    is_text_parameter,
    model_config,
    model_from_checkpoint,
    new_model,
    save_weights,
    small_models,
)
from tests.encoderkit import pictures, save_tiny_clip
from tests.train.trainkit import RESNET, VIT, write_model

CAPTIONS = ["a red circle", "two dogs", "é"]


def features(model: TrainableModel) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn(2, 3, model.image_px, model.image_px, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        image_ND, text_ND, _ = model.model.eval()(images, model.tokenize(CAPTIONS))
    return image_ND, text_ND


@pytest.mark.parametrize("name", small_models())
def test_the_small_models_build_and_learn(name: str, tmp_path: Path) -> None:
    model = new_model(name, tmp_path, seed=0)
    assert name.endswith(str(model.image_px))
    image_ND, text_ND = features(model)
    assert image_ND.shape == (2, model.dim)
    assert text_ND.shape == (3, model.dim)
    torch.testing.assert_close(image_ND.norm(dim=1), torch.ones(2))
    parts = {is_text_parameter(parameter) for parameter, _ in model.model.named_parameters()}
    assert parts == {True, False}


def test_weights_depend_on_the_seed_only(tmp_path: Path) -> None:
    path = str(write_model(tmp_path / "vit.json"))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    states = [new_model(path, tmp_path / "model", seed=seed).model.state_dict() for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["visual.conv1.weight"], states[2]["visual.conv1.weight"])


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"resnet-32.*ViT-B-16.*JSON"):
        model_config("vit-b-99")


def test_an_architecture_of_open_clip_has_its_configuration() -> None:
    assert model_config("RN50") == import_open_clip().get_model_config("RN50")


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_json_is_a_model(tmp_path: Path, wrapped: bool) -> None:
    path = write_model(tmp_path / "m.json", {"model_cfg": VIT} if wrapped else VIT)
    assert model_config(str(path)) == VIT


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"embed_dim": 3}', '{"model_cfg": 5}', "\x00"])
def test_a_json_that_is_no_model_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(ConfigError, match=r"m\.json"):
        model_config(str(tmp_path / "m.json"))
    with pytest.raises(ConfigError, match=r"none\.json"):
        model_config(str(tmp_path / "none.json"))


@pytest.mark.parametrize(
    "broken", [{"vision_cfg": {"image_size": 32, "layers": 1, "width": 30, "head_width": 16, "heads": 7}}]
)
def test_a_model_that_cannot_be_built_is_a_config_error(tmp_path: Path, broken: dict[str, Any]) -> None:
    path = write_model(tmp_path / "m.json", VIT | broken | {"embed_dim": "wide"})
    with pytest.raises(ConfigError, match="cannot build it"):
        new_model(str(path), tmp_path / "model", seed=0)


def test_a_tokenizer_of_another_library_is_asked_for_before_the_model_is_built(tmp_path: Path) -> None:
    """Without transformers, or without the tokenizer's files, which are never fetched."""
    with pytest.raises(ConfigError, match=r"'ViT-B-16-SigLIP': .*pip install transformers.*timm/ViT-B-16-SigLIP"):
        new_model("ViT-B-16-SigLIP", tmp_path / "model", seed=0)


@pytest.mark.parametrize("error", [OSError("we are offline"), ModuleNotFoundError("x"), ValueError("no files\nat all")])
def test_a_tokenizer_that_cannot_be_loaded_is_a_config_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def get_tokenizer(name: str) -> None:
        raise error

    monkeypatch.setattr(import_open_clip(), "get_tokenizer", get_tokenizer)
    path = write_model(tmp_path / "m.json", VIT | {"text_cfg": VIT["text_cfg"] | {"hf_tokenizer_name": "org/words"}})
    with pytest.raises(ConfigError, match=r"transformers.*org/words") as caught:
        new_model(str(path), tmp_path / "model", seed=0)
    assert str(error).partition("\n")[0] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_square_inputs_are_taken(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.json", VIT | {"vision_cfg": VIT["vision_cfg"] | {"image_size": [32, 48]}})
    with pytest.raises(ConfigError, match="32 x 48"):
        new_model(str(path), tmp_path / "model", seed=0)


@pytest.mark.parametrize("config", [VIT, RESNET], ids=["vit", "resnet"])
def test_a_saved_model_is_open_clips_and_the_scans(tmp_path: Path, config: dict[str, Any]) -> None:
    folder = tmp_path / "model"
    model = new_model(str(write_model(tmp_path / "m.json", config)), folder, seed=3)
    model.model.train()
    model.model(torch.randn(4, 3, 32, 32), model.tokenize(CAPTIONS))  # moves the statistics of batch norms
    save_weights(model.model, folder)
    image_ND, text_ND = features(model)

    open_clip = import_open_clip()
    theirs = open_clip.create_model(f"local-dir:{folder}").eval()
    assert all(torch.equal(value, model.model.state_dict()[name]) for name, value in theirs.state_dict().items())
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.no_grad():
        text_of_theirs = theirs.encode_text(tokenizer(CAPTIONS), normalize=True)
    torch.testing.assert_close(text_of_theirs, text_ND)

    encoder = build_encoder(f"local-dir:{folder}", EncoderConfig())
    scanned = torch.from_numpy(encoder.embed_texts(CAPTIONS)).float()
    assert float(F.cosine_similarity(scanned, text_ND).min()) > 0.999
    picture = pictures(1)[0]
    with torch.no_grad():
        image = theirs.encode_image(open_clip.create_model_and_transforms(f"local-dir:{folder}")[2](picture)[None])
    scanned = torch.from_numpy(encoder.embed_images(encoder.prepare_image(picture, 0)[None])).float()
    assert float(F.cosine_similarity(scanned, image).min()) > 0.99
    assert (folder / "open_clip_config.json").is_file()
    assert json.loads((folder / "open_clip_config.json").read_text())["model_cfg"] == config
    assert image_ND.shape[1] == scanned.shape[-1] == 16


def test_pictures_of_training_and_scan_are_seen_alike(tmp_path: Path) -> None:
    """The mean and deviation that training uses are those that are saved."""
    folder = tmp_path / "model"
    model = new_model(str(write_model(tmp_path / "m.json")), folder, seed=3)
    save_weights(model.model, folder)
    transform = import_open_clip().create_model_and_transforms(f"local-dir:{folder}")[2]
    picture = pictures(1)[0].resize((32, 32), Image.Resampling.BICUBIC)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (model.mean, model.std))
    ours = (torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255 - mean) / std
    torch.testing.assert_close(ours, transform(picture), atol=1e-5, rtol=0)


def test_training_goes_on_from_saved_weights(tmp_path: Path) -> None:
    source = save_tiny_clip(tmp_path / "source")
    model = model_from_checkpoint(f"local-dir:{source}", tmp_path / "model")
    assert (model.mean, model.std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
    assert model.model.training
    assert all(parameter.requires_grad for parameter in model.model.parameters())
    theirs = import_open_clip().create_model(f"local-dir:{source}")
    state = model.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in theirs.state_dict().items())
    save_weights(model.model, tmp_path / "model")
    again = model_from_checkpoint(f"local-dir:{tmp_path / 'model'}", tmp_path / "other")
    for one, other in zip(features(model), features(again), strict=True):
        assert torch.equal(one, other)
    assert float(F.cosine_similarity(*features(model)[0], dim=0)) < 1


def test_a_checkpoint_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        model_from_checkpoint(f"local-dir:{tmp_path}", tmp_path / "model")
    source = save_tiny_clip(tmp_path / "source")
    (source / "open_clip_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(EncoderError):
        model_from_checkpoint(f"local-dir:{source}", tmp_path / "model")


def test_text_parameters_are_all_but_the_image_towers_and_the_scale(tmp_path: Path) -> None:
    for kind in ("clip", "other"):
        source = save_tiny_clip(tmp_path / kind, kind=cast(Any, kind))
        model = model_from_checkpoint(f"local-dir:{source}", tmp_path / "model").model
        model.zero_grad()
        cast(Any, model).encode_text(torch.ones(1, cast(Any, model).context_length, dtype=torch.int64)).sum().backward()
        used = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert used == {name for name, _ in model.named_parameters() if is_text_parameter(name)}


def test_a_model_with_a_decoder_is_refused(tmp_path: Path) -> None:
    vision = VIT["vision_cfg"] | {"attentional_pool": True, "output_tokens": True, "attn_pooler_heads": 4}
    decoder = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 1}
    text = VIT["text_cfg"] | {"embed_cls": True, "output_tokens": True}
    config = VIT | {"vision_cfg": vision, "text_cfg": text, "multimodal_cfg": decoder, "custom_text": True}
    (tmp_path / "coca.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="CoCa cannot be trained here"):
        new_model(str(tmp_path / "coca.json"), tmp_path / "model", seed=0)


def test_a_foreign_tokenizer_is_copied_and_nothing_of_the_model(tmp_path: Path) -> None:
    source, folder = tmp_path / "model", tmp_path / "scratch"
    folder.mkdir()
    copy_tokenizer(source, folder)  # there may be no folder yet
    source.mkdir()
    for name in ("tokenizer.json", "vocab.txt", "open_clip_config.json", "open_clip_model.safetensors", ".tmp-1-x"):
        (source / name).write_text(name)
    copy_tokenizer(source, folder)
    assert {file.name for file in folder.iterdir()} == {"tokenizer.json", "vocab.txt"}
