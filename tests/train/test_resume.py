"""A run goes on with what it began with, or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roclip_audit.core.errors import EXIT_STORE, EXIT_USAGE, ConfigError, StoreError
from roclip_audit.core.run import RunFolder
from roclip_audit.train.checkpoint import CHECKPOINT_NAME, Cursor, save_checkpoint
from roclip_audit.train.config import TrainConfig
from roclip_audit.train.data.pairs import PairTable
from roclip_audit.train.resume import CONFIG_NAME, begin, run_key
from roclip_audit.train.trainer import train
from tests.train.test_checkpoint import network, optimiser_of
from tests.train.trainkit import make_config, make_table, write_model


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> PairTable:
    return make_table(tmp_path_factory.mktemp("shards"), 8, 1)


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    write_model(tmp_path / "vit.json")
    return make_config(tmp_path / "run", tmp_path / "vit.json", method="roclip")


def started(config: TrainConfig, table: PairTable) -> None:
    """Begin a run, and write a checkpoint of it."""
    assert begin(config, table, resume=False, is_main=True) is None
    model = network()
    save_checkpoint(
        config.out / CHECKPOINT_NAME,
        cursor=Cursor(epoch=2, step=1, n_steps_done=4),
        key=run_key(config, table),
        model=model,
        optimiser=optimiser_of(model),
        method_state={},
    )


def test_a_run_is_found_again(config: TrainConfig, table: PairTable) -> None:
    started(config, table)
    saved = begin(config, table, resume=True, is_main=True)
    assert saved is not None
    assert saved.cursor.n_steps_done == 4
    assert begin(config, table, resume=True, is_main=False) is not None


HOW: dict[str, Any] = {
    "cache": "stream",
    "workers": 7,
    "device": "auto",
    "compile": True,
    "checkpoint_s": 1.0,
    "tensorboard": True,
}


@pytest.mark.parametrize("name", HOW)
def test_how_it_is_computed_may_change(config: TrainConfig, table: PairTable, name: str) -> None:
    started(config, table)
    assert begin(replace(config, **{name: HOW[name]}), table, resume=True, is_main=True) is not None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 5}, "seed 0, not 5"),
        ({"method": "clip"}, "method 'roclip', not 'clip'"),
        ({"strict": True}, "strict False, not True"),
        ({"augment": False}, "augment True, not False"),
        ({"start_from": "local-dir:x"}, "start_from '', not 'local-dir:x'"),
        ({"precision": "bf16"}, "precision 'fp32', not 'bf16'"),
    ],
)
def test_another_setting_is_named(config: TrainConfig, table: PairTable, changes: dict[str, Any], says: str) -> None:
    started(config, table)
    with pytest.raises(StoreError, match=f"other settings: {says};") as caught:
        begin(replace(config, **changes), table, resume=True, is_main=True)
    assert caught.value.exit_code == EXIT_STORE


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"epochs": 9}, "epochs 2, not 9"),
        ({"lr": 0.5, "batch_size": 4}, r"batch_size 8, not 4; lr 0\.001, not 0\.5"),
        ({"betas": (0.9, 0.98)}, r"betas \[0\.9, 0\.999\], not \[0\.9, 0\.98\]"),
    ],
)
def test_another_hyper_parameter_is_named(
    config: TrainConfig, table: PairTable, changes: dict[str, Any], says: str
) -> None:
    started(config, table)
    with pytest.raises(StoreError, match=says):
        begin(replace(config, recipe=replace(config.recipe, **changes)), table, resume=True, is_main=True)


def test_other_pairs_are_named(config: TrainConfig, table: PairTable, tmp_path: Path) -> None:
    started(config, table)
    with pytest.raises(StoreError, match="other pairs") as caught:
        begin(config, make_table(tmp_path / "others", 9, 1), resume=True, is_main=True)
    assert caught.value.exit_code == EXIT_STORE


def test_without_its_settings_a_run_of_others_is_still_refused(config: TrainConfig, table: PairTable) -> None:
    started(config, table)
    (config.out / CONFIG_NAME).write_text("damaged")
    assert begin(config, table, resume=True, is_main=True) is not None
    with pytest.raises(StoreError, match="other settings"):
        begin(replace(config, seed=3), table, resume=True, is_main=True)


def test_another_version_is_named(config: TrainConfig, table: PairTable) -> None:
    started(config, table)
    model = network()
    path = config.out / CHECKPOINT_NAME
    save_checkpoint(path, cursor=Cursor(), key="x", model=model, optimiser=optimiser_of(model), method_state={})
    with pytest.raises(StoreError, match="another version"):
        begin(config, table, resume=True, is_main=True)


def test_a_used_folder_is_not_used_again(config: TrainConfig, table: PairTable) -> None:
    started(config, table)
    with pytest.raises(ConfigError, match="--resume") as caught:
        begin(config, table, resume=False, is_main=True)
    assert caught.value.exit_code == EXIT_USAGE


def test_a_run_that_ended_before_its_first_checkpoint_begins_anew(config: TrainConfig, table: PairTable) -> None:
    """Both ways would be closed otherwise: it could neither be resumed nor begun."""
    begin(config, table, resume=False, is_main=True)
    with pytest.raises(StoreError, match="without --resume") as caught:
        begin(config, table, resume=True, is_main=True)
    assert caught.value.exit_code == EXIT_STORE
    begin(replace(config, seed=8), table, resume=False, is_main=True)
    assert json.loads((config.out / CONFIG_NAME).read_text())["settings"]["seed"] == 8


def test_other_ranks_write_nothing(config: TrainConfig, table: PairTable) -> None:
    assert begin(config, table, resume=False, is_main=False) is None
    assert not config.out.exists()


def test_a_folder_of_somebody_elses_is_left_alone(config: TrainConfig, table: PairTable) -> None:
    config.out.mkdir()
    (config.out / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match=r"thesis\.tex"):
        train(config, table)
    assert [path.name for path in config.out.iterdir()] == ["thesis.tex"]


def test_two_runs_at_once_in_one_folder_are_refused(config: TrainConfig, table: PairTable) -> None:
    with RunFolder(config.out).locked(), pytest.raises(StoreError) as caught:
        train(config, table)
    assert caught.value.exit_code == EXIT_STORE


def test_a_damaged_checkpoint_is_named(config: TrainConfig, table: PairTable) -> None:
    started(config, table)
    (config.out / CHECKPOINT_NAME).write_bytes(b"\x80\x04pickle")
    with pytest.raises(StoreError, match=r"checkpoint\.safetensors: damaged"):
        train(config, table, resume=True)


def test_a_checkpoint_of_another_model_is_refused(config: TrainConfig, table: PairTable) -> None:
    """Where the same settings gave another architecture: another version of open_clip."""
    started(config, table)
    with pytest.raises(StoreError, match="another model"):
        train(config, table, resume=True)


def test_a_model_file_that_says_something_else_now_is_another_setting(config: TrainConfig, table: PairTable) -> None:
    """Also where every tensor keeps its shape, as with another number of heads."""
    started(config, table)
    path = Path(config.recipe.model)
    model = json.loads(path.read_text())
    model["text_cfg"]["heads"] *= 2
    path.write_text(json.dumps(model))
    with pytest.raises(StoreError, match=r"other settings: model_cfg .*'heads'"):
        begin(config, table, resume=True, is_main=True)
