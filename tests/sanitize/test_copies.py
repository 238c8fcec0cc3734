from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from roclip_audit.sanitize.align import Neighbourhood
from roclip_audit.sanitize.copies import LIKELY, MOST_COMPARED, Copies, CountedCopies, find_copies
from roclip_audit.sanitize.dataset import RowArray
from roclip_audit.sanitize.detail import DIM, N_PLACES, Canvas, Detail
from tests.encoderkit import pictures


def saved_again(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def cropped(image: Image.Image, left: float, top: float, kept: float) -> Image.Image:
    width, height = image.size
    box = (left * width, top * height, (left + kept) * width, (top + kept) * height)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=box)


def star(n_points: int, radius: float) -> Image.Image:
    side = 160
    down, across = np.mgrid[:side, :side] - side / 2 + 0.5
    edge = radius * (1 + 0.35 * np.cos(n_points * np.arctan2(down, across)))
    pixels = np.full((side, side, 3), 255, np.uint8)
    pixels[np.hypot(down, across) < edge] = (40, 60, 200)
    return Image.fromarray(pixels)


def around(n: int, cosine: float = 1.0) -> Neighbourhood:
    """All images are near to each other."""
    everyone = torch.arange(n)
    return Neighbourhood(
        image_ND=torch.ones(n, 1),
        text_ND=torch.ones(n, 1),
        image_similarity_NK=torch.full((n, n), cosine),
        image_index_NK=everyone.expand(n, n).contiguous(),
        caption_similarity_CK=torch.ones(n, 0),
        caption_index_CK=torch.zeros(n, 0, dtype=torch.int64),
        caption_N=everyone,
        group_N=torch.zeros(n, dtype=torch.int64),
    )


def copies_of(images: list[Image.Image], cosine: float = 1.0, workers: int = 1) -> Copies:
    detail = Detail.load().look([Canvas.of(image) for image in images])
    return find_copies(RowArray.of([detail]), around(len(images), cosine), workers=workers)


def test_files_saved_again_are_the_same_and_crops_are_versions() -> None:
    drawn = pictures(12, sides=(90, 130))
    images = [*drawn, saved_again(drawn[0], 75), saved_again(drawn[0], 90), cropped(drawn[1], 0.0, 0.02, 0.97)]
    found = copies_of(images)
    assert found.same_N[[0, 12, 13]].tolist() == [0, 0, 0]
    assert len(found.same_N[:12].unique()) == 12
    assert int(found.same_N[14]) != int(found.same_N[1])
    assert int(found.version_N[14]) == int(found.version_N[1])
    assert len(found.version_N[[0, 12, 13]].unique()) == 1  # the same picture is a version of itself


def test_the_stars_of_a_family_are_different_pictures() -> None:
    found = copies_of([*(star(points, radius) for points in (5, 9, 14) for radius in (40, 60)), *pictures(20)])
    assert len(found.same_N[:6].unique()) == 6


def test_what_the_encoder_tells_apart_is_not_compared() -> None:
    image = pictures(1)[0]
    assert copies_of([image, image, *pictures(6, seed=1)], LIKELY - 0.01).same_N.tolist() == list(range(8))
    assert copies_of([image, image, *pictures(6, seed=1)], LIKELY).same_N[:2].tolist() == [0, 0]


def families(angles: list[float]) -> list[int]:
    """Families of pictures whose whole views lie at these angles; two far ones keep the centre where it is."""
    near = around(len(angles))
    at = torch.tensor(angles, dtype=torch.float64)
    image_ND = torch.stack([at.cos(), at.sin()], 1).float()
    detail = np.random.default_rng(0).integers(-90, 90, (len(angles), N_PLACES, DIM)).astype(np.int8)
    return find_copies(RowArray.of([detail]), replace(near, image_ND=image_ND)).family_N.tolist()


def test_look_alikes_are_a_family_whatever_their_detail() -> None:
    """Angles on a circle, 60 of them: centred where they are. cos(0.5) is 0.88, cos(0.6) 0.83."""
    spread = [6.2832 * place / 40 for place in range(40)]
    apart = [angle for place, angle in enumerate(spread) if place % 4 == 0]  # 0.63 from one to the next
    assert len(set(families(apart))) == len(apart)


def test_a_family_that_is_much_of_the_data_falls_apart_into_versions() -> None:
    spread = [6.2832 * place / 40 for place in range(40)]  # 0.16 from one to the next: one chain
    assert len(set(families(spread))) == 40
    apart = [6.2832 * place / 8 for place in range(8)]
    few = families([*apart * 12, 0.1, 0.2])
    assert len(set(few)) > 8


def test_a_caption_does_not_conflict_with_itself_and_many_are_sampled() -> None:
    same = torch.zeros(200, dtype=torch.int64)
    copies = Copies(same_N=same, version_N=same, family_N=same)
    rng = torch.Generator().manual_seed(0)
    one = torch.nn.functional.normalize(torch.randn(1, 384, generator=rng), dim=1)
    near = replace(around(200), text_ND=one.expand(200, -1) + 0, caption_N=same)
    assert CountedCopies.of(copies, near, torch.arange(200).roll(1)).n_conflicts_N.tolist() == [0] * 200
    texts = torch.nn.functional.normalize(torch.randn(200, 384, generator=rng), dim=1)
    counted = CountedCopies.of(
        copies, replace(near, text_ND=texts, caption_N=torch.arange(200)), torch.arange(200).roll(1)
    )
    assert 32 < int(counted.n_conflicts_N.min()) <= int(counted.n_conflicts_N.max()) <= MOST_COMPARED
    assert bool((counted.n_conflicts_N < counted.n_same_captions_N).all())


def test_threads_change_nothing_and_blank_pictures_are_one() -> None:
    blank = Image.new("RGB", (64, 64), "white")
    images = [blank, *pictures(70), saved_again(blank, 60)]
    one, many = copies_of(images), copies_of(images, workers=3)
    assert one.same_N.tolist() == many.same_N.tolist()
    assert one.version_N.tolist() == many.version_N.tolist()
    assert int(one.same_N[0]) == int(one.same_N[-1])


def test_counted_by_caption() -> None:
    """Rows 0 and 1 say the same, row 2 something else; unrelated captions have cosines of up to 0.45."""
    angles = torch.tensor([0.0, 0.3, 1.5, 0.1, *([1.4] * 18)])
    near = replace(
        around(22),
        text_ND=torch.stack([angles.cos(), angles.sin()], 1),
        caption_N=torch.tensor([5, 2, 3, 5, *range(6, 24)]),
    )
    control_N = torch.tensor([4, 5, 0, 6, 1, *([0] * 17)])
    copies = Copies(
        same_N=torch.tensor([0, 0, 0, 0, *range(1, 19)]), version_N=torch.arange(22), family_N=torch.arange(22)
    )
    counted = CountedCopies.of(copies, near, control_N)
    assert counted.n_same_N[:5].tolist() == [4, 4, 4, 4, 1]
    assert counted.n_same_captions_N[:5].tolist() == [3, 3, 3, 3, 1]
    assert counted.n_conflicts_N[:5].tolist() == [1, 1, 2, 1, 0]


def test_counted_versions_and_families() -> None:
    copies = Copies(
        same_N=torch.tensor([0, 0, 0, 1]), version_N=torch.tensor([0, 0, 0, 0]), family_N=torch.tensor([0, 0, 1, 1])
    )
    counted = CountedCopies.of(copies, around(4), torch.arange(4))
    assert counted.n_versions_N.tolist() == [4] * 4
    assert counted.family_N.tolist() == [0, 0, 1, 1]
