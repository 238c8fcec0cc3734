"""Augmentation of a batch, one step at a time against torchvision's."""

from __future__ import annotations

import colorsys
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from roclip_audit.core.checkpoint import import_open_clip
from roclip_audit.core.errors import ConfigError
from roclip_audit.train.data.augment import (
    LIGHT,
    N_DRAWS,
    AugmentConfig,
    augment,
    canvas_px,
    colour_map,
    crop_boxes,
    cut,
    draw,
    whole,
)

import_open_clip()  # torchvision may need its help
from torchvision.transforms import RandomResizedCrop  # noqa: E402
from torchvision.transforms import functional as reference  # noqa: E402

STILL = AugmentConfig(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, jitter=0.0, grey=0.0, blur=0.0)
STRONG = AugmentConfig()
JITTER_ONLY = replace(STRONG, jitter=1.0, grey=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)


def canvases(n: int = 4, side: int = 40, *, seed: int = 0) -> Tensor:
    """Return smooth uint8 pictures."""
    coarse = torch.rand(n, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return (F.interpolate(coarse, side, mode="bicubic").clamp(0, 1) * 255).round().to(torch.uint8)


def some_draws(n: int = 4, **places: float) -> Tensor:
    """Return draws of .5, which mean no change of a factor, with some of them set."""
    draws = torch.full((n, N_DRAWS), 0.5)
    for name, value in places.items():
        draws[:, int(name.removeprefix("d"))] = value
    return draws


@pytest.mark.parametrize("aspect", [1.0, 0.4, 2.5])
def test_draws_that_mean_nothing_reproduce_the_canvas(aspect: float) -> None:
    pixels = canvases()
    config = replace(STILL, ratio=(aspect, aspect))  # the whole picture, in its own geometry
    out = augment(pixels, torch.full((4,), aspect), some_draws(), config, 40)
    torch.testing.assert_close(out, pixels.float() / 255, atol=1e-5, rtol=0)


def test_a_flip_mirrors() -> None:
    pixels = canvases()
    flipped = augment(pixels, torch.ones(4), some_draws(d4=0.0), replace(STILL, flip=0.5), 40)
    torch.testing.assert_close(flipped, reference.hflip(pixels.float() / 255), atol=1e-5, rtol=0)
    same = augment(pixels, torch.ones(4), some_draws(d4=0.5), replace(STILL, flip=0.5), 40)
    torch.testing.assert_close(same, pixels.float() / 255, atol=1e-5, rtol=0)


def test_a_cut_is_torchvisions_resized_crop() -> None:
    pixels = canvases(1)
    box = torch.tensor([[8 / 40, 4 / 40, 16 / 40, 32 / 40]])
    ours = cut(pixels, box, torch.tensor([False]), 32)
    theirs = reference.resized_crop(pixels.float() / 255, 4, 8, 32, 16, [32, 32], antialias=False)
    inside = slice(2, -2)  # torchvision cuts first, so that its border knows nothing of what is beyond
    torch.testing.assert_close(ours[..., inside, inside], theirs[..., inside, inside], atol=1e-5, rtol=0)


@pytest.mark.parametrize("aspect", [0.3, 1.0, 1.7])
def test_crops_stay_inside_with_area_and_ratio_in_bounds(aspect: float) -> None:
    n = 20_000
    box = crop_boxes(torch.full((n,), aspect), draw(n, seed=0, epoch=1, step=0, view=0), STRONG)
    left, top, width, height = box.unbind(dim=1)
    assert float(box.min()) >= 0
    assert float((left + width).max()) <= 1 + 1e-6
    assert float((top + height).max()) <= 1 + 1e-6
    area, ratio = width * height, width / height * aspect
    assert float(area.max()) <= 1 + 1e-6
    free = (width < 1) & (height < 1)
    assert float(area[free].min()) >= 0.08 - 1e-6
    assert 3 / 4 - 1e-5 <= float(ratio[free].min()) <= float(ratio[free].max()) <= 4 / 3 + 1e-5


def test_crops_are_distributed_as_torchvisions() -> None:
    """With areas of which none leaves the picture, so that neither draws again. Kolmogorov-Smirnov, about 1e-4."""
    n, side = 3_000, 4_000
    config = replace(STRONG, scale=(0.08, 0.5))
    ours = crop_boxes(torch.ones(n), draw(n, seed=1, epoch=1, step=0, view=0), config).double()
    picture = torch.empty(1, side, side)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [RandomResizedCrop.get_params(picture, [0.08, 0.5], [3 / 4, 4 / 3]) for _ in range(n)]
    top, left, height, width = (torch.tensor(drawn, dtype=torch.float64) / side).unbind(dim=1)

    def statistics(left: Tensor, top: Tensor, width: Tensor, height: Tensor) -> list[Tensor]:
        return [width * height, (width / height).log(), left / (1 - width), top / (1 - height)]

    for mine, other in zip(statistics(*ours.unbind(dim=1)), statistics(left, top, width, height), strict=True):
        assert ks_distance(mine, other) < 2.2 * math.sqrt(2 / n)


def ks_distance(one: Tensor, other: Tensor) -> float:
    everywhere = torch.cat([one, other]).sort().values
    shares = [torch.searchsorted(x.sort().values, everywhere, right=True) / len(x) for x in (one, other)]
    return float((shares[0] - shares[1]).abs().max())


def test_a_crop_of_a_wide_picture_is_that_of_the_picture_itself() -> None:
    """A square crop of a 80 x 40 picture, squashed to 40 x 40, is half as wide on the canvas."""
    config = replace(STILL, scale=(0.5, 0.5))
    box = crop_boxes(torch.tensor([2.0]), some_draws(1), config)
    assert box[0].tolist() == pytest.approx([0.25, 0.0, 0.5, 1.0])


@pytest.mark.parametrize(("width", "height"), [(80, 40), (40, 80), (40, 40), (55, 40)])
def test_whole_is_the_central_crop(width: int, height: int) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    canvas = torch.from_numpy(np.array(picture.resize((40, 40), Image.Resampling.BICUBIC))).permute(2, 0, 1)[None]
    ours = whole(canvas, torch.tensor([width / height]), 32)[0]
    theirs = reference.to_tensor(reference.center_crop(picture, [min(width, height)] * 2).resize((32, 32)))
    assert float((ours - theirs).abs().mean()) < 0.02
    if width == height:
        untouched = F.interpolate(canvas.float() / 255, 32, mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(ours, untouched, atol=1e-5, rtol=0)


def mapped(pixels: Tensor, draws: Tensor, config: AugmentConfig) -> Tensor:
    """Apply a colour map without the clamp."""
    matrix, offset = colour_map(pixels.mean(dim=(2, 3)), draws, config)
    return (torch.einsum("nij,njhw->nihw", matrix, pixels) + offset[:, :, None, None]).clamp(-9, 9)


PALE = canvases().float() / 255 * 0.3 + 0.35
"""Pictures in the middle of the range, of which no operation leaves 0 to 1, so that torchvision clamps nothing."""


@pytest.mark.parametrize("value", [0.05, 0.4, 0.9])
@pytest.mark.parametrize(
    ("name", "place", "operation"),
    [
        ("brightness", 6, reference.adjust_brightness),
        ("contrast", 7, reference.adjust_contrast),
        ("saturation", 8, reference.adjust_saturation),
    ],
)
def test_each_factor_is_torchvisions(name: str, place: int, operation: object, value: float) -> None:
    config = replace(JITTER_ONLY, **{name: 0.5})
    ours = mapped(PALE, some_draws(**{f"d{place}": value}), config)
    theirs = operation(PALE, 1 + 0.5 * (2 * value - 1))  # type: ignore[operator]
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0)  # their grey is .2989 red, ours .299


def test_grey_is_torchvisions() -> None:
    config = replace(JITTER_ONLY, jitter=0.0, grey=0.2)
    torch.testing.assert_close(
        mapped(PALE, some_draws(d10=0.1), config), reference.rgb_to_grayscale(PALE, 3), atol=2e-4, rtol=0
    )
    torch.testing.assert_close(mapped(PALE, some_draws(d10=0.2), config), PALE)


@pytest.mark.parametrize("value", [0.0, 0.3, 0.99])
def test_a_turn_of_hue_keeps_the_luma_and_turns_back(value: float) -> None:
    config = replace(JITTER_ONLY, hue=0.1)
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    turned = mapped(PALE, some_draws(d9=value), config)
    torch.testing.assert_close((turned * luma).sum(dim=1), (PALE * luma).sum(dim=1), atol=1e-5, rtol=0)
    assert float((turned - PALE).abs().max()) > 0.005
    torch.testing.assert_close(mapped(turned, some_draws(d9=1 - value), config), PALE, atol=1e-5, rtol=0)


def test_a_turn_of_hue_goes_about_as_far_as_torchvisions() -> None:
    """The other way round, which is the same: the draw is symmetrical."""
    red = torch.tensor([0.6, 0.4, 0.4]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    config = replace(JITTER_ONLY, hue=0.1)
    for value in (0.0, 0.25, 1.0):
        ours = mapped(red, some_draws(1, d9=value), config)[0, :, 0, 0]
        theirs = reference.adjust_hue(red, 0.1 * (1 - 2 * value))[0, :, 0, 0]
        hues = [colorsys.rgb_to_hsv(*colour.tolist())[0] for colour in (ours, theirs)]
        assert (hues[0] - hues[1] + 0.5) % 1 - 0.5 == pytest.approx(0, abs=0.05)


def test_all_colours_together_are_the_steps_one_after_the_other() -> None:
    """Brightness, saturation, hue, grey, contrast: the order in which the map composes them."""
    draws = some_draws(d6=0.3, d7=0.7, d8=0.6)
    config = replace(STRONG, jitter=1.0, grey=0.0)
    expected = reference.adjust_brightness(PALE, 1 + 0.5 * (2 * 0.3 - 1))
    expected = reference.adjust_saturation(expected, 1 + 0.5 * (2 * 0.6 - 1))
    expected = reference.adjust_contrast(expected, 1 + 0.5 * (2 * 0.7 - 1))
    torch.testing.assert_close(mapped(PALE, draws, config), expected, atol=1e-3, rtol=0)


def test_no_jitter_without_its_draw() -> None:
    draws = torch.rand(4, N_DRAWS, generator=torch.Generator().manual_seed(3))
    draws[:, 5] = 0.9
    torch.testing.assert_close(mapped(PALE, draws, replace(STRONG, grey=0.0)), PALE)


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0 - 1e-6])
def test_a_blur_is_torchvisions(chance: float) -> None:
    """At 224 pixels, where sigma is .1 to 2; the kernel ends at 2.5 sigma of the widest, 11 of torchvision's 21."""
    pixels = canvases(2, 224)
    ours = augment(pixels, torch.ones(2), some_draws(2, d11=chance), replace(STILL, blur=1.0), 224)
    sigma = 0.1 + 1.9 * chance
    inside = slice(10, -10)
    for size, tolerance in ((11, 1e-5), (21, 2e-3)):
        theirs = reference.gaussian_blur(pixels.float() / 255, [size, size], [sigma, sigma])
        torch.testing.assert_close(
            ours[..., inside, inside], theirs[..., inside, inside], atol=tolerance, rtol=0, msg=f"kernel {size}"
        )


def test_a_blur_scales_with_the_picture() -> None:
    pixels = canvases(1, 56, seed=5)
    ours = augment(pixels, torch.ones(1), some_draws(1, d11=1.0 - 1e-6), replace(STILL, blur=1.0), 56)
    theirs = reference.gaussian_blur(pixels.float() / 255, [5, 5], [0.5, 0.5])
    torch.testing.assert_close(ours[..., 4:-4, 4:-4], theirs[..., 4:-4, 4:-4], atol=1e-4, rtol=0)


def test_a_part_of_the_batch_is_that_part_of_the_result() -> None:
    pixels, aspect = canvases(8), torch.linspace(0.4, 2.0, 8)
    draws = draw(8, seed=0, epoch=1, step=3, view=0)
    together = augment(pixels, aspect, draws, STRONG, 32)
    for part in (slice(0, 4), slice(4, 8), slice(5, 6)):
        alone = augment(pixels[part], aspect[part], draws[part], STRONG, 32)
        torch.testing.assert_close(alone, together[part], atol=1e-6, rtol=0)


def test_results_stay_in_range_and_differ() -> None:
    out = augment(canvases(16), torch.ones(16), draw(16, seed=0, epoch=1, step=0, view=0), STRONG, 32)
    assert out.shape == (16, 3, 32, 32)
    assert out.dtype == torch.float32
    assert 0 <= float(out.min()) <= float(out.max()) <= 1 + 1e-5
    light = augment(canvases(16), torch.ones(16), draw(16, seed=0, epoch=1, step=0, view=0), LIGHT, 32)
    assert float((out - light).abs().mean()) > 0.02


def test_every_step_view_epoch_and_seed_has_draws_of_its_own() -> None:
    places = [{"seed": 0, "epoch": 1, "step": 0, "view": 0} | {name: 5} for name in ("seed", "epoch", "step", "view")]
    drawn = [draw(3, **place) for place in places]
    assert all(torch.equal(one, draw(3, **place)) for one, place in zip(drawn, places, strict=True))
    assert len({one.numpy().tobytes() for one in drawn}) == 4
    assert all(0 <= float(one.min()) <= float(one.max()) < 1 for one in drawn)


@pytest.mark.parametrize("changes", [{"scale": (0.0, 1.0)}, {"scale": (0.5, 0.2)}, {"ratio": (0.0, 1.0)}])
def test_a_crop_that_cannot_be_is_refused(changes: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(ConfigError):
        AugmentConfig(**changes)


def test_a_canvas_is_a_quarter_larger() -> None:
    assert [canvas_px(side) for side in (32, 64, 224)] == [40, 80, 280]
