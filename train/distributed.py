"""One process or many: who we are, and how features of all ranks come together with their gradient.

``torchrun --nproc-per-node 8 -m roclip_audit.cli.main train ...`` starts one process a GPU; without it there is one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from roclip_audit.core.errors import ConfigError

PATIENCE: Final = timedelta(hours=6)
"""How long ranks wait for another: the main process numbers the pictures of the whole data set alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The processes of a run. ``device`` is where this one computes."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """True for the one process that writes files."""
        return self.rank == 0

    def part(self, n: int) -> slice:
        """Return this rank's part of ``n`` things, n a multiple of the number of ranks."""
        each = n // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def gather(self, local: Tensor) -> Tensor:
        """Return the rows of all ranks in the order of ranks; gradients flow back to the rank they came from.

        Every rank must compute the same loss of the result. DDP's mean over ranks then gives the gradient of that loss,
        as one process would (METHODS of the literature divide it by the number of ranks).
        """
        if self.size == 1:
            return local
        gathered: Tensor = _Gather.apply(local, self)  # type: ignore[no-untyped-call]
        return gathered

    def from_main(self, tensor: Tensor) -> Tensor:
        """Return the main process's values, written into this one's tensor."""
        if self.size > 1:
            dist.broadcast(tensor, src=0)
        return tensor

    def any(self, flag: bool) -> bool:
        """Tell all ranks whether one of them says so."""
        if self.size == 1:
            return flag
        flags = torch.tensor([flag], dtype=torch.uint8, device=self.device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return bool(flags)

    def wait(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, local: Tensor, world: World) -> Tensor:  # noqa: ANN401 - autograd's
        context.part = world.part(len(local) * world.size)
        parts = [torch.empty_like(local) for _ in range(world.size)]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[context.part], None


def choose_device(name: str) -> torch.device:
    """Return the device that a name means; ``auto`` is a GPU where there is one.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r}: {error}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: this machine has no GPU that torch can use; leave --device out or say cpu")
    return device


@contextmanager
def joined(device_name: str) -> Iterator[World]:
    """Join the processes that torchrun started, or be alone.

    Raises:
        ConfigError: there is no such device.
    """
    device = choose_device(device_name)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(device=device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    failed = True
    try:
        yield World(device=device, rank=dist.get_rank(), size=size)
        failed = False
    finally:
        if not (failed and device.type == "cuda"):  # NCCL would wait for the others, who wait for us
            dist.destroy_process_group()
