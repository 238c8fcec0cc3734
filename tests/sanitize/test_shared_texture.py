from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from roclip_audit.sanitize.dataset import RowArray
from roclip_audit.sanitize.grain import EDGE_LEVELS, GRAIN_PX, TEXTURE_FLOOR
from roclip_audit.sanitize.shared_texture import (
    SharedTextures,
    TextureScale,
    find_shared_textures,
)

N, N_VIEWS = 12, 3


def drawn() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(-40, 40, (N, GRAIN_PX, GRAIN_PX)).astype(np.int8), rng.normal(size=(N, N_VIEWS, 16))


def test_cosine_and_likeness_agree_with_plain_loops() -> None:
    grain, image = drawn()
    mates = torch.tensor([[(row + 1) % N, (row + 5) % N, -1] for row in range(N)])
    group = torch.arange(N)
    group[5] = 0  # a copy of the first
    found = find_shared_textures(
        torch.arange(N),
        mates,
        torch.arange(N) // 5,
        RowArray.of([grain]),
        RowArray.of([image]),
        [0, 2],
        group,
        workers=2,
    )
    soft = grain * np.exp(-((grain / EDGE_LEVELS) ** 2))
    soft = soft.reshape(N, -1) / np.sqrt((soft**2).reshape(N, -1).sum(1) + TEXTURE_FLOOR**2 * GRAIN_PX**2)[:, None]
    unit = functional.normalize(torch.from_numpy(image), dim=2)[:, [0, 2]]
    for row in range(N):
        for place, mate in enumerate(mates[row].tolist()):
            if mate < 0 or {row, mate} == {0, 5}:
                assert bool(found.likeness[row, place].isnan())
            else:
                assert float(found.cosine[row, place]) == pytest.approx(float(soft[row] @ soft[mate]), abs=1e-4)
                assert float(found.likeness[row, place]) == pytest.approx(
                    float((unit[row] * unit[mate]).sum(1).min()), abs=1e-4
                )


def shared(cosine: list[list[float]], likeness: list[list[float]]) -> SharedTextures:
    return SharedTextures(cosine=torch.tensor(cosine), likeness=torch.tensor(likeness))


def test_strength_is_read_against_controls_of_the_same_likeness() -> None:
    """Half of the controls look alike and share 0.5 to 0.6, the others share 0 to 0.1."""
    step = torch.linspace(0, 0.1, 500)
    chance = SharedTextures(
        cosine=torch.cat([step, 0.5 + step])[:, None], likeness=torch.cat([torch.zeros(500), torch.ones(500)])[:, None]
    )
    scale = TextureScale.of(chance, most_alike=1.0, n_strongest=1)
    strength = scale.strength(shared([[0.05], [0.55], [0.55]], [[0.0], [1.0], [0.0]])).tolist()
    assert strength[:2] == pytest.approx([0.0, 0.0], abs=0.1)
    assert strength[2] == pytest.approx(0.5 / (0.34 * 0.1), rel=0.05)


def test_what_does_not_count_is_nothing() -> None:
    chance = shared([[0.0], [0.1], [0.2], [0.3]] * 30, [[0.1], [0.2], [0.3], [0.4]] * 30)
    scale = TextureScale.of(chance, most_alike=0.5, n_strongest=4)
    assert scale.strength(shared([[9.0], [9.0]], [[torch.nan], [0.9]])).tolist() == [0.0, 0.0]


def test_without_controls_no_mate_counts() -> None:
    chance = shared([[0.3]] * 5, [[torch.nan]] * 5)
    scale = TextureScale.of(chance, most_alike=0.97, n_strongest=2)
    assert scale.strength(shared([[0.9, 0.8]], [[0.1, 0.2]])).tolist() == [0.0]
