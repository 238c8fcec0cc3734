"""The training loop: one loop for every method, on one process or many, resumable at any step.

    report = train(TrainConfig(out=Path("run"), recipe=recipe, method="roclip"), table)

The run folder holds ``config.json`` (what is computed), ``checkpoint.safetensors``, ``metrics.jsonl``, ``loss.svg``,
``model/`` (open_clip's form) and, when the run is complete, ``manifest.json``.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, cast

import torch
from torch import Tensor

from roclip_audit import __version__
from roclip_audit.core.errors import ConfigError, ShardError, StoreError
from roclip_audit.core.progress import Progress, Reporter, SilentReporter
from roclip_audit.core.run import RunFolder, write_json
from roclip_audit.core.seeding import derive_seed
from roclip_audit.train.assembly import Parts, assemble
from roclip_audit.train.checkpoint import CHECKPOINT_NAME, Cursor, Saved, restore, save_checkpoint
from roclip_audit.train.config import TrainConfig
from roclip_audit.train.data import augment
from roclip_audit.train.data.loader import Batch, load_batches
from roclip_audit.train.data.order import Order, epoch_batches, epoch_order
from roclip_audit.train.data.pairs import PairTable
from roclip_audit.train.distributed import World, joined
from roclip_audit.train.interrupts import held_interrupts, whole_step
from roclip_audit.train.journal import Journal, open_journal, read_metrics, require_tensorboard
from roclip_audit.train.loss_plot import write_loss_plot
from roclip_audit.train.methods.base import Features, Loss
from roclip_audit.train.model import WEIGHTS_NAME, save_weights
from roclip_audit.train.resume import begin
from roclip_audit.train.schedule import learning_rate
from roclip_audit.train.towers import on_device

LOG_STEPS: Final = 10
"""Steps between two lines of the metrics."""
MOST_SAVING: Final = 0.1
"""Share of the time that checkpoints after epochs may take: epochs of seconds on a GPU do not each write theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """What a run did.

    Attributes:
        out: run folder.
        model: folder of the model, for ``local-dir:``.
        n_pairs: in the data set.
        n_steps: of the whole run.
        loss: mean of the last epoch's lines of the metrics; None if they are lost.
        n_unreadable: times a picture could not be decoded, over all epochs.
        pairs_per_s: of what this process trained; 0 if nothing was left to do. Of a run that was complete before: what
            its last process said, as ``seconds``.
        seconds: that took.
        resumed: the run went on from a checkpoint, or was complete before.
    """

    out: Path
    model: Path
    n_pairs: int
    n_steps: int
    loss: float | None
    n_unreadable: int
    pairs_per_s: float
    seconds: float
    resumed: bool

    def as_json(self) -> dict[str, object]:
        """Return the report as JSON values."""
        return {**asdict(self), "out": str(self.out), "model": str(self.model)}


def train(
    config: TrainConfig, table: PairTable, *, resume: bool = False, reporter: Reporter | None = None
) -> TrainReport:
    """Train a model on pairs, or go on where a checkpoint ends.

    Args:
        config: everything that decides what is computed.
        table: the pairs.
        resume: go on from ``config.out``; the result is that of an uninterrupted run. Of a complete run nothing is
            written again.
        reporter: told about progress; by the main process only.

    Raises:
        ConfigError: settings that cannot work; a folder that is in use, or (without ``resume``) holds a run; the
            training diverged, and its last checkpoint is from before.
        StoreError: the checkpoint is missing, damaged, or that of other pairs or settings.
        ShardError: a shard changed, or no picture of a batch can be read.
    """
    if config.tensorboard:
        require_tensorboard()
    with joined(config.device) as world, _held(config.out, world), _own_randomness(world):
        reporter = reporter if reporter is not None and world.is_main else SilentReporter()
        saved = begin(config, table, resume=resume, is_main=world.is_main)
        if saved is not None and (report := _report_of_complete(config, saved)) is not None:
            return report
        parts = assemble(config, table, world, reporter)
        return _Run(config, table, parts, world, reporter).go(saved)


def _report_of_complete(config: TrainConfig, saved: Saved) -> TrainReport | None:
    """Return what a complete run said when it ended; None if something is still to be done."""
    path, model = RunFolder(config.out).manifest, config.out / "model"
    if saved.cursor.epoch <= config.recipe.epochs or not path.exists() or not (model / WEIGHTS_NAME).exists():
        return None
    try:
        said = json.loads(path.read_text(encoding="utf-8"))["report"]
        return TrainReport(**{**said, "out": config.out, "model": model, "resumed": True})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: damaged ({error}); delete it, and --resume writes it anew") from error


def _own_randomness(world: World) -> AbstractContextManager[None]:
    """Give torch's random state back afterwards; that of the other GPUs is not touched, which would occupy them."""
    devices = [torch.cuda.current_device()] if world.device.type == "cuda" else []
    return cast("AbstractContextManager[None]", torch.random.fork_rng(devices=devices))


@contextmanager
def _held(out: Path, world: World) -> Iterator[None]:
    """Let the main process hold the run folder."""
    if not world.is_main:
        yield
        return
    with RunFolder(out).locked():
        yield


class _Run:
    """A run between its beginning and its end."""

    def __init__(self, config: TrainConfig, table: PairTable, parts: Parts, world: World, reporter: Reporter) -> None:
        self.config, self.table, self.parts, self.world, self.reporter = config, table, parts, world, reporter
        self.recipe = config.recipe
        self.checkpoint = config.out / CHECKPOINT_NAME
        self.cursor = Cursor()
        self.n_steps = self._count_steps()
        self._saved_at, self._saving_s = time.monotonic(), 0.0

    def _batches(self, epoch: int) -> Order:
        order = epoch_order(self.table.shard_N, seed=self.config.seed, epoch=epoch, buffer=self.recipe.shuffle_buffer)
        return epoch_batches(order, self.parts.group_N, self.recipe.batch_size)

    def _count_steps(self) -> int:
        """Return the steps of the whole run; where uids repeat, it depends on the order how many batches get full."""
        if self.parts.group_N is None:
            return len(self._batches(1)) * self.recipe.epochs
        return sum(len(self._batches(epoch)) for epoch in range(1, self.recipe.epochs + 1))

    def go(self, saved: Saved | None) -> TrainReport:
        """Train from the checkpoint, or from the start, to the end."""
        if saved is not None:
            restore(saved, self.parts.towers.model, self.parts.optimiser)
            self.parts.method.restore(saved.part("method"))
            self.cursor = saved.cursor
        n_before, started = self.cursor.n_steps_done, time.monotonic()
        self._train_epochs()
        seconds = time.monotonic() - started
        n_trained = (self.n_steps - n_before) * self.recipe.batch_size
        report = TrainReport(
            out=self.config.out,
            model=self.config.out / "model",
            n_pairs=len(self.table),
            n_steps=self.n_steps,
            loss=_last_loss(self.config.out) if self.world.is_main else 0.0,
            n_unreadable=self.cursor.n_unreadable,
            pairs_per_s=n_trained / seconds if n_trained else 0.0,
            seconds=seconds,
            resumed=saved is not None,
        )
        self._finish(report)
        self.world.wait()
        return report

    def _train_epochs(self) -> None:
        total = self.n_steps * self.recipe.batch_size
        held: AbstractContextManager[list[int]] = held_interrupts() if self.world.size > 1 else nullcontext([])
        with (
            held as caught,
            self._journal() as journal,
            self.reporter.stage("train", total=total) as progress,
        ):
            progress.advance(self.cursor.n_steps_done * self.recipe.batch_size, reused=True)
            while self.cursor.epoch <= self.recipe.epochs:
                try:
                    self._train_epoch(journal, progress, caught)
                except KeyboardInterrupt:
                    self._save()
                    raise
                is_over = self.cursor.epoch > self.recipe.epochs
                least_s = min(self.config.checkpoint_s, self._saving_s / MOST_SAVING)
                if is_over or time.monotonic() - self._saved_at >= least_s:
                    self._save()

    @contextmanager
    def _journal(self) -> Iterator[Journal | None]:
        if not self.world.is_main:
            yield None
            return
        with open_journal(
            self.config.out, n_steps_done=self.cursor.n_steps_done, tensorboard=self.config.tensorboard
        ) as journal:
            yield journal

    def _train_epoch(self, journal: Journal | None, progress: Progress, caught: Sequence[int] = ()) -> None:
        epoch, method = self.cursor.epoch, self.parts.method
        self.parts.towers.set_mode(trains_text=method.trains_text(epoch))
        if self.cursor.step == 0:
            method.begin_epoch(epoch, self.parts.embedder)
        batches = self._batches(epoch)
        for batch in load_batches(
            batches,
            self.parts.pictures,
            self.parts.tokens,
            method.views(epoch).text,
            epoch=epoch,
            first_step=self.cursor.step,
            part=self.world.part(self.recipe.batch_size),
            workers=self.config.workers,
        ):
            is_last = batch.step + 1 == len(batches)
            with whole_step():
                loss, n_unreadable = self._step(batch, batches[batch.step], epoch)
                self.cursor = Cursor(
                    epoch=epoch + is_last,
                    step=0 if is_last else batch.step + 1,
                    n_steps_done=self.cursor.n_steps_done + 1,
                    n_unreadable=self.cursor.n_unreadable + n_unreadable,
                )
                detail = self._log(journal, loss, epoch)
            progress.advance(self.recipe.batch_size, n_errors=n_unreadable, detail=detail)
            if self.world.any(bool(caught)):  # all ranks stop after the same step, whichever of them was told
                raise KeyboardInterrupt
            if not is_last and time.monotonic() - self._saved_at > self.config.checkpoint_s:
                self._save()

    def _step(self, batch: Batch, pairs: Order, epoch: int) -> tuple[Loss, int]:
        """Take one optimiser step; return the loss, and how many pictures could not be read."""
        method, optimiser = self.parts.method, self.parts.optimiser
        rate = learning_rate(
            self.cursor.n_steps_done,
            n_steps=self.n_steps,
            n_warmup=round(self.recipe.warmup * self.n_steps),
            peak=self.recipe.lr * method.rate(epoch),
        )
        for group in optimiser.param_groups:
            group["lr"] = rate
        torch.manual_seed(derive_seed(self.config.seed, "dropout", epoch, batch.step, self.world.rank))
        features, n_unreadable = self._features(batch, pairs, epoch)
        loss = method.loss(features, epoch)
        optimiser.zero_grad(set_to_none=True)
        loss.total.backward()
        optimiser.step()
        self.parts.towers.clamp_scale()
        return loss, n_unreadable

    def _features(self, batch: Batch, pairs: Order, epoch: int) -> tuple[Features, int]:
        towers, device = self.parts.towers, self.world.device
        canvases = on_device(batch.canvases, device)
        views = self.parts.method.views(epoch)
        pixels = []
        for place, view in enumerate(views.image if views.judge is None else (*views.image, views.judge)):
            draws_ND = augment.draw(len(pairs), seed=self.config.seed, epoch=epoch, step=batch.step, view=place)[
                self.world.part(len(pairs))
            ]
            pixels.append(towers.view(view, canvases, draws_ND.to(device, non_blocking=True)))
        judged = None if views.judge is None else pixels.pop()
        tokens = [tokens_NL.to(device, non_blocking=True) for tokens_NL in batch.tokens_VNL]
        images, texts, scale = towers.features(pixels, tokens)
        # After the forward pass, in which DDP gives every rank the same running means of batch norm.
        judge_ND = None if judged is None else self.world.gather(towers.embed_images(judged))
        pair_N = torch.from_numpy(pairs).to(device)
        readable_N = self._readable(batch)
        if readable_N is not None:
            images = tuple(image_ND[readable_N] for image_ND in images)
            texts = tuple(text_ND[readable_N] for text_ND in texts)
            pair_N = pair_N[readable_N]
            judge_ND = None if judge_ND is None else judge_ND[readable_N]
        n_unreadable = len(pairs) - len(pair_N)
        if n_unreadable == len(pairs):
            raise ShardError(f"none of the {len(pairs):,} pictures of step {batch.step} of epoch {epoch} can be read")
        features = Features(image_VND=images, text_VND=texts, scale=scale, pair_N=pair_N, judge_ND=judge_ND)
        return features, n_unreadable

    def _readable(self, batch: Batch) -> Tensor | None:
        """Return [N] which pictures of the global batch can be used, or None if all can."""
        if self.parts.all_readable:
            return None
        readable_N = self.world.gather(batch.canvases.readable_N.to(self.world.device, torch.uint8)).bool()
        return None if bool(readable_N.all()) else readable_N

    def _log(self, journal: Journal | None, loss: Loss, epoch: int) -> str:
        """Write a line of the metrics where one is due; return what the progress line shows.

        Raises:
            ConfigError: the training diverged. All ranks see the same loss, and so raise together.
        """
        cursor = self.cursor
        if cursor.n_steps_done % LOG_STEPS and cursor.step:
            return ""
        value = float(loss.total.detach())
        scale = float(cast(Tensor, self.parts.towers.model.logit_scale).detach().exp())
        if not (math.isfinite(value) and math.isfinite(scale)):
            raise self._diverged(f"a loss of {value:g} at a logit scale of {scale:g}")
        if journal is None:
            return ""
        journal.write(
            {
                "epoch": epoch,
                "n_steps_done": cursor.n_steps_done,
                "loss": value,
                "is_matched": self.parts.method.is_matched(epoch),
                "lr": float(self.parts.optimiser.param_groups[0]["lr"]),
                "logit_scale": scale,
                **{name: float(part.detach()) for name, part in loss.parts.items()},
            }
        )
        return f"epoch {epoch} of {self.recipe.epochs}, loss {value:.3f}"

    def _diverged(self, what: str) -> ConfigError:
        return ConfigError(
            f"{self.config.out}: the training diverged: {what} after step {self.cursor.n_steps_done:,} of "
            f"{self.n_steps:,}; start anew, into another --out, with a lower --lr (it was {self.recipe.lr:g}); what "
            "was saved before is kept"
        )

    def _is_finite(self) -> bool:
        return all(bool(parameter.isfinite().all()) for parameter in self.parts.towers.model.parameters())

    def _save(self) -> None:
        """Let the main process write a checkpoint. When it is due, each rank's clock says otherwise: nobody waits.

        Broken weights do not take the place of those that were saved before. No rank raises for them here, for others
        would wait for it: ``_log`` and ``_finish`` do, on all.
        """
        started = time.monotonic()
        if self.world.is_main and self._is_finite():
            save_checkpoint(
                self.checkpoint,
                cursor=self.cursor,
                key=self.parts.key,
                model=self.parts.towers.model,
                optimiser=self.parts.optimiser,
                method_state=self.parts.method.state(),
            )
        self._saved_at = time.monotonic()
        self._saving_s = self._saved_at - started

    def _finish(self, report: TrainReport) -> None:
        """Write model, plot and, last, the manifest.

        Raises:
            ConfigError: a weight is NaN or infinite; all ranks raise together.
        """
        if not self._is_finite():
            raise self._diverged("weights that are not finite")
        if not self.world.is_main:
            return
        save_weights(self.parts.towers.model, report.model)
        write_loss_plot(read_metrics(self.config.out), self.config.out / "loss.svg")
        manifest = {"roclip_audit": __version__, "torch": torch.__version__, "key": self.parts.key}
        data = {"fingerprint": self.table.fingerprint, "left_out": dict(self.table.left_out)}
        write_json(RunFolder(self.config.out).manifest, {**manifest, "data": data, "report": report.as_json()})


def _last_loss(out: Path) -> float | None:
    entries = read_metrics(out)
    if not entries:
        return None
    last = [entry["loss"] for entry in entries if entry["epoch"] == entries[-1]["epoch"]]
    return float(sum(last) / len(last))
