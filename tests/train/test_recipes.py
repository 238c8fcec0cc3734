"""Recipes, and the settings that no recipe may have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.config import Recipe
from roclip_audit.train.model import model_config
from roclip_audit.train.recipes import RECIPES, auto, find_recipe, paper, small

PLAIN = Recipe(model="RN50", epochs=2, batch_size=8, lr=1e-3)


def test_paper_is_what_was_published() -> None:
    recipe = paper(1_000_000, has_gpu=True)
    assert (recipe.model, recipe.epochs, recipe.batch_size, recipe.lr) == ("RN50", 24, 512, 5e-5)
    assert (recipe.weight_decay, recipe.betas, recipe.eps, recipe.match_every) == (0.1, (0.9, 0.999), 1e-8, 2)
    n_steps = 24 * (1_000_000 // 512)
    assert recipe.warmup * n_steps == pytest.approx(10_000, rel=0.02)
    assert recipe.pool_share * 1_000_000 == pytest.approx(21_845, rel=0.1)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("n_pairs", [1, 40, 1_000, 50_000, 10_000_000])
@pytest.mark.parametrize("has_gpu", [False, True])
def test_every_recipe_can_be_built_for_any_data(name: str, n_pairs: int, has_gpu: bool) -> None:
    recipe = find_recipe(name, n_pairs, has_gpu=has_gpu)
    assert {"embed_dim", "vision_cfg", "text_cfg"} <= model_config(recipe.model).keys()
    if name != "paper" and n_pairs >= 32:
        assert n_pairs // recipe.batch_size >= 2


def test_auto_takes_the_papers_only_for_much_data_on_a_gpu() -> None:
    assert auto(200_000, has_gpu=True) == paper(200_000, has_gpu=True)
    assert auto(199_999, has_gpu=True) == small(199_999, has_gpu=True)
    assert auto(200_000, has_gpu=False) == small(200_000, has_gpu=False)


def test_an_unknown_recipe_names_the_others() -> None:
    with pytest.raises(ConfigError, match="auto, paper, small"):
        find_recipe("large", 100, has_gpu=False)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"epochs": 0}, "epochs 0"),
        ({"batch_size": 1}, "at least 2"),
        ({"match_every": 0}, "match every 0"),
        ({"shuffle_buffer": 0}, "shuffle buffer 0"),
        ({"lr": 0.0}, "lr 0"),
        ({"lr": float("nan")}, "lr nan"),
        ({"weight_decay": -0.1}, "weight decay -0.1"),
        ({"warmup": 1.5}, "warmup 1.5"),
        ({"pool_share": 0.0}, "pool share 0"),
        ({"match_after": 2.0}, "match after 2"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        replace(PLAIN, **changes)
