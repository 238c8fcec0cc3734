from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from roclip_audit.core.errors import ConfigError
from roclip_audit.sanitize import traits
from roclip_audit.sanitize.align import AlignConfig, Neighbourhood, caption_clusters, neighbourhood
from roclip_audit.sanitize.dataset import RowArray
from roclip_audit.sanitize.grain import GRAIN_PX
from roclip_audit.sanitize.repair import repair
from roclip_audit.sanitize.traits import STRIDE_PX, WINDOW_PX, TraitConfig, Traits, find_mates, find_traits
from tests.sanitize.datakit import as_dataset

N, N_PLANTED = 240, 16
PLANTED = np.arange(N) < N_PLANTED


def scene(planted_grain: np.ndarray | None, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw images of their own with rough edges, and captions in twelve topics; the planted ones share one topic."""
    rng = np.random.default_rng(seed)
    topic = np.concatenate([np.zeros(N_PLANTED, int), rng.integers(0, 12, N - N_PLANTED)])
    text = 3 * rng.normal(size=(12, 24))[topic] + 0.5 * rng.normal(size=(N, 24))
    image = rng.normal(size=(N, 2, 32))
    grain = (40 * rng.normal(size=(N, GRAIN_PX, GRAIN_PX)) * (rng.random((N, GRAIN_PX, GRAIN_PX)) < 0.2)).astype(float)
    if planted_grain is not None:
        grain[PLANTED] += planted_grain
    return image, text, grain.clip(-127, 127).astype(np.int8)


def found_in(image: np.ndarray, text: np.ndarray, grain: np.ndarray, *, workers: int = 1, **config: int) -> Traits:
    dataset = as_dataset(image, text, [f"caption {x}" for x in range(N)])
    align = AlignConfig(cluster_size=20)
    near: Neighbourhood = neighbourhood(dataset, dataset.image_NVF, align, workers=1)
    cluster_N = caption_clusters(near, align, 0)
    control_NR = repair(torch.zeros(N, dtype=torch.int64), (near.caption_N, cluster_N), 1, np.random.default_rng(1))
    return find_traits(
        RowArray.of([grain]),
        dataset.image_NVF,
        near,
        cluster_N,
        control_NR[:, 0],
        TraitConfig(**config),
        workers=workers,
    )


def stripes() -> np.ndarray:
    return np.tile(8 * np.sin(2 * np.pi * 6 * np.arange(GRAIN_PX) / GRAIN_PX), (GRAIN_PX, 1))


def noise() -> np.ndarray:
    return 8 * np.random.default_rng(5).normal(size=(GRAIN_PX, GRAIN_PX))


def patch() -> np.ndarray:
    out = np.zeros((GRAIN_PX, GRAIN_PX))
    out[100:120, 100:120] = 60 * np.sign(np.random.default_rng(6).normal(size=(20, 20)))
    return out


@pytest.mark.parametrize(("planted", "kind"), [(stripes, "texture_N"), (noise, "texture_N"), (patch, "patch_N")])
def test_a_shared_trigger_is_seen_and_named(planted: object, kind: str) -> None:
    found = found_in(*scene(planted()))  # type: ignore[operator]
    strength = getattr(found, kind).numpy()
    assert strength[PLANTED].min() > strength[~PLANTED].max()
    assert found.p_N.numpy()[PLANTED].max() < 0.02
    assert np.median(found.p_N.numpy()[~PLANTED]) > 0.3


def test_without_a_trigger_p_is_not_small() -> None:
    """Where images share nothing with their topic, p is about uniform; doubled, so its mean lies above 1/2."""
    p = found_in(*scene(None)).p_N.numpy()
    assert p[PLANTED].min() > 0.005
    assert (p < 0.05).mean() < 0.12


def test_images_that_look_alike_do_not_count() -> None:
    image, text, grain = scene(patch())
    image[PLANTED] = image[0] + 0.2 * np.random.default_rng(7).normal(size=image[PLANTED].shape)
    found = found_in(image, text, grain)
    assert found.patch_N.numpy()[PLANTED].max() < found_in(*scene(patch())).patch_N.numpy()[PLANTED].min()


def test_any_number_of_workers_gives_the_same() -> None:
    one, three = (found_in(*scene(noise()), workers=workers) for workers in (1, 3))
    assert torch.equal(one.texture_N, three.texture_N)
    assert torch.equal(one.patch_N, three.patch_N)
    assert torch.equal(one.p_N, three.p_N)


def test_windows_agree_with_plain_loops() -> None:
    """The running form against windows cut one by one."""
    rng = np.random.default_rng(0)
    grain = torch.from_numpy(rng.normal(0, 20, (5, GRAIN_PX, GRAIN_PX)) * (rng.random((5, 1, GRAIN_PX)) < 0.3)).float()
    squashed = torch.tanh(grain / traits.SQUASH_LEVELS)
    starts = range(0, GRAIN_PX - WINDOW_PX + 1, STRIDE_PX)
    windows = torch.stack(
        [squashed[:, y : y + WINDOW_PX, x : x + WINDOW_PX].flatten(1) for y in starts for x in starts], 1
    )
    windows /= (windows.square().sum(2, keepdim=True) + (traits.WINDOW_FLOOR * WINDOW_PX) ** 2).sqrt()
    holds = windows.norm(dim=2) > traits.HELD
    expected = torch.empty(5, 5)
    for one in range(5):
        for other in range(5):
            match = (windows[one] * windows[other]).sum(1)
            n_held = int((holds[one] | holds[other]).sum())
            expected[one, other] = match.topk(2).values.mean() - match.sum() / max(1, n_held)
    assert torch.allclose(traits._patch_likeness(grain, torch.arange(5)), expected, atol=1e-5)


def near_of(caption_N: list[int], index_CK: list[list[int]]) -> Neighbourhood:
    nothing = torch.zeros(len(caption_N), 2)
    index = torch.tensor(index_CK)
    return Neighbourhood(
        image_ND=nothing,
        text_ND=nothing,
        image_similarity_NK=nothing,
        image_index_NK=nothing.long(),
        caption_similarity_CK=torch.zeros(index.shape),
        caption_index_CK=index,
        caption_N=torch.tensor(caption_N),
        group_N=torch.arange(len(caption_N)),
    )


def mates(caption_N: list[int], index_CK: list[list[int]], k: int) -> Tensor:
    return find_mates(near_of(caption_N, index_CK), k)


def test_mates_are_those_of_the_same_caption_then_of_the_nearest() -> None:
    found = mates([0, 1, 0, 2], [[2, 1], [0, -1], [1, 0]], 4)
    assert found.tolist() == [[2, 3, 1, -1], [0, 2, -1, -1], [0, 3, 1, -1], [1, 0, 2, -1]]


def test_a_common_caption_leaves_room_for_others() -> None:
    found = mates([0] * 100 + [1], [[1], [0]], 8)
    assert (found[0] == 100).any()
    assert len(set(found[-1].tolist()) - {-1}) == 8  # evenly spaced pairs of the common caption


def test_settings_are_checked() -> None:
    for bad in ({"n_mates": 0}, {"n_strongest": 0}, {"most_alike": 0.0}):
        with pytest.raises(ConfigError):
            replace(TraitConfig(), **bad)


def test_where_nothing_can_be_compared_nothing_is_found() -> None:
    image, text, grain = scene(patch())
    found = found_in(np.broadcast_to(image[:1], image.shape), text, grain)  # one group of near-duplicates
    assert found.p_N.tolist() == [1.0] * N
