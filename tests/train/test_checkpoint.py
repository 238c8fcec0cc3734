"""The state of a run between two steps: whole, without pickle, and the same again."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from roclip_audit.core.errors import StoreError
from roclip_audit.train.checkpoint import VERSION, Cursor, read_checkpoint, restore, save_checkpoint

METHOD = {"pool.rows": torch.arange(6.0).view(2, 3), "pool.cursor": torch.tensor(4)}


def network() -> nn.Module:
    """Return a convolution laid out channels last, as the loop does, and a norm with buffers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5)).to(memory_format=torch.channels_last)


def optimiser_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)


def step(model: nn.Module, optimiser: torch.optim.Optimizer, seed: int) -> None:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    optimiser.zero_grad()
    model(x.to(memory_format=torch.channels_last)).square().mean().backward()
    optimiser.step()


def save(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    cursor = Cursor(epoch=3, step=5, n_steps_done=21, n_unreadable=2)
    save_checkpoint(path, cursor=cursor, key="k", model=model, optimiser=optimiser, method_state=METHOD)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    model = network()
    optimiser = optimiser_of(model)
    step(model, optimiser, 1)
    save(tmp_path / "checkpoint.safetensors", model, optimiser)
    return tmp_path / "checkpoint.safetensors"


def test_holds_cursor_key_and_the_methods_state(path: Path) -> None:
    saved = read_checkpoint(path)
    assert saved.cursor == Cursor(epoch=3, step=5, n_steps_done=21, n_unreadable=2)
    assert saved.key == "k"
    assert saved.part("method").keys() == METHOD.keys()
    assert all(torch.equal(saved.part("method")[name], METHOD[name]) for name in METHOD)


def test_a_restored_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """Channels last on purpose: a fused AdamW mixes the moments up that lie otherwise than their parameter."""
    model = network()
    optimiser = optimiser_of(model)
    for seed in range(3):
        step(model, optimiser, seed)
    save(tmp_path / "c.safetensors", model, optimiser)
    other = network()
    others = optimiser_of(other)
    restore(read_checkpoint(tmp_path / "c.safetensors"), other, others)
    for seed in range(3, 6):
        step(model, optimiser, seed)
        step(other, others, seed)
    assert all(torch.equal(model.state_dict()[name], other.state_dict()[name]) for name in model.state_dict())


def test_is_safetensors_and_nothing_that_could_run(path: Path) -> None:
    assert not zipfile.is_zipfile(path)
    with safe_open(path, framework="pt") as file:
        assert {name.partition(".")[0] for name in file.keys()} == {"model", "optimiser", "method"}  # noqa: SIM118
    size = int.from_bytes(path.read_bytes()[:8], "little")
    json.loads(path.read_bytes()[8 : 8 + size])


def test_is_written_whole_or_not_at_all(path: Path) -> None:
    before = path.read_bytes()
    model = network()

    class Broken(torch.optim.SGD):
        def state_dict(self) -> dict[str, object]:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        save(path, model, Broken(model.parameters()))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("n_bytes", [0, 4, 100, -1])
def test_a_cut_one_is_damaged(path: Path, n_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(StoreError, match=r"checkpoint\.safetensors: damaged checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({}, "another version"),
        ({"version": "0", "key": "k", "cursor": "{}"}, "another version"),
        ({"version": str(VERSION), "key": "k"}, "damaged"),
        ({"version": str(VERSION), "cursor": "{}"}, "damaged"),
        ({"version": str(VERSION), "key": "k", "cursor": "nonsense"}, "damaged"),
        ({"version": str(VERSION), "key": "k", "cursor": "[1]"}, "damaged"),
        ({"version": str(VERSION), "key": "k", "cursor": '{"mood": 1}'}, "damaged"),
    ],
)
def test_a_foreign_header_is_refused(path: Path, header: dict[str, str], says: str) -> None:
    save_file(load_file(path), path, metadata=header or None)
    with pytest.raises(StoreError, match=says):
        read_checkpoint(path)


def test_a_missing_one_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="without --resume"):
        read_checkpoint(tmp_path / "checkpoint.safetensors")


def test_another_model_is_refused(path: Path) -> None:
    other = nn.Linear(2, 2)
    with pytest.raises(StoreError, match="another model"):
        restore(read_checkpoint(path), other, optimiser_of(other))
