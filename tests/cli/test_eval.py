"""`roclip-audit eval`: what it prints and what it ends with."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from roclip_audit.cli.eval import EXAMPLES, evaluate
from roclip_audit.cli.eval_table import describe, share
from roclip_audit.cli.main import Commands
from roclip_audit.core.checkpoint import resolve
from roclip_audit.train.attacks import AttackPlan
from roclip_audit.train.evaluation.pictures import Unread
from roclip_audit.train.evaluation.probe import ProbeResult
from roclip_audit.train.evaluation.proportion import Proportion
from roclip_audit.train.evaluation.report import AttackResult, EvalReport, InputFacts, ModelResult
from roclip_audit.train.evaluation.retrieval import RetrievalResult
from roclip_audit.train.evaluation.zero_shot import ZeroShot
from roclip_audit.train.planting.poison import poison
from tests.encoderkit import save_tiny_clip
from tests.shardkit import make_dataset, make_shard, sample
from tests.train.evaluation.evalkit import class_folders, labelled_shards

APP = typer.Typer(cls=Commands)
APP.command("eval")(evaluate)


@APP.callback()
def _group() -> None:
    """Without a callback a single command would not be named."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("eval")
    for number, name in enumerate(("plain", "defended")):
        save_tiny_clip(root / name / "model", seed=number)
    make_dataset(root / "clean", 40)
    plan = [AttackPlan.parse("targeted:desk:0.1"), AttackPlan.parse("badnets_fixed:red:0.1")]
    poison([str(root / "clean")], root / "p", plan=plan)
    labelled_shards(root / "test.tar", [("red", 0), ("green", 1), ("blue", 2)] * 3, with_json=True)
    class_folders(root / "train", {"red": 3, "green": 3, "blue": 3})
    (root / "templates.txt").write_text("a photo of a {}.\n")
    return root


def run(place: Path, *arguments: str | Path) -> tuple[int, str, str]:
    common = ["--templates", str(place / "templates.txt"), "--device", "cpu", "--quiet"]
    result = CliRunner().invoke(APP, ["eval", *map(str, arguments), *common])
    return result.exit_code, result.stdout, result.stderr


def test_everything_as_json_and_in_a_file(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "eval.json"
    arguments = ["--data", place / "test.tar", "--probe-train", place / "train", "--retrieval", place / "clean"]
    arguments += ["--attack", place / "p-truth", "--undefended", place / "plain", "--out", out, "--json"]
    code, stdout, stderr = run(place, place / "defended", *arguments)
    assert (code, stderr) == (0, "")
    report = json.loads(stdout)
    assert report == json.loads(out.read_text())
    assert [model["name"] for model in report["models"]] == ["plain", "defended"]
    for model in report["models"]:
        assert model["zero_shot"]["top1"]["n"] == 9
        assert model["linear_probe"]["accuracy"]["n"] == 9
        assert model["retrieval"]["pairs"] == 40
        kinds = {row["attack"]: row for row in model["attacks"]}
        assert kinds["targeted"]["success"]["n"] == 1
        assert kinds["badnets_fixed"]["success"]["n"] == kinds["badnets_fixed"]["base_rate"]["n"] == 6
        assert {row["verdict"] for row in model["attacks"]} <= {"void", "shown"}


def test_captions_of_pairs_may_have_another_key(place: Path, tmp_path: Path) -> None:
    samples = [sample(str(i), caption=None, meta={"alt": f"number {i}"}) for i in range(3)]
    make_shard(tmp_path / "pairs" / "00000.tar", samples)
    asked = [place / "plain", "--retrieval", tmp_path / "pairs"]
    code, stdout, _ = run(place, *asked, "--caption-key", "alt", "--json")
    assert (code, json.loads(stdout)["models"][0]["retrieval"]["pairs"]) == (0, 3)
    code, _, stderr = run(place, *asked)
    assert (code, "3 samples were left out" in stderr) == (2, True)


def test_the_table(place: Path) -> None:
    code, stdout, _ = run(place, place / "defended", "--data", place / "test.tar", "--attack", place / "p-truth")
    assert code == 0
    assert "zero-shot top-1" in stdout
    assert "badnets_fixed -> red [01-badnets_fixed]" in stdout
    assert "without the trigger" in stdout
    assert "the defence is not shown until an undefended model is beside it: --undefended CHECKPOINT" in stdout


def test_a_corrupt_picture_is_counted_and_ends_with_3(place: Path, tmp_path: Path) -> None:
    data = class_folders(tmp_path / "test", {"red": 2, "blue": 2})
    (data / "red" / "0.png").write_bytes((data / "red" / "0.png").read_bytes()[:30])
    code, stdout, _ = run(place, place / "plain", "--data", data)
    assert code == 3
    assert "--data: 1 of 4 pictures, the first red/0.png" in stdout
    code, stdout, _ = run(place, place / "plain", "--data", data, "--json")
    assert code == 3
    report = json.loads(stdout)
    assert report["unreadable"] == 1
    assert report["models"][0]["zero_shot"]["top1"]["n"] == 3


def test_bad_input_is_a_usage_error(place: Path, tmp_path: Path) -> None:
    unlabelled = place / "clean"
    cases: list[tuple[list[str | Path], str]] = [
        ([place / "plain"], "give --data LABELLED"),
        (["--data", place / "train"], "no checkpoint"),
        ([place / "plain", "--data", tmp_path / "nowhere"], "nowhere"),
        ([place / "plain", "--data", unlabelled], "no class column"),
        ([tmp_path / "nowhere", "--data", place / "train"], "nowhere"),
        ([place / "clean", "--data", place / "train"], "no model there"),
        (["ViT-B-999/none", "--data", place / "train"], "ViT-B-999"),
        ([place / "plain", "--data", place / "train", "--attack", place / "p"], "no truth.parquet"),
        ([place / "plain", "--data", place / "train", "--classes", tmp_path / "gone"], "--classes"),
        ([place / "plain", "--data", place / "train", "--undefended", tmp_path / "gone"], "gone"),
    ]
    for arguments, message in cases:
        code, stdout, stderr = run(place, *arguments)
        assert (code, stdout) == (2, ""), arguments
        assert message in stderr


def test_the_weights_that_the_examples_name_can_be_had() -> None:
    specs = re.findall(r"eval (\S+/openai)", EXAMPLES)
    assert [resolve(spec).tag for spec in specs] == ["openai"]


def rich_report() -> EvalReport:
    half, rare = Proportion.of(50, 100), Proportion.of(3, 100)
    target = "evil\x1b[31m"
    models = tuple(
        ModelResult(
            name=name,
            spec=name,
            is_undefended=name == "plain",
            zero_shot=ZeroShot(n_classes=10, n_templates=80, top1=half, top5=half, mean_per_class=0.4),
            probe=ProbeResult(accuracy=half, C=1.0, validation=half, n_train=50, sweep=((0.0, 0.5),), converged=False),
            retrieval=RetrievalResult(n_pairs=100, image_to_text={1: rare}, text_to_image={1: half}),
            attacks=(
                AttackResult(attack="targeted", target=target, success=rare, top5=half),
                AttackResult(attack="sig", target="red", trigger="00-sig", success=half, base=rare),
            ),
        )
        for name in ("plain", "defended")
    )
    unread = (Unread(where="a\n.tar:1", reason="image_truncated"),)
    facts = InputFacts(option="--data", n_pictures=101, n_left_out=2, unread=unread)
    return EvalReport(models=models, inputs=(facts,), not_measured=("mismatch",), settings={})


def test_lines_of_the_table() -> None:
    lines = describe(rich_report())
    text = {name.strip(): value for name, value in lines}
    assert share(Proportion.of(50, 100)) == "50.0 % (40.4-59.6)"
    assert share(Proportion.of(0, 0)) == share(None) == "-"
    assert lines[0][1].split("  ")[0] == "plain (undefended)"
    assert text["zero-shot top-1"].endswith("100 pictures, 10 classes")
    assert text["mean per class"].split() == ["40.0", "%", "40.0", "%"]
    assert "equal captions count as hits" in text["image to text R@1"]
    assert text["targeted -> evil\\x1b[31m"].endswith("void: it does not work on the undefended model")
    assert text["sig -> red [00-sig]"].endswith("100 pictures")
    assert text["without the trigger"].startswith("3.0 % (1.0-8.5)")
    assert text["left out"].startswith("--data: 2 samples")
    assert text["unreadable"].startswith("--data: 1 of 101 pictures")
    assert text["not measured"] == "mismatch: no picture can test it"
    assert text["note"] == "a linear probe did not converge in 1,000 iterations"
    columns = {
        value.index("50.0 % (40.4-59.6)", 5) for name, value in lines if name in {"zero-shot top-1", "linear probe"}
    }
    assert len(columns) == 1
