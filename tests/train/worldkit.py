"""Run one of several processes of a training, as torchrun would start it, and write down what this rank saw.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 python -m tests.train.worldkit PLACE OUT PORT...
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from roclip_audit.core.progress import SilentReporter
from roclip_audit.core.shards import expand_shards
from roclip_audit.train.assembly import assemble
from roclip_audit.train.config import TrainConfig
from roclip_audit.train.data import augment
from roclip_audit.train.data.loader import load_batches
from roclip_audit.train.data.order import epoch_batches, epoch_order
from roclip_audit.train.data.pairs import PairTable, read_pairs
from roclip_audit.train.distributed import World, joined
from roclip_audit.train.methods.base import Features
from roclip_audit.train.towers import on_device
from roclip_audit.train.trainer import train
from tests.train.trainkit import RUNS, make_config


def first_steps(config: TrainConfig, table: PairTable, world: World) -> dict[str, Tensor]:
    """Return loss, gradients and the method's memory after the first batch of a plain and of a matched epoch."""
    parts = assemble(config, table, world, SilentReporter())
    found: dict[str, Tensor] = {}
    for epoch in (1, 2):
        parts.towers.set_mode(trains_text=parts.method.trains_text(epoch))
        parts.method.begin_epoch(epoch, parts.embedder)
        order = epoch_order(table.shard_N, seed=config.seed, epoch=epoch, buffer=config.recipe.shuffle_buffer)
        pairs_SN = epoch_batches(order, None, config.recipe.batch_size)
        part, views = world.part(config.recipe.batch_size), parts.method.views(epoch)
        batch = next(
            load_batches(pairs_SN, parts.pictures, parts.tokens, views.text, epoch=epoch, part=part, workers=1)
        )
        draws = augment.draw(config.recipe.batch_size, seed=config.seed, epoch=epoch, step=0, view=0)[part]
        canvases = on_device(batch.canvases, world.device)
        image_VND, text_VND, scale = parts.towers.features(
            [parts.towers.view(views.image[0], canvases, draws)], batch.tokens_VNL
        )
        judge = parts.towers.embed_images(parts.towers.view(views.judge, canvases, draws)) if views.judge else None
        features = Features(
            image_VND=image_VND,
            text_VND=text_VND,
            scale=scale,
            pair_N=torch.from_numpy(pairs_SN[0].copy()),
            judge_ND=None if judge is None else world.gather(judge),
        )
        loss = parts.method.loss(features, epoch).total
        parts.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        found[f"{epoch}.loss"] = loss.detach()
        for name, parameter in parts.towers.model.named_parameters():
            if parameter.grad is not None:
                found[f"{epoch}.gradient.{name}"] = parameter.grad.clone()
        found |= {f"{epoch}.method.{name}": tensor.clone() for name, tensor in parts.method.state().items()}
    found["cosines"] = parts.embedder.cosines()
    return found


def run_all(place: Path, out: Path, ports: list[str]) -> None:
    """Take first steps of every kind of run, then train it to its end; ranks differ in when a checkpoint is due."""
    table = read_pairs(expand_shards([str(place / "shards")]))
    ports = ports.copy()
    for name, changes in RUNS.items():
        if ports:
            os.environ["MASTER_PORT"] = ports.pop()
        with joined("cpu") as world:
            config = make_config(out / f"{name}-steps", place / "vit.json", **changes)
            steps = first_steps(config, table, world)
            save_file(
                {key: tensor.contiguous() for key, tensor in steps.items()}, out / f"{name}-{world.rank}.safetensors"
            )
        if ports:
            os.environ["MASTER_PORT"] = ports.pop()
        interval = 0.0 if world.is_main else 600.0
        train(make_config(out / name, place / "vit.json", **changes, checkpoint_s=interval), table)


if __name__ == "__main__":
    run_all(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
