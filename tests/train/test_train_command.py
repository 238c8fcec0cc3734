"""`roclip-audit train`, through the whole command line."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from safetensors.torch import load_file
from typer.testing import CliRunner

from roclip_audit.audit.ingest import ingest
from roclip_audit.cli.main import app
from roclip_audit.cli.train import Method
from roclip_audit.core.run import RunFolder
from roclip_audit.core.shards import expand_shards
from roclip_audit.train.methods import METHODS
from tests.audit.runkit import make_run, pairs_of
from tests.shardkit import draw_samples, make_dataset, make_shard, sample
from tests.train.trainkit import write_model

SHORT = ("--epochs", "2", "--batch-size", "4", "--device", "cpu", "--precision", "fp32", "--workers", "1", "--quiet")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("command")
    write_model(folder / "vit.json")
    make_dataset(folder / "shards", 12, 2, px=40)
    return folder


def call(place: Path, out: Path, *options: str, shards: str = "shards") -> Result:
    model = () if "--from" in options else ("--model", str(place / "vit.json"))
    arguments = ["train", str(place / shards), "--out", str(out), *model, *SHORT, *options]
    return CliRunner().invoke(app, arguments)


def facts(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_trains_and_says_so_in_json(place: Path, tmp_path: Path) -> None:
    options = ("--robust", "--match-every", "2", "--json", "--seed", "3", "--lr", "1e-4")
    found = facts(call(place, tmp_path / "run", *options))
    assert (found["n_pairs"], found["n_steps"], found["n_unreadable"]) == (12, 6, 0)
    assert (found["recipe"]["epochs"], found["recipe"]["batch_size"], found["recipe"]["lr"]) == (2, 4, 1e-4)
    assert Path(found["model"]) == tmp_path / "run" / "model"
    config = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert (config["method"], config["strict"], config["seed"]) == ("roclip", False, 3)
    assert load_file(Path(found["model"]) / "open_clip_model.safetensors")
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"loss.svg", "manifest.json", "metrics.jsonl"}


def test_says_it_in_words(place: Path, tmp_path: Path) -> None:
    result = call(place, tmp_path / "run", "--method", "roclip", "--strict", "--match-every", "1")
    assert result.exit_code == 0, result.output
    assert "6 steps" in result.stdout
    assert "roclip-audit eval" in result.stdout
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])["is_matched"]


def test_settings_of_the_recipe_can_be_set_one_by_one(place: Path, tmp_path: Path) -> None:
    asked = {"warmup": 0.5, "weight_decay": 0.2, "match_every": 1, "match_after": 0.5, "contest": 0.3, "pool_share": 1}
    options = [part for name, value in asked.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    recipe = facts(call(place, tmp_path / "run", "--robust", "--json", *options))["recipe"]
    assert {name: recipe[name] for name in asked} == asked
    entries = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [entry["is_matched"] for entry in entries] == [False, True]


def test_a_model_that_is_trained_further_is_named(place: Path, tmp_path: Path) -> None:
    source = f"local-dir:{facts(call(place, tmp_path / 'first', '--json'))['model']}"
    options = ("--method", "cleanclip", "--from", source)
    words = call(place, tmp_path / "second", *options)
    assert (words.exit_code, f"from {source}, cleanclip" in words.stdout) == (0, True)
    assert facts(call(place, tmp_path / "second", *options, "--resume", "--json"))["recipe"]["model"] == source


def test_an_interrupted_command_resumes_and_a_finished_one_is_not_overwritten(place: Path, tmp_path: Path) -> None:
    assert call(place, tmp_path / "run").exit_code == 0
    again = call(place, tmp_path / "run")
    assert (again.exit_code, "--resume" in again.stderr) == (2, True)
    assert facts(call(place, tmp_path / "run", "--resume", "--json"))["resumed"]
    other = call(place, tmp_path / "run", "--resume", "--seed", "9")
    assert (other.exit_code, "seed 0, not 9" in other.stderr) == (4, True)
    missing = call(place, tmp_path / "none", "--resume")
    assert (missing.exit_code, "no checkpoint" in missing.stderr) == (4, True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--robust", "--method", "clip"), "--robust is RoCLIP; it cannot be combined with --method clip"),
        (("--robust", "--strict"), "--method roclip"),
        (("--strict",), "--method roclip"),
        (("--where", "fdr <= 0.1"), "--where needs --audit"),
        (("--model", "no-such-model"), "no model 'no-such-model'"),
        (("--model", "none.json"), "none.json"),
        (("--lr", "0"), "lr 0"),
        (("--lr", "1e18"), "the training diverged"),
        (("--pool-share", "2", "--robust"), "pool share 2"),
        (("--warmup", "2"), "warmup 2"),
        (("--robust", "--match-every", "4"), "the first would be epoch 4: more --epochs"),
        (("--match-every", "2"), "--match-every: --method clip does not use it, only roclip"),
        (("--match-after", "0.5", "--method", "cleanclip"), "--match-after: --method cleanclip does not use it"),
        (("--contest", "0", "--method", "safeclip"), "--contest: --method safeclip does not use it, only roclip;"),
        (("--contest", "0.1", "--method", "roclip", "--strict"), "--contest: --method roclip --strict does not use it"),
        (
            ("--pool-share", "0.1"),
            "--pool-share: --method clip does not use it, only roclip, roclip --strict, safeclip;",
        ),
        (("--method", "cleanclip", "--no-augment"), "cannot run without augmentation"),
        (("--from", "local-dir:x", "--model", "resnet-32"), "--model: a model that is trained further"),
        (("--batch-size", "64"), "lower --batch-size"),
        (("--device", "nonsense"), "nonsense"),
        (("--from", "local-dir:nowhere"), "nowhere"),
    ],
)
def test_what_cannot_work_ends_with_2_and_one_line(
    place: Path, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    result = call(place, tmp_path / "run", *options)
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_folder_is_still_free_after_a_run_that_could_not_work(place: Path, tmp_path: Path) -> None:
    assert call(place, tmp_path / "run", "--batch-size", "64").exit_code == 2
    assert call(place, tmp_path / "run", "--epochs", "1").exit_code == 0


def test_a_wrong_path_ends_with_2(place: Path, tmp_path: Path) -> None:
    result = call(place, tmp_path / "run", shards="nowhere")
    assert (result.exit_code, "nowhere" in result.stderr) == (2, True)
    assert not (tmp_path / "run").exists()


def test_a_damaged_shard_ends_with_3(place: Path, tmp_path: Path) -> None:
    shard = make_shard(place / "cut" / "00000.tar", draw_samples(3))
    shard.write_bytes(shard.read_bytes()[: 512 + 20])
    result = call(place, tmp_path / "run", shards="cut")
    assert (result.exit_code, "00000.tar" in result.stderr) == (3, True)


def test_unreadable_pictures_end_with_3_and_are_counted(place: Path, tmp_path: Path) -> None:
    samples = draw_samples(8, px=40)
    samples[3] = sample(samples[3].key, image=b"not a picture")
    samples[5] = sample(samples[5].key, caption=None, image=samples[5].members["png"])
    make_shard(place / "odd" / "00000.tar", samples)
    result = call(place, tmp_path / "run", "--json", "--batch-size", "7", shards="odd")
    assert result.exit_code == 3, result.output
    found = json.loads(result.stdout)
    assert (found["n_pairs"], found["n_unreadable"], found["left_out"]) == (7, 2, {"missing_caption": 1})
    words = call(place, tmp_path / "run", "--resume", "--batch-size", "7", shards="odd")
    assert words.exit_code == 3
    assert "1 missing caption" in words.stdout
    assert "2 pictures could not be decoded" in words.stdout


def test_other_ranks_say_nothing_and_end_with_0(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any other code torchrun makes a failure, and stops the main process, which may still be writing."""
    pictures = draw_samples(8, px=40)
    make_shard(tmp_path / "odd" / "00000.tar", [*pictures, sample("b", image=b"no picture", caption="torn")])
    monkeypatch.setenv("RANK", "1")
    result = call(place, tmp_path / "run", "--json", shards=str(tmp_path / "odd"))
    assert (result.exit_code, result.stdout) == (0, "")


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is not None, reason="tensorboard is installed here")
def test_tensorboard_without_the_package_ends_with_2(place: Path, tmp_path: Path) -> None:
    result = call(place, tmp_path / "run", "--tensorboard")
    assert (result.exit_code, "roclip-audit[tensorboard]" in result.stderr) == (2, True)


def audited(place: Path, folder: Path) -> RunFolder:
    """Return a run over the shards of ``place``, as a scan leaves it, with its manifest."""
    paths = sorted((place / "shards").glob("*.tar"))
    run = make_run(folder, {path.name: pairs_of(path) for path in paths})
    ingest(run)
    manifest = json.loads(run.manifest.read_text())
    known = {shard.name: shard for shard in expand_shards([str(place / "shards")])}
    for entry in manifest["shards"]:
        entry["fingerprint"] = known[entry["name"]].fingerprint
    run.manifest.write_text(json.dumps(manifest))
    return run


def test_an_audit_leaves_pairs_out(place: Path, tmp_path: Path) -> None:
    run = audited(place, tmp_path / "audit")
    found = facts(call(place, tmp_path / "run", "--audit", str(run.root), "--where", "ordinal < 2", "--json"))
    assert (found["n_pairs"], found["left_out"]) == (8, {"not_selected": 4})


def test_an_audit_of_other_shards_ends_with_4(place: Path, tmp_path: Path) -> None:
    run = audited(place, tmp_path / "audit")
    make_dataset(place / "others", 12, 2, seed=5, px=40)
    result = call(place, tmp_path / "run", "--audit", str(run.root), shards="others")
    assert (result.exit_code, "scan these shards again" in result.stderr) == (4, True)
    missing = call(place, tmp_path / "run", "--audit", str(tmp_path / "none"))
    assert missing.exit_code == 4


def test_the_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom roclip_audit.cli.main import app\n"
        "try:\n    app(['train', '--help'])\nexcept SystemExit:\n    print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "--robust" in done.stdout
    assert not {"torch", "numpy", "duckdb", "open_clip", "pyarrow", "PIL"} & set(done.stderr.split())


def test_every_method_can_be_asked_for() -> None:
    assert [method.value for method in Method] == list(METHODS)
