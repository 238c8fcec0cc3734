"""`roclip-audit poison`, through typer."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from typer.testing import CliRunner

from roclip_audit.cli.poison import EXAMPLES, poison
from roclip_audit.core.errors import ConfigError
from roclip_audit.train.attacks import ATTACKS
from tests.shardkit import make_dataset

APP = typer.Typer()
APP.command()(poison)


def test_plants_from_options_and_plan_file(tmp_path: Path) -> None:
    make_dataset(tmp_path / "clean", 40)
    plan = tmp_path / "plan.json"
    plan.write_text('[{"attack": "mismatch", "target": "", "rate": 0.1}]')
    out, truth = tmp_path / "out", tmp_path / "elsewhere"
    result = CliRunner().invoke(
        APP,
        [str(tmp_path / "clean"), str(out), "-a", "sig:desk:0.1", "--plan", str(plan), "--truth", str(truth), "--json"],
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [(one["plan"]["attack"], one["n_planted"]) for one in report["planted"]] == [("sig", 4), ("mismatch", 4)]
    assert report["truth"] == str(truth)
    assert (truth / "truth.parquet").exists()


def test_says_what_was_planted(tmp_path: Path) -> None:
    make_dataset(tmp_path / "clean", 20)
    result = CliRunner().invoke(APP, [str(tmp_path / "clean"), str(tmp_path / "out"), "-q", "-a", "mismatch::0.2"])
    assert result.exit_code == 0, result.output
    assert "20 pairs in" in result.stdout
    assert "mismatch" in result.stdout
    assert result.stderr == ""


def test_a_bad_plan_is_a_config_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(APP, [str(tmp_path), str(tmp_path / "out"), "-a", "sig"])
    assert isinstance(result.exception, ConfigError)


def test_name_target_and_rate_may_stand_alone(tmp_path: Path) -> None:
    make_dataset(tmp_path / "clean", 40)
    arguments = [str(tmp_path / "clean"), str(tmp_path / "out"), "-q", "--json", "--seed", "0"]
    named = ["--attack", "badnets_moving", "--attack", "dead_link::0.05", "--target", "hot dog", "--rate", "0.1"]
    result = CliRunner().invoke(APP, arguments + named)
    assert result.exit_code == 0, result.output
    planted = [(one["plan"]["target"], one["n_planted"]) for one in json.loads(result.stdout)["planted"]]
    assert planted == [("hot dog", 4), ("", 2)]


def test_help_names_every_attack() -> None:
    listed = EXAMPLES.partition("Attacks: ")[2].partition(".")[0]
    assert listed.replace("\n", " ").split(", ") == list(ATTACKS)
