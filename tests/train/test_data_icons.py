"""benchmarks/data_icons.py: how names become captions, and how sets share the places."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "data_icons.py"


@pytest.fixture(scope="module")
def data_icons() -> ModuleType:
    spec = importlib.util.spec_from_file_location("data_icons", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["data_icons"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "words"),
    [("apple-fill-24", "apple"), ("arrow_up-left", "arrow up left"), ("filled-12", "filled 12"), ("4k", "4k")],
)
def test_names_lose_what_says_how_they_are_drawn(data_icons: ModuleType, name: str, words: str) -> None:
    assert data_icons.words_of(name) == words


def test_topics_are_lower_case_words(data_icons: ModuleType) -> None:
    assert data_icons.topic_of("MoneyPayments") == "money payments"
    assert data_icons.topic_of("  Food & Drink ") == "food & drink"


def test_icons_of_a_set(data_icons: ModuleType, tmp_path: Path) -> None:
    described = {
        "width": 24,
        "categories": {"Food": ["apple", "apple-fill"], "Faces": ["emoji-sad"]},
        "icons": {
            "apple": {"body": "<path/>"},
            "apple-fill": {"body": "<path/>"},
            "emoji-sad": {"body": "<path/>"},
            "old": {"body": "<path/>", "hidden": True},
            "car": {"body": "<path/>", "left": 2, "height": 12},
        },
    }
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "toy.json").write_text(json.dumps(described))
    icons = list(data_icons.icons_of(tmp_path, "toy", {"category": "UI"}))
    assert [icon.caption for icon in icons] == ["apple (food)", "car"]
    assert 'viewBox="2 0 24 12" width="128.000" height="64.000"' in icons[1].svg


def test_sets_share_the_places_evenly_until_they_run_out(data_icons: ModuleType) -> None:
    def deck(name: str, n: int) -> list[object]:
        return [data_icons.Icon(set_name=name, name=f"i{k}", caption=f"i{k}", svg="") for k in range(n)]

    decks = {"small": deck("small", 5), "large": deck("large", 100), "other": deck("other", 100)}
    chosen = data_icons.choose(decks, 45, 0)
    counts = {name: sum(icon.set_name == name for icon in chosen) for name in decks}
    assert counts == {"small": 5, "large": 20, "other": 20}
    assert len({(icon.set_name, icon.name) for icon in chosen}) == 45
    assert data_icons.choose(decks, 45, 0) == chosen
    assert data_icons.choose(decks, 45, 1) != chosen
    assert len(data_icons.choose(decks, 1000, 0)) == 205
