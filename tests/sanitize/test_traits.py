from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from roclip_audit.core.errors import ConfigError
from roclip_audit.sanitize.align import AlignConfig, Neighbourhood, caption_clusters, neighbourhood
from roclip_audit.sanitize.dataset import RowArray
from roclip_audit.sanitize.detail import DIM, GRID, N_PLACES
from roclip_audit.sanitize.grain import GRAIN_PX
from roclip_audit.sanitize.repair import repair
from roclip_audit.sanitize.traits import TraitConfig, Traits, find_traits
from tests.sanitize.datakit import as_dataset

N, N_PLANTED = 240, 8
PLANTED = np.arange(N) < N_PLANTED


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Images of their own, and captions in twelve topics; the planted ones share one topic."""

    image: np.ndarray
    text: np.ndarray
    grain: np.ndarray
    detail: np.ndarray


def scene(planted: str = "", seed: int = 0) -> Scene:
    """Draw images with rough edges; the planted ones have ``stripes``, ``noise`` or a ``patch`` in common."""
    rng = np.random.default_rng(seed)
    topic = np.concatenate([np.zeros(N_PLANTED, int), rng.integers(0, 12, N - N_PLANTED)])
    text = 3 * rng.normal(size=(12, 24))[topic] + 0.5 * rng.normal(size=(N, 24))
    image = rng.normal(size=(N, 2, 32))
    grain = (40 * rng.normal(size=(N, GRAIN_PX, GRAIN_PX)) * (rng.random((N, GRAIN_PX, GRAIN_PX)) < 0.2)).astype(float)
    detail = 8 * rng.normal(size=(N, GRID, GRID, DIM))
    if planted == "stripes":
        grain[PLANTED] += np.tile(8 * np.sin(2 * np.pi * 6 * np.arange(GRAIN_PX) / GRAIN_PX), (GRAIN_PX, 1))
    if planted == "noise":
        grain[PLANTED] += 8 * np.random.default_rng(5).normal(size=(GRAIN_PX, GRAIN_PX))
    if planted == "patch":
        detail[PLANTED, 25:28, 25:28] = 25 * np.random.default_rng(6).normal(size=(3, 3, DIM))
    return Scene(
        image=image,
        text=text,
        grain=grain.clip(-127, 127).astype(np.int8),
        detail=detail.clip(-127, 127).astype(np.int8).reshape(N, N_PLACES, DIM),
    )


def found_in(drawn: Scene, *, workers: int = 1, **config: int) -> Traits:
    dataset = as_dataset(drawn.image, drawn.text, [f"caption {x}" for x in range(N)])
    align = AlignConfig(cluster_size=20)
    near: Neighbourhood = neighbourhood(dataset, dataset.image_NVF, align, workers=1)
    cluster_N = caption_clusters(near, align, 0)
    control_NR = repair(torch.zeros(N, dtype=torch.int64), (near.caption_N, cluster_N), 1, np.random.default_rng(1))
    return find_traits(
        RowArray.of([drawn.grain]),
        RowArray.of([drawn.detail]),
        dataset.image_NVF,
        range(dataset.image_NVF.row_shape[0]),
        near,
        cluster_N,
        control_NR[:, 0],
        TraitConfig(**config),
        workers=workers,
    )


@pytest.mark.parametrize(("planted", "kind"), [("stripes", "texture_N"), ("noise", "texture_N"), ("patch", "patch_N")])
def test_a_shared_trigger_is_seen_and_named(planted: str, kind: str) -> None:
    found = found_in(scene(planted))
    strength = getattr(found, kind).numpy()
    assert strength[PLANTED].min() > strength[~PLANTED].max()
    assert found.p_N.numpy()[PLANTED].max() < 0.02
    assert np.median(found.p_N.numpy()[~PLANTED]) > 0.3


def test_without_a_trigger_p_is_not_small() -> None:
    """Where images share nothing with their topic, p is about uniform; doubled, so its mean lies above 1/2."""
    p = found_in(scene()).p_N.numpy()
    assert p[PLANTED].min() > 0.005
    assert (p < 0.05).mean() < 0.12


@pytest.mark.parametrize(("planted", "kind"), [("noise", "texture_N"), ("patch", "patch_N")])
def test_images_that_look_alike_do_not_count(planted: str, kind: str) -> None:
    drawn = scene(planted)
    image = drawn.image.copy()
    image[PLANTED] = image[0] + 0.2 * np.random.default_rng(7).normal(size=image[PLANTED].shape)
    alike, unlike = (getattr(found_in(each), kind).numpy() for each in (replace(drawn, image=image), drawn))
    assert alike[PLANTED].max() < unlike[PLANTED].min()


def test_the_place_of_a_patch_is_told() -> None:
    found = found_in(scene("patch"))
    for place_N in (found.patch_x_N, found.patch_y_N):
        assert place_N.numpy()[PLANTED] - 26.5 / GRID == pytest.approx(0, abs=1 / GRID)


def test_any_number_of_workers_gives_the_same() -> None:
    one, three = (found_in(scene("noise"), workers=workers) for workers in (1, 3))
    assert torch.equal(one.texture_N, three.texture_N)
    assert torch.equal(one.patch_N, three.patch_N)
    assert torch.equal(one.p_N, three.p_N)


def test_settings_are_checked() -> None:
    for bad in ({"n_mates": 0}, {"n_strongest": 0}, {"most_alike": 0.0}):
        with pytest.raises(ConfigError):
            replace(TraitConfig(), **bad)


def test_where_nothing_can_be_compared_nothing_is_found() -> None:
    drawn = scene("patch")
    found = found_in(replace(drawn, image=np.broadcast_to(drawn.image[:1], drawn.image.shape)))  # one group of copies
    assert found.p_N.tolist() == [1.0] * N
