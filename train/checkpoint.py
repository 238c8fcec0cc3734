"""A run's state between two steps, in one safetensors file that appears whole or not at all. No pickle anywhere.

Tensors are named ``model.*``, ``optimiser.STATE.NUMBER`` and ``method.*``; the header holds the cursor as JSON.
There is no state of random generators: every draw is derived from (seed, epoch, step), so the cursor is their state.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from roclip_audit.core.errors import StoreError
from roclip_audit.core.run import write_atomic

CHECKPOINT_NAME: Final = "checkpoint.safetensors"
VERSION: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """What comes next.

    Attributes:
        epoch: from 1; n_epochs + 1 when the run is complete.
        step: of that epoch, from 0.
        n_steps_done: of the whole run.
        n_unreadable: pictures that could not be decoded so far, once for each time they were asked for.
    """

    epoch: int = 1
    step: int = 0
    n_steps_done: int = 0
    n_unreadable: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What a checkpoint holds."""

    cursor: Cursor
    key: str
    """Of everything the run depends on; another key means another run."""
    tensors: Mapping[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose name begins with ``PREFIX.``, without it."""
        start = f"{prefix}."
        return {name.removeprefix(start): value for name, value in self.tensors.items() if name.startswith(start)}


def save_checkpoint(
    path: Path,
    *,
    cursor: Cursor,
    key: str,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    method_state: Mapping[str, Tensor],
) -> None:
    """Write the state of a run, atomically."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for number, entry in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{name}.{number}": torch.as_tensor(value) for name, value in entry.items()}
    tensors |= {f"method.{name}": tensor for name, tensor in method_state.items()}
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    header = {"version": str(VERSION), "key": key, "cursor": json.dumps(asdict(cursor))}
    write_atomic(path, lambda temporary: save_file(stored, temporary, metadata=header))


def read_checkpoint(path: Path) -> Saved:
    """Read a checkpoint.

    Raises:
        StoreError: there is none, or it is damaged or of another version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        if header.get("version") != str(VERSION):
            raise StoreError(f"{path}: a checkpoint of another version of roclip-audit; start the run anew")
        return Saved(cursor=Cursor(**json.loads(header["cursor"])), key=header["key"], tensors=tensors)
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no checkpoint there yet; start the run without --resume") from error
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: damaged checkpoint ({error}); start the run anew") from error


def restore(saved: Saved, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Put model and optimiser into the state of a checkpoint.

    Each moment is laid out in memory as its parameter is: a fused optimiser walks both side by side without a look at
    their strides, and the convolutions of a run lie channels last.

    Raises:
        StoreError: it is the checkpoint of another model.
    """
    try:
        model.load_state_dict(saved.part("model"))
    except RuntimeError as error:
        raise StoreError(f"the checkpoint is of another model ({error})") from error
    state = optimiser.state_dict()
    entries: dict[int, dict[str, Tensor]] = {}
    for name, tensor in saved.part("optimiser").items():
        key, _, number = name.rpartition(".")
        entries.setdefault(int(number), {})[key] = tensor
    optimiser.load_state_dict({**state, "state": cast("dict[int, object]", entries)})
    for parameter, moments in optimiser.state.items():
        for name, value in moments.items():
            if value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
