"""What every encoder must do; a new member of the table gets a case here and must pass all of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roclip_audit.core.errors import ConfigError
from roclip_audit.sanitize.encoders import ENCODERS, Encoder, EncoderConfig, build_encoder, build_encoders, parse_spec
from roclip_audit.sanitize.views import shrink
from tests.encoderkit import CAPTIONS, HOSTILE_CAPTIONS, pictures, save_tiny_clip

Build = Callable[[EncoderConfig], Encoder]


def _open_clip(kind: str) -> Callable[[Path], str]:
    return lambda folder: f"open_clip:local-dir:{save_tiny_clip(folder / kind, kind=kind)}"  # type: ignore[arg-type]


CASES: dict[str, Callable[[Path], str]] = {
    "embedded": lambda _: "embedded",
    "open_clip": _open_clip("clip"),
    "open_clip, stock towers": _open_clip("other"),
}


@pytest.fixture(scope="module", params=CASES)
def build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Build:
    spec = CASES[request.param](tmp_path_factory.mktemp("encoders"))
    return lambda config: build_encoder(spec, config)


@pytest.fixture(scope="module")
def encoder(build: Build) -> Encoder:
    return build(EncoderConfig())


def embed(encoder: Encoder, images: list[Image.Image]) -> np.ndarray:
    return encoder.embed_images(np.stack([encoder.prepare_image(image, 0) for image in images]))


def test_every_member_has_a_case() -> None:
    assert {parse_spec(name.partition(",")[0])[0] for name in CASES if name in ENCODERS} == set(ENCODERS)


def test_attributes(encoder: Encoder) -> None:
    assert encoder.views[0] == "whole"
    assert encoder.name
    assert len(encoder.fingerprint) == 32
    assert encoder.image_dim == encoder.text_dim or not encoder.joint


def test_an_encoder_that_shrinks_takes_images_that_were_shrunk(encoder: Encoder) -> None:
    if encoder.shrink_px is None:
        return
    (large,) = (image.resize((900, 500)) for image in pictures(1))
    shrunk = shrink(large, encoder.shrink_px)
    assert shrunk.width == encoder.shrink_px
    assert np.array_equal(encoder.prepare_image(shrunk, 0), encoder.prepare_image(large, 0))


def test_shapes_types_and_ranges(encoder: Encoder) -> None:
    images, texts = embed(encoder, pictures(3)), encoder.embed_texts(CAPTIONS)
    assert (images.shape, images.dtype) == ((3, len(encoder.views), encoder.image_dim), np.float32)
    assert (texts.shape, texts.dtype) == ((len(CAPTIONS), encoder.text_dim), np.float32)
    assert np.isfinite(images).all()
    assert np.isfinite(texts).all()
    if encoder.joint:
        assert np.allclose(np.linalg.norm(images, axis=-1), 1, atol=1e-5)
        assert np.allclose(np.linalg.norm(texts, axis=-1), 1, atol=1e-5)


def test_different_inputs_differ(encoder: Encoder) -> None:
    images, texts = embed(encoder, pictures(4))[:, 0], encoder.embed_texts(CAPTIONS)
    for features in (images, texts):
        distances = np.linalg.norm(features[:, None] - features[None], axis=-1)
        assert distances[~np.eye(len(features), dtype=bool)].min() > 1e-3


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (3, 2), (640, 480)])
def test_images_of_any_size(encoder: Encoder, size: tuple[int, int]) -> None:
    prepared = encoder.prepare_image(Image.new("RGB", size, (200, 30, 30)), 0)
    assert prepared.shape == encoder.prepare_image(pictures(1)[0], 0).shape
    assert np.isfinite(encoder.embed_images(prepared[None])).all()


def test_an_extreme_aspect_ratio_costs_little_memory(encoder: Encoder) -> None:
    assert encoder.prepare_image(Image.new("RGB", (1, 1_000_000)), 0).nbytes < 2_000_000


def test_hostile_captions(encoder: Encoder) -> None:
    features = encoder.embed_texts(HOSTILE_CAPTIONS)
    assert np.isfinite(features).all()


def test_the_batch_matters_by_rounding_only(encoder: Encoder) -> None:
    images = pictures(5)
    together, alone = embed(encoder, images), np.concatenate([embed(encoder, [image]) for image in images])
    assert cosine(together, alone).min() > 0.9995
    texts = encoder.embed_texts(CAPTIONS), np.concatenate([encoder.embed_texts([text]) for text in CAPTIONS])
    assert cosine(*texts).min() > 0.9995


def test_threads_change_nothing(encoder: Encoder) -> None:
    images = np.stack([encoder.prepare_image(image, 0) for image in pictures(6)])
    expected = encoder.embed_images(images), encoder.embed_texts(CAPTIONS)
    with ThreadPoolExecutor(4) as pool:
        jobs = [
            (pool.submit(encoder.embed_images, images), pool.submit(encoder.embed_texts, CAPTIONS)) for _ in range(8)
        ]
        for image_job, text_job in jobs:
            assert np.array_equal(image_job.result(), expected[0])
            assert np.array_equal(text_job.result(), expected[1])


def test_a_second_build_is_the_same_and_the_fingerprint_knows_the_settings(build: Build, encoder: Encoder) -> None:
    again, other = build(EncoderConfig()), build(EncoderConfig(views=("whole", "blur"), precision="fp32"))
    assert again.fingerprint == encoder.fingerprint
    assert np.array_equal(embed(again, pictures(2)), embed(encoder, pictures(2)))
    assert other.fingerprint != encoder.fingerprint
    assert other.views == ("whole", "blur")
    assert embed(other, pictures(2)).shape[1] == 2


def test_the_seed_draws_the_views_but_the_whole_one(build: Build) -> None:
    encoder = build(EncoderConfig(views=("whole", "crop")))
    (image,) = pictures(1)
    drawn = [encoder.prepare_image(image, seed) for seed in (0, 1, 2, 0)]
    assert len({views[0].tobytes() for views in drawn}) == 1
    assert len({views[1].tobytes() for views in drawn}) == 3


def test_both_precisions_agree(build: Build) -> None:
    exact, fast = build(EncoderConfig(precision="fp32")), build(EncoderConfig(precision="bf16"))
    assert exact.fingerprint != fast.fingerprint
    images = [*pictures(6), Image.new("RGB", (50, 50), "white"), Image.effect_noise((64, 64), 90).convert("RGB")]
    assert cosine(embed(exact, images), embed(fast, images)).min() > 0.999
    assert cosine(exact.embed_texts(CAPTIONS), fast.embed_texts(CAPTIONS)).min() > 0.999


def cosine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1)
    return np.asarray((left * right).sum(-1) / norms)


@pytest.mark.parametrize("spec", ["", "clip", "embeded", "no such thing"])
def test_an_unknown_specification_is_refused(spec: str) -> None:
    with pytest.raises(ConfigError, match="unknown encoder"):
        build_encoder(spec)


@pytest.mark.parametrize(
    ("spec", "family"),
    [
        ("embedded", "embedded"),
        ("ViT-B-32/laion2b_s34b_b79k", "open_clip"),
        ("open_clip:ViT-B-32/openai", "open_clip"),
        ("hf-hub:org/name", "open_clip"),
        ("local-dir:/somewhere", "open_clip"),
        ("ViT-B-32@/a/file.pt", "open_clip"),
    ],
)
def test_specifications_name_their_family(spec: str, family: str) -> None:
    assert parse_spec(spec)[0] == family


@pytest.mark.parametrize(
    "settings", [{"views": ("blur",)}, {"views": ("whole", "whole")}, {"views": ("whole", "x")}, {"precision": "fp8"}]
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        EncoderConfig(**settings)  # type: ignore[arg-type]


def test_two_encoders_may_be_asked_but_only_a_joint_one_beside_the_embedded(tmp_path: Path) -> None:
    folder = save_tiny_clip(tmp_path / "a+b")
    alone, nothing = build_encoders(f"local-dir:{folder}")
    assert (alone.joint, nothing) == (True, None)
    assert build_encoders("embedded")[1] is None
    first, beside = build_encoders(f"embedded+local-dir:{folder}")
    assert beside is not None
    assert (first.name, first.joint, beside.joint) == ("embedded", False, True)
    assert beside.fingerprint == alone.fingerprint
    for spec in ("embedded+embedded", "embedded+", "embedded+nonsense", "embedded+embedded+embedded"):
        with pytest.raises(ConfigError):
            build_encoders(spec)
