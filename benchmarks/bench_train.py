"""Time training: our loop beside open_clip's own, and RoCLIP's matched epochs beside its plain ones.

    python benchmarks/bench_train.py                                   # demo shards, resnet-32; under five minutes
    python benchmarks/bench_train.py --batch-size 32 --rounds 1        # for a look
    python benchmarks/bench_train.py --shards SHARDS --model ViT-B-32 --batch-size 512 --device cuda
    python benchmarks/bench_train.py --out benchmarks/results/2026-01-31-train-throughput.json

Theirs is ``open_clip_train``: its ``train_one_epoch`` over its webdataset pipeline, its optimiser, as many loader
processes as we have threads. Ours is the epoch of ``train.trainer``. Both read the same shards (round and round until
an epoch is full), train the same architecture from the same weights in the same precision, with crops of 90 to 100 %
and captions as they are. Epochs alternate in one process, the first of the two changing each round, so a busy machine
slows both; the ratio is taken round by round. The first epoch of each is not counted, nor are the checkpoints after
epochs, on either side. ``memory`` is our default below 4 GB of pictures: they are decoded once, before the first epoch,
and kept; ``decode_s`` says what that took. ``stream`` decodes in every epoch, as open_clip does.

Both compute on one thread unless told otherwise: two threads that wait for each other at every small operation tell how
busy the machine is, and open_clip's optimiser, which is not fused, has many small operations (beside three other jobs
on two cores, batches of 32, it then trained at a sixteenth of our rate).

A matched epoch of RoCLIP is compared with the plain one beside it, same run, same augmentation.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import os
import secrets
import sys
import tempfile
import time
import types
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from bench_encode import DEFAULT_SHARDS, spread, surroundings

from roclip_audit.core.checkpoint import import_open_clip
from roclip_audit.core.parallel import default_workers
from roclip_audit.core.progress import SilentReporter
from roclip_audit.core.run import write_json
from roclip_audit.core.shards import Shard, expand_shards
from roclip_audit.train.assembly import assemble
from roclip_audit.train.config import Cache, Precision, Recipe, TrainConfig
from roclip_audit.train.data.pairs import Captions, PairTable, read_pairs
from roclip_audit.train.distributed import World, choose_device
from roclip_audit.train.model import new_model
from roclip_audit.train.towers import uses_bf16
from roclip_audit.train.trainer import _Run

MANY_EPOCHS = 1_000  # the schedule's length; no run gets there


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What both sides have in common."""

    shards: tuple[Shard, ...]
    table: PairTable
    model: str
    batch_size: int
    steps: int
    device: torch.device
    precision: Precision
    workers: int
    scratch: Path

    @property
    def n_pairs(self) -> int:
        """Pairs in an epoch."""
        return self.batch_size * self.steps


def repeated(table: PairTable, n_pairs: int) -> PairTable:
    """Return exactly ``n_pairs`` pairs: those of the table, over and over, each time under new uids."""
    times = math.ceil(n_pairs / len(table))
    texts = [table.captions[index] for index in range(len(table))] * times
    captions = [text.encode() for text in texts[:n_pairs]]
    return replace(
        table,
        shards=table.shards * times,
        captions=Captions(text=b"".join(captions), ends_N=np.cumsum([len(text) for text in captions])),
        shard_N=np.concatenate([table.shard_N + turn * len(table.shards) for turn in range(times)])[:n_pairs],
        offset_N=np.tile(table.offset_N, times)[:n_pairs],
        n_bytes_N=np.tile(table.n_bytes_N, times)[:n_pairs],
        uid_N=np.frombuffer(secrets.token_bytes(16 * n_pairs), dtype="V16"),
    )


class Ours:
    """The epochs of a run of our loop."""

    def __init__(self, setting: Setting, name: str, *, cache: Cache = "memory", **config: Any) -> None:  # noqa: ANN401
        recipe = Recipe(model=setting.model, epochs=MANY_EPOCHS, batch_size=setting.batch_size, lr=1e-4)
        settings = TrainConfig(
            out=setting.scratch / name,
            recipe=recipe,
            cache=cache,
            precision=setting.precision,
            device=str(setting.device),
            workers=setting.workers,
            checkpoint_s=math.inf,
            **config,
        )
        world, reporter = World(device=setting.device), SilentReporter()
        started = time.perf_counter()
        parts = assemble(settings, setting.table, world, reporter)
        self.assembly_s = time.perf_counter() - started
        self.n_pairs = setting.n_pairs
        self._run = _Run(settings, setting.table, parts, world, reporter)
        self._is_matched = parts.method.is_matched

    @property
    def is_next_matched(self) -> bool:
        """Tell whether the next epoch is a matched one."""
        return self._is_matched(self._run.cursor.epoch)

    def epoch(self) -> None:
        """Train an epoch."""
        with SilentReporter().stage("train", total=self.n_pairs) as progress:
            self._run._train_epoch(None, progress)


class Theirs:
    """The epochs of open_clip_train."""

    def __init__(self, setting: Setting) -> None:
        open_clip = import_open_clip()
        sys.modules.setdefault("pandas", types.ModuleType("pandas"))  # imported for CSV files, which are not used here
        from open_clip_train import data
        from open_clip_train.params import parse_args
        from open_clip_train.train import train_one_epoch

        # webdataset (0.2.111) marks the ends of shards, which open_clip_train 3.3 takes for members without a name.
        data.tar_file_expander = functools.partial(data.tar_file_expander, eof_value=None)
        folder = setting.scratch / "theirs"
        trainable = new_model(setting.model, folder, seed=0)
        self._model = cast(Any, trainable.model.to(setting.device))
        self._model.output_dict = True
        self._args = parse_args(["--train-data", "::".join(shard.path for shard in setting.shards)])
        bf16 = uses_bf16(setting.precision, setting.device, trainable.image_px)
        settings: dict[str, Any] = {
            "train_num_samples": setting.n_pairs,
            "batch_size": setting.batch_size,
            "workers": min(setting.workers, len(setting.shards)),
            "precision": "amp_bf16" if bf16 else "fp32",
            "device": str(setting.device),
            "skip_scheduler": True,
        }
        vars(self._args).update(settings, distributed=False, rank=0, local_rank=0, world_size=1, distill=False)
        vars(self._args).update(wandb=False, tensorboard=False)
        preprocess = open_clip.image_transform(
            trainable.image_px, is_train=True, mean=trainable.mean, std=trainable.std
        )
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        self._data = {"train": data.get_wds_dataset(self._args, preprocess, True, tokenizer=tokenizer)}
        self._loss = open_clip.create_loss(self._args)
        self._optimiser = self._adamw(self._args)
        self._train_one_epoch: Callable[..., None] = train_one_epoch
        self._epoch = 0
        self.n_pairs: int = self._data["train"].dataloader.num_samples

    def _adamw(self, args: Namespace) -> torch.optim.Optimizer:
        """Return the optimiser of open_clip_train.main."""
        named = list(self._model.named_parameters())
        plain = [name for name, p in named if p.ndim < 2 or any(x in name for x in ("bn", "ln", "bias", "logit_scale"))]
        groups = [
            {"params": [p for name, p in named if name in plain], "weight_decay": 0.0},
            {"params": [p for name, p in named if name not in plain], "weight_decay": args.wd},
        ]
        return torch.optim.AdamW(groups, lr=1e-4, betas=(args.beta1, args.beta2), eps=args.eps)

    def epoch(self) -> None:
        """Train an epoch."""
        parts = (self._model, self._data, self._loss, self._epoch, self._optimiser, None, None, None, self._args)
        self._train_one_epoch(*parts)
        self._epoch += 1


def seconds(side: Ours | Theirs) -> float:
    """Train an epoch; return the seconds it took for 1000 pairs."""
    started = time.perf_counter()
    side.epoch()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - started) / side.n_pairs


def in_turns(sides: Sequence[Ours | Theirs], rounds: int, name: str) -> list[list[float]]:
    """Return the seconds per 1000 pairs of every side in every round, [rounds][sides], after a round to warm up."""
    for side in sides:
        side.epoch()
    timings = []
    for number in range(rounds):
        places = list(range(len(sides)))[:: -1 if number % 2 else 1]
        took = {place: seconds(sides[place]) for place in places}
        timings.append([took[place] for place in range(len(sides))])
        print(f"{name}, round {number + 1}: {[round(1000 / value) for value in timings[-1]]} pairs/s", file=sys.stderr)
    return timings


def rates(timings: Sequence[float]) -> dict[str, float]:
    """Return least, median and greatest pairs per second."""
    return spread([1000 / value for value in timings])


def beside_open_clip(setting: Setting, rounds: int) -> dict[str, Any]:
    """Time plain training: theirs, ours from memory, ours from the shards."""
    plain: dict[str, Any] = {"method": "clip", "augment": False}
    memory, stream = Ours(setting, "memory", **plain), Ours(setting, "stream", cache="stream", **plain)
    theirs, ours, streamed = zip(*in_turns([Theirs(setting), memory, stream], rounds, "plain"), strict=True)
    return {
        "open_clip_pairs_per_s": rates(theirs),
        "memory_pairs_per_s": rates(ours),
        "stream_pairs_per_s": rates(streamed),
        "memory_ratio": spread([one / other for one, other in zip(theirs, ours, strict=True)]),
        "stream_ratio": spread([one / other for one, other in zip(theirs, streamed, strict=True)]),
        "decode_s": round(memory.assembly_s - stream.assembly_s, 2),
    }


def matched_beside_plain(setting: Setting, rounds: int, *, strict: bool) -> dict[str, Any]:
    """Time matched and plain epochs of RoCLIP in turns, as they come."""
    side = Ours(setting, f"roclip-{strict}", method="roclip", strict=strict)
    side.epoch()
    started = time.perf_counter()
    side.epoch()  # matched: the pool is filled here, once
    first_s = time.perf_counter() - started
    plain: list[float] = []
    matched: list[float] = []
    for _ in range(2 * rounds + 1):
        (matched if side.is_next_matched else plain).append(seconds(side))
    around = [(before + after) / 2 for before, after in itertools.pairwise(plain)]
    costs = [one / other - 1 for one, other in zip(matched, around, strict=True)]
    print(
        f"roclip, strict {strict}: a matched epoch costs {[round(100 * cost, 1) for cost in costs]} %", file=sys.stderr
    )
    return {
        "plain_pairs_per_s": rates(plain),
        "matched_pairs_per_s": rates(matched),
        "matched_cost": spread(costs),
        "first_matched_epoch_s": round(first_s, 2),
    }


def table_of(result: dict[str, Any]) -> str:
    """Return the result as a Markdown table."""
    plain, rows = result["plain"], [("", "pairs/s (median)", "against (min, **median**, max)")]
    rows += [("---",) * 3, ("open_clip_train", str(plain["open_clip_pairs_per_s"]["median"]), "")]
    for name, words in (("memory", "ours, pictures in memory (default)"), ("stream", "ours, decoding in every epoch")):
        ratio = "x {min}, **{median}**, {max} open_clip".format(**plain[f"{name}_ratio"])
        rows.append((words, str(plain[f"{name}_pairs_per_s"]["median"]), ratio))
    for mode in ("fixed", "strict"):
        part = result[f"roclip_{mode}"]
        cost = {name: f"{100 * value:+.1f} %" for name, value in part["matched_cost"].items()}
        rows.append((f"RoCLIP {mode}, plain epochs", str(part["plain_pairs_per_s"]["median"]), ""))
        words = "time {min}, **{median}**, {max} of a plain epoch".format(**cost)
        rows.append((f"RoCLIP {mode}, matched epochs", str(part["matched_pairs_per_s"]["median"]), words))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    """Run the comparison and print or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", nargs="+", default=[str(DEFAULT_SHARDS)])
    parser.add_argument("--model", default="resnet-32")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--workers", type=int, default=default_workers())
    parser.add_argument("--threads", type=int, default=1, help="of a computation, on a CPU")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    torch.set_num_threads(arguments.threads)
    result = surroundings(arguments.workers) | {"architecture": arguments.model, "batch": arguments.batch_size}
    result |= {
        "steps": arguments.steps,
        "threads": arguments.threads,
        "device": str(device),
        "precision": arguments.precision,
    }
    shards = tuple(expand_shards(arguments.shards))
    table = read_pairs(shards)
    with tempfile.TemporaryDirectory() as scratch:
        setting = Setting(
            shards=shards,
            table=repeated(table, arguments.batch_size * arguments.steps),
            model=arguments.model,
            batch_size=arguments.batch_size,
            steps=arguments.steps,
            device=device,
            precision=arguments.precision,
            workers=arguments.workers,
            scratch=Path(scratch),
        )
        result |= {"n_distinct_pairs": min(len(table), setting.n_pairs), "pairs_per_epoch": setting.n_pairs}
        result["plain"] = beside_open_clip(setting, arguments.rounds)
        for mode in ("fixed", "strict"):
            result[f"roclip_{mode}"] = matched_beside_plain(setting, arguments.rounds, strict=mode == "strict")
    result["load_average_after"] = os.getloadavg()[0]
    if max(result["load_average_before"], result["load_average_after"] - 1) > 1:
        result["note"] = "other jobs ran meanwhile: the ratios of neighbouring epochs count, not the rates"
    print(json.dumps(result, indent=2))
    print(table_of(result))
    if arguments.out:
        write_json(arguments.out, result)


if __name__ == "__main__":
    main()
