"""What names a model, and what the table calls it."""

from __future__ import annotations

from pathlib import Path

import pytest

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.evaluation.checkpoints import checkpoint_spec, find_checkpoints
from tests.encoderkit import save_tiny_clip


def test_folders_of_a_model_and_of_a_run(tmp_path: Path) -> None:
    save_tiny_clip(tmp_path / "run" / "model")
    model = f"local-dir:{tmp_path / 'run' / 'model'}"
    for named in (tmp_path / "run", tmp_path / "run" / "model"):
        assert checkpoint_spec(str(named)) == model
    assert checkpoint_spec(model) == model
    assert checkpoint_spec("hf-hub:org/name") == "hf-hub:org/name"
    with pytest.raises(ConfigError, match=r"no model there, neither open_clip_config\.json nor model/"):
        checkpoint_spec(str(tmp_path))
    with pytest.raises(ConfigError, match="nowhere"):
        checkpoint_spec(str(tmp_path / "nowhere"))


def test_the_undefended_one_comes_first_and_each_once(tmp_path: Path) -> None:
    for name in ("plain", "defended"):
        save_tiny_clip(tmp_path / name / "model")
    plain, defended = str(tmp_path / "plain"), str(tmp_path / "defended")
    found = find_checkpoints([defended, plain, defended], plain)
    assert [(one.name, one.is_undefended) for one in found] == [("plain", True), ("defended", False)]
    assert [one.is_undefended for one in find_checkpoints([plain, defended], None)] == [False, False]


def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_tiny_clip(tmp_path / name / "clip")
    found = find_checkpoints([str(tmp_path / "a" / "clip"), str(tmp_path / "b" / "clip")], None)
    assert len({one.name for one in found}) == 2
