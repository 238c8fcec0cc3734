"""Embedding: unit vectors, in order, whatever the workers; the model is left as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from roclip_audit.core.checkpoint import load_model
from roclip_audit.core.errors import EncoderError, ShardError
from roclip_audit.train.evaluation.embedder import Embedder, embed_images, evaluating
from roclip_audit.train.evaluation.pictures import Picture, PicturesInMemory, StoredPictures
from tests.encoderkit import pictures, save_tiny_clip
from tests.train.evaluation.evalkit import ColourClip, ColourTowers, block, colour_embedder, png


def test_pictures_of_both_kinds_become_unit_vectors_in_order() -> None:
    images = [block("red"), Image.fromarray(block("blue")), block("green")]
    features = embed_images(ColourClip(), images, "cpu", batch_size=2)
    assert features.dtype == np.float32
    assert features == pytest.approx(np.eye(4)[[0, 2, 1]], abs=1e-4)


def test_as_open_clip_does_it(tmp_path: Path) -> None:
    loaded = load_model(f"local-dir:{save_tiny_clip(tmp_path / 'clip')}")
    images = pictures(5)
    with torch.inference_mode():
        batch = torch.stack([loaded.preprocess(image) for image in images])
        expected = loaded.model.encode_image(batch, normalize=True).numpy()  # type: ignore[operator]
        words = loaded.model.encode_text(loaded.tokenizer(["a red disc", "b"]), normalize=True)  # type: ignore[operator]
    for workers in (1, 3):
        embedder = Embedder(model=loaded, batch_size=2, workers=workers)
        assert embedder.pictures(PicturesInMemory(images)).features_ND == pytest.approx(expected, abs=1e-5)
        assert embedder.texts(["a red disc", "b"]) == pytest.approx(words.numpy(), abs=1e-5)


def test_unreadable_pictures_are_left_out_and_named(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(png(block("red")))
    bad.write_bytes(good.read_bytes()[:40])
    stored = StoredPictures(
        pictures=[
            Picture(where="bad", path=str(bad), n_bytes=40),
            Picture(where="good", path=str(good), n_bytes=good.stat().st_size),
            Picture(where="none", path=""),
            Picture(where="gone", path=str(tmp_path / "gone.png"), n_bytes=5),
            Picture(where="folder", path=str(tmp_path), n_bytes=5),
            Picture(where="huge", path=str(good), n_bytes=1 << 40),
        ]
    )
    found = colour_embedder().pictures(stored)
    assert found.rows_N.tolist() == [1]
    assert len(found.features_ND) == 1
    reasons = {one.where: one.reason for one in found.unread}
    assert reasons.pop("none") == "missing_image"
    assert reasons.pop("huge") == "image_too_large"
    assert reasons.pop("bad") in {"image_truncated", "image_undecodable"}
    assert reasons == {"gone": "image_undecodable", "folder": "image_undecodable"}


def test_the_pixel_cap_holds(tmp_path: Path) -> None:
    file = tmp_path / "large.png"
    file.write_bytes(png(block("red", px=64)))
    picture = Picture(where="large", path=str(file), n_bytes=file.stat().st_size)
    with pytest.raises(ShardError, match="none of 1 pictures can be read; the first: large, image_too_large"):
        colour_embedder().pictures(StoredPictures(pictures=[picture], max_pixels=64 * 64 - 1))


def test_stamps_see_the_position_and_chosen_pictures_only() -> None:
    seen: list[int] = []

    def stamp(position: int, image: np.ndarray) -> np.ndarray:
        seen.append(position)
        return block("blue")

    embedder = colour_embedder(workers=1)
    four = PicturesInMemory([block("red")] * 4)
    found = embedder.pictures(four, chosen=np.asarray([1, 3]), stamp=stamp)
    assert seen == [1, 3] == found.rows_N.tolist()
    assert found.features_ND.argmax(axis=1).tolist() == [2, 2]


def test_a_long_picture_is_cut_to_its_middle() -> None:
    long = np.zeros((1, 1000, 3), dtype=np.uint8)
    long[:, 492:508] = (0, 255, 0)
    assert embed_images(ColourClip(), [long])[0].argmax() == 1


def test_modules_get_their_mode_back() -> None:
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.BatchNorm1d(2))
    model[1].eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model] == [True, False]
    assert model.training


class Diverged(ColourTowers):
    def encode_image(self, pixels_N: torch.Tensor) -> torch.Tensor:
        return torch.full((len(pixels_N), 4), float("nan"))


def test_features_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(EncoderError, match="not finite"):
        embed_images(ColourClip(model=Diverged()), [block("red")])


def test_hostile_texts_are_cut_before_they_are_tokenised() -> None:
    embedder = colour_embedder()
    embedder.texts(["x" * 10_000, "a " * 10_000, "red"])
    assert isinstance(embedder.model, ColourClip)
    assert [len(text) for text in embedder.model.texts] == [4 * 77, 26 * 77, 3]
