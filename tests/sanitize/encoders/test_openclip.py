"""open_clip models: our short towers and preprocessing against open_clip's own, and every form of specification."""

from __future__ import annotations

import json
import pickle
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from roclip_audit.core.checkpoint import import_open_clip, load_model
from roclip_audit.core.errors import ConfigError, EncoderError
from roclip_audit.core.tokens import Tokenize
from roclip_audit.sanitize.encoders import EncoderConfig, build_encoder, clip_towers
from roclip_audit.sanitize.encoders.openclip import OpenClipEncoder, Preprocess
from tests.encoderkit import CAPTIONS, HOSTILE_CAPTIONS, pictures, save_tiny_clip, tiny_model

EXACT = EncoderConfig(precision="fp32")


@pytest.fixture(scope="module", params=["clip", "other"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("models") / request.param, kind=request.param)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("models") / "clip")


def stock(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Embed the kit's pictures and captions as open_clip's documentation does."""
    open_clip = import_open_clip()
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.inference_mode():
        images = model.eval().encode_image(torch.stack([preprocess(image) for image in pictures(6)]), normalize=True)
        texts = model.encode_text(tokenizer(list(CAPTIONS)), normalize=True)
    return images.numpy(), texts.numpy()


def ours(folder: Path, config: EncoderConfig) -> tuple[np.ndarray, np.ndarray]:
    encoder = build_encoder(f"local-dir:{folder}", config)
    images = encoder.embed_images(np.stack([encoder.prepare_image(image, 0) for image in pictures(6)]))
    return images[:, 0], encoder.embed_texts(CAPTIONS)


def test_features_agree_with_the_stock_path(folder: Path) -> None:
    for found, expected in zip(ours(folder, EXACT), stock(folder), strict=True):
        assert np.abs(found - expected).max() < 1e-5
    for found, expected in zip(ours(folder, EncoderConfig(precision="bf16")), stock(folder), strict=True):
        assert (found * expected).sum(-1).min() > 0.999


def test_short_towers_are_found_where_they_fit_and_nowhere_else() -> None:
    clip, other = tiny_model("clip"), tiny_model("other")
    assert clip_towers.find_image(clip) is not None
    assert clip_towers.find_text(clip) is not None
    assert clip_towers.find_image(other) is None
    assert clip_towers.find_text(other) is None


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("text_cfg", {"no_causal_mask": True}),
        ("text_cfg", {"embed_cls": True}),
        ("text_cfg", {"pool_type": "last"}),
        ("text_cfg", {"qk_norm": True}),
        ("text_cfg", {"pool_type": "eos", "eos_id": 49407}),
        ("text_cfg", {"proj_bias": True}),
        ("text_cfg", {"proj_type": "none", "width": 24}),
        ("text_cfg", {"ls_init_value": 0.5}),
        ("vision_cfg", {"pool_type": "avg"}),
        ("vision_cfg", {"attentional_pool": True}),
        ("vision_cfg", {"no_ln_pre": True, "final_ln_after_pool": True}),
        ("vision_cfg", {"ls_init_value": 0.5, "patch_dropout": 0.5}),
    ],
)
@pytest.mark.parametrize("custom_text", [False, True])
def test_short_towers_agree_with_every_variant_they_accept(
    part: str, change: dict[str, Any], custom_text: bool
) -> None:
    from tests.encoderkit import tiny_config

    config = tiny_config()
    config[part] |= change
    open_clip = import_open_clip()
    if change.get("embed_cls") and not custom_text:
        pytest.skip("open_clip's CLIP has no class token for text")
    model = (open_clip.CustomTextCLIP if custom_text else open_clip.CLIP)(**config).eval()
    tokens = open_clip.get_tokenizer("ViT-B-32")(list(CAPTIONS))
    pixels = torch.rand(3, 3, 32, 32)
    with torch.inference_mode():
        if (text := clip_towers.find_text(model)) is not None:
            assert torch.allclose(text(tokens), model.encode_text(tokens), atol=1e-5)
        if (image := clip_towers.find_image(model)) is not None:
            assert torch.allclose(image(pixels), model.encode_image(pixels), atol=1e-5)
    accepted = {"pool_type": "eos"}.items() <= change.items() or {"proj_bias", "proj_type", "ls_init_value"} & set(
        change
    )
    assert (text is not None) == (part == "vision_cfg" or bool(accepted))
    assert (image is not None) == (
        part == "text_cfg" or (change.get("pool_type") != "avg" and "attentional_pool" not in change)
    )


def test_preprocessing_gives_the_same_pixels_as_the_models_own(clip: Path) -> None:
    loaded = load_model(f"local-dir:{clip}")
    preprocess = Preprocess(loaded.preprocess, loaded.image_px)
    for image in pictures(8, sides=(5, 400)):
        found = preprocess.normalise(preprocess.resize(image, "whole", 0)[None])[0]
        assert torch.equal(found, loaded.preprocess(image))


def test_the_model_runs_in_float32_where_bfloat16_is_too_coarse(clip: Path) -> None:
    loaded = load_model(f"local-dir:{clip}")
    visual: Any = loaded.model.visual
    visual.ln_post.bias.data.add_(1000)  # what tells images apart is lost when 1000 + x is rounded to 8 bits,
    visual.proj.data.sub_(visual.proj.data.mean(0))  # and the 1000 cancels
    forced, exact = OpenClipEncoder(loaded, EncoderConfig(precision="bf16")), OpenClipEncoder(loaded, EXACT)
    images = np.stack([exact.prepare_image(image, 0) for image in pictures(6)])
    assert (forced.embed_images(images) * exact.embed_images(images)).sum(-1).min() < 0.999  # the premise
    assert forced.precision == "image bf16, text bf16"
    if EncoderConfig().resolved_precision() == "bf16":
        assert OpenClipEncoder(loaded, EncoderConfig()).precision == "image fp32, text bf16"


def test_the_fingerprint_follows_the_weights(tmp_path: Path) -> None:
    prints = {
        build_encoder(f"local-dir:{save_tiny_clip(tmp_path / str(seed), seed=seed)}").fingerprint for seed in (0, 1)
    }
    moved = build_encoder(f"local-dir:{save_tiny_clip(tmp_path / 'elsewhere')}").fingerprint
    assert len(prints) == 2
    assert moved in prints


def test_the_fingerprint_follows_what_the_weights_do_not_say(tmp_path: Path) -> None:
    folder = save_tiny_clip(tmp_path / "clip")
    before = build_encoder(f"local-dir:{folder}").fingerprint
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["text_cfg"]["heads"] = 2  # the same shapes
    path.write_text(json.dumps(config))
    assert build_encoder(f"local-dir:{folder}").fingerprint != before


def test_a_checkpoint_file_beside_its_configuration(
    tmp_path: Path, clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_tiny_clip(tmp_path / "clip", seed=5)
    state = tiny_model(seed=0).state_dict()
    for name in ("epoch_1.pt", "other.safetensors"):
        if name.endswith(".pt"):
            torch.save(
                {"epoch": 1, "state_dict": {f"module.{key}": value for key, value in state.items()}}, folder / name
            )
        else:
            save_file({key: value.contiguous() for key, value in state.items()}, folder / name)
        found = build_encoder(str(folder / name), EXACT).embed_texts(CAPTIONS)
        assert np.array_equal(found, build_encoder(f"local-dir:{clip}", EXACT).embed_texts(CAPTIONS))
    assert "randomly" not in caplog.text


def test_an_architecture_with_a_checkpoint_file(tmp_path: Path) -> None:
    open_clip = import_open_clip()
    model = open_clip.create_model("ViT-S-32-alt")
    torch.save(model.state_dict(), tmp_path / "s32.pt")
    encoder = build_encoder(f"ViT-S-32-alt@{tmp_path / 's32.pt'}", EXACT)
    with torch.inference_mode():
        expected = model.eval().encode_text(open_clip.tokenize(["a dog"]), normalize=True).numpy()
    assert np.abs(encoder.embed_texts(["a dog"]) - expected).max() < 1e-5
    with pytest.raises(EncoderError, match="cannot be loaded"):
        build_encoder(f"ViT-B-32@{tmp_path / 's32.pt'}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ViT-B-33/openai", "no architecture 'ViT-B-33'; near it: .*ViT-B-32"),
        ("ViT-B-32/no_such_tag", "no published weights 'no_such_tag'; there are: .*laion2b_s34b_b79k"),
        ("open_clip:ViT-B-32", "no published weights ''"),
        ("ViT-B-32/openai", "another activation .* use ViT-B-32-quickgelu/openai"),
        ("local-dir:/no/such/folder", "no open_clip_config.json"),
        ("ViT-B-32@/no/such/file.pt", "no such checkpoint"),
        ("no-arch@/dev/null", "no architecture"),
        ("/dev", "write local-dir:/dev"),
    ],
)
def test_what_a_specification_gets_wrong_is_said(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_encoder(spec)


def test_a_checkpoint_without_architecture_is_refused(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "alone.pt")
    with pytest.raises(ConfigError, match="which architecture"):
        build_encoder(str(tmp_path / "alone.pt"))
    (tmp_path / "model.npz").write_bytes(b"")
    with pytest.raises(ConfigError, match="ends in"):
        build_encoder(f"ViT-B-32@{tmp_path / 'model.npz'}")


def test_a_model_without_weights_is_refused(tmp_path: Path, clip: Path) -> None:
    shutil.copy(clip / "open_clip_config.json", tmp_path)
    with pytest.raises(EncoderError, match="cannot be loaded"):
        build_encoder(f"local-dir:{tmp_path}")


@pytest.mark.parametrize("damage", ["short", "other shapes", "no json", "no keys"])
def test_damaged_models_are_errors_not_crashes(tmp_path: Path, damage: str) -> None:
    folder = save_tiny_clip(tmp_path / "clip")
    weights, config = folder / "open_clip_model.safetensors", folder / "open_clip_config.json"
    if damage == "short":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif damage == "other shapes":
        save_file({"positional_embedding": torch.zeros(2, 2)}, weights)
    else:
        config.write_text("{" if damage == "no json" else '{"model_cfg": {}}')
    with pytest.raises(EncoderError, match="cannot be loaded"):
        build_encoder(f"local-dir:{folder}")


class Payload:
    """Writes a file when unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (self.path, "w")


def test_a_checkpoint_that_runs_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    folder = save_tiny_clip(tmp_path / "clip")
    (folder / "open_clip_model.safetensors").unlink()
    for name in ("open_clip_pytorch_model.bin", "evil.pt"):
        torch.save({"state_dict": Payload(str(tmp_path / "ran"))}, folder / name)
        spec = f"local-dir:{folder}" if name.endswith(".bin") else str(folder / name)
        with pytest.raises(EncoderError, match="cannot be loaded"):
            build_encoder(spec)
    (folder / "raw.pt").write_bytes(pickle.dumps(Payload(str(tmp_path / "ran")), protocol=2))
    with pytest.raises(EncoderError, match="cannot be loaded"):
        build_encoder(str(folder / "raw.pt"))
    assert not (tmp_path / "ran").exists()


TOKENIZER = import_open_clip().get_tokenizer("ViT-B-32")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=400))
def test_captions_of_any_text_give_the_tokens_of_the_stock_tokeniser(caption: str) -> None:
    if max((len(word.encode()) for word in caption.split()), default=0) <= 4 * 77:
        assert torch.equal(Tokenize(TOKENIZER, 77)([caption]), TOKENIZER([caption]))


def test_captions_written_to_keep_the_tokeniser_busy_do_not() -> None:
    tokenize = Tokenize(import_open_clip().SimpleTokenizer(context_length=77), 77)
    rng = np.random.default_rng(0)
    words = [
        "".join(map(chr, rng.integers(0x4E00, 0x9FFF, 100_000))),
        "".join(map(chr, rng.integers(97, 123, 100_000))),
    ]
    start = time.process_time()
    assert tokenize([*words, *HOSTILE_CAPTIONS]).shape == (2 + len(HOSTILE_CAPTIONS), 77)
    assert time.process_time() - start < 5


def test_the_tokenisers_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roclip_audit.core.tokens.MAX_CACHED_WORDS", 50)
    own = import_open_clip().SimpleTokenizer(context_length=77)
    tokenize = Tokenize(own, 77)
    captions = [f"word{number} <{number}> <" for number in range(300)]
    tokens = torch.cat([tokenize([caption]) for caption in captions])
    assert len(own.cache) < 70
    assert torch.equal(tokens, TOKENIZER(captions))


def test_a_long_picture_is_cut_to_its_middle(clip: Path) -> None:
    loaded = load_model(f"local-dir:{clip}")
    pixels = np.zeros((2, 4000, 3), dtype=np.uint8)
    pixels[:, 1900:2100] = 255
    resized = Preprocess(loaded.preprocess, loaded.image_px).resize(Image.fromarray(pixels), "whole", 0)
    assert resized.shape == (32, 32, 3)
    assert resized.min() > 250
