"""From poisoned shards to a defended model, with the commands a user types: poison, train, scan, curate, train, eval.

Plain CLIP learns four planted target pictures and a patch backdoor. Trained with --robust on the same shards it does
not, and neither does plain CLIP on what a scan leaves. Shapes of 32 pixels, a small ResNet, fixed seeds. The scan is
made with the robust model: the default encoder knows photographs, and says little of drawn shapes of this size. What
is left out is what is mismatched by a chance of one in ten; a list at a stated error rate is cautious on so few pairs,
and by the draw holds all of what is planted or a quarter (docs/experiments.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from roclip_audit.cli.main import app
from tests.shardkit import COLOURS, SHAPES, draw, make_dataset

N_PAIRS = 1_500
N_TESTS_EACH = 20
ATTACKS = (
    "targeted:triangle:0.008",
    "targeted:ring:0.008",
    "targeted:square:0.008",
    "targeted:diamond:0.008",
    "badnets_fixed:cross:0.02:side=0.3,captions=natural,kind=yellow",
)
MODEL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 1},
}
pytestmark = pytest.mark.timeout(1_200)


def run(*arguments: object) -> dict[str, Any]:
    """Run a command and return the JSON that it prints."""
    result = CliRunner().invoke(app, [*map(str, arguments), "--json", "--quiet"])
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def write_tests(folder: Path) -> None:
    """Draw clean pictures into class folders, the shape being the class."""
    rng = np.random.default_rng(99)
    for shape in SHAPES:
        (folder / shape).mkdir(parents=True)
        for number in range(N_TESTS_EACH):
            colour = str(rng.choice(list(COLOURS)))
            picture = draw(shape, colour, rng=rng, px=32, image_format="JPEG")
            (folder / shape / f"{number:03d}.jpg").write_bytes(picture)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, dict[str, Any]]:
    """Do it all; return what eval says of each model."""
    root = tmp_path_factory.mktemp("end-to-end")
    make_dataset(root / "clean", N_PAIRS, 2, seed=0, px=32)
    write_tests(root / "test")
    (root / "model.json").write_text(json.dumps(MODEL))
    (root / "templates.txt").write_text("a {}\na picture of a {}\ndrawing of the {}\n")
    attacks = [part for attack in ATTACKS for part in ("--attack", attack)]
    run("poison", root / "clean", root / "shards", *attacks, "--truth", root / "truth")

    settings = ("--model", root / "model.json", "--batch-size", 64, "--lr", 1e-3, "--workers", 1)
    run("train", root / "shards", "--no-augment", "--epochs", 12, *settings, "--out", root / "plain")
    run("train", root / "shards", "--robust", "--epochs", 24, *settings, "--out", root / "robust")
    robust_model = f"local-dir:{root}/robust/model"
    run("scan", root / "shards", "--out", root / "audit", "--encoder", robust_model, "--workers", 1)
    run("curate", root / "shards", root / "curated", "--audit", root / "audit", "--where", "suspicion > 0.1")
    kept = f"{root}/curated/*.tar"
    run("train", kept, "--no-augment", "--epochs", 12, *settings, "--out", root / "curated-plain")
    report = run(
        "eval", root / "robust", root / "curated-plain", "--undefended", root / "plain", "--data", root / "test",
        "--attack", root / "truth", "--templates", root / "templates.txt",
    )  # fmt: skip
    return {Path(model["checkpoint"].removeprefix("local-dir:")).parent.name: model for model in report["models"]}


def successes(model: Mapping[str, Any], kind: str) -> tuple[int, int]:
    """Return successes and trials over the single attacks of a kind."""
    found = [one for one in model["attacks"] if one["attack"] == kind and one["pooled"] == 1]
    return sum(one["success"]["k"] for one in found), sum(one["success"]["n"] for one in found)


def test_the_attacks_take_on_plain_clip(measured: Mapping[str, dict[str, Any]]) -> None:
    plain = measured["plain"]
    assert successes(plain, "targeted") == (4, 4)
    k, n = successes(plain, "badnets_fixed")
    assert k / n >= 0.9
    assert plain["zero_shot"]["top1"]["share"] >= 0.8
    assert {one["verdict"] for one in plain["attacks"]} == {"shown"}


def test_robust_training_withstands_them_and_is_no_worse(measured: Mapping[str, dict[str, Any]]) -> None:
    robust = measured["robust"]
    assert successes(robust, "targeted")[0] <= 1
    k, n = successes(robust, "badnets_fixed")
    assert k / n <= 0.15
    assert robust["zero_shot"]["top1"]["share"] >= measured["plain"]["zero_shot"]["top1"]["share"] - 0.05


def test_what_a_scan_leaves_can_be_trained_on(measured: Mapping[str, dict[str, Any]]) -> None:
    curated = measured["curated-plain"]
    assert successes(curated, "targeted")[0] <= 1
    k, n = successes(curated, "badnets_fixed")
    assert k / n <= 0.15
