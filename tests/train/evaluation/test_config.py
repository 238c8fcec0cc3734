"""Settings that cannot work fail before anything is read; the entry imports no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.evaluation import EvalConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "x", "checkpoints": ()}, "no checkpoint"),
        ({}, "--data LABELLED.*--retrieval SHARDS or --attack TRUTH"),
        ({"probe_train": "x"}, "--probe-train.*--data"),
        ({"attack": Path("x")}, "--attack: which classes"),
        ({"data": "x", "poisoned": "y"}, "--poisoned"),
        ({"data": "x", "caption_key": "alt"}, "--caption-key.*--retrieval"),
        ({"data": "x", "device": "tpu"}, "--device tpu"),
        ({"data": "x", "batch_size": 0}, "--batch-size: must be at least 1"),
        ({"data": "x", "retrieval_pairs": 1}, "--retrieval-pairs"),
        ({"data": "x", "seed": -1}, "--seed"),
        ({"data": "x", "class_key": ""}, "--class-key"),
    ],
)
def test_what_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EvalConfig(**{"checkpoints": ("m",), **settings})


def test_what_can() -> None:
    EvalConfig(checkpoints=(), undefended="m", retrieval="x")
    EvalConfig(checkpoints=("m",), attack=Path("x"), classes=Path("names"))


def test_the_entry_is_light() -> None:
    code = "import sys, roclip_audit.train.evaluation, roclip_audit.cli.eval; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
