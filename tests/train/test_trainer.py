"""Whole runs on a tiny model: the same whatever interrupts them, and what they promise of each epoch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from roclip_audit.core.errors import EXIT_USAGE, ConfigError, ShardError, StoreError
from roclip_audit.core.shards import expand_shards
from roclip_audit.train import trainer
from roclip_audit.train.checkpoint import CHECKPOINT_NAME, Cursor, read_checkpoint, save_checkpoint
from roclip_audit.train.data.order import epoch_batches, epoch_order
from roclip_audit.train.data.pairs import PairTable, read_pairs
from roclip_audit.train.interrupts import whole_step
from roclip_audit.train.journal import read_metrics
from roclip_audit.train.model import is_text_parameter
from roclip_audit.train.pool import NOBODY
from roclip_audit.train.schedule import learning_rate
from roclip_audit.train.trainer import train
from tests.shardkit import draw_samples, make_shard, sample
from tests.train.trainkit import RESNET, RUNS, StopsAfter, make_config, make_table, weights, write_model

N_STEPS = 3  # of an epoch


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_model(folder / "vit.json")
    write_model(folder / "resnet.json", RESNET)
    return folder


@pytest.fixture(scope="module")
def table(place: Path) -> PairTable:
    return make_table(place / "shards")


def lines(run: Path) -> list[str]:
    return (run / "metrics.jsonl").read_text().splitlines()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def assert_same_run(one: Path, other: Path) -> None:
    assert same(weights(one), weights(other))
    assert lines(one) == lines(other)
    ends = [read_checkpoint(run / CHECKPOINT_NAME) for run in (one, other)]
    assert ends[0].cursor == ends[1].cursor
    assert same(dict(ends[0].tensors), dict(ends[1].tensors))


@pytest.fixture(scope="module")
def uninterrupted(place: Path, table: PairTable) -> dict[str, Path]:
    """Run each method once to its end."""
    folders = {}
    for name, changes in RUNS.items():
        for model in ("vit", "resnet"):
            folders[f"{name}-{model}"] = place / f"{name}-{model}"
            train(make_config(folders[f"{name}-{model}"], place / f"{model}.json", **changes), table)
    return folders


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize(
    ("model", "error", "n_steps"), [("vit", KeyboardInterrupt, 2), ("resnet", RuntimeError, 4)], ids=["vit", "resnet"]
)
def test_a_run_resumed_within_an_epoch_ends_as_if_uninterrupted(
    place: Path,
    tmp_path: Path,
    table: PairTable,
    uninterrupted: dict[str, Path],
    name: str,
    model: str,
    error: type[BaseException],
    n_steps: int,
) -> None:
    """Ctrl-C writes a checkpoint; anything else goes back to the last one, here one step before."""
    interval = {} if error is KeyboardInterrupt else {"checkpoint_s": 0.0}
    config = make_config(tmp_path / "run", place / f"{model}.json", **RUNS[name], **interval)
    with pytest.raises(error):
        train(config, table, reporter=StopsAfter(n_steps, error))
    saved = read_checkpoint(tmp_path / "run" / CHECKPOINT_NAME).cursor
    assert saved.n_steps_done == (n_steps if error is KeyboardInterrupt else n_steps - 1)
    report = train(config, table, resume=True)
    assert report.resumed
    assert_same_run(tmp_path / "run", uninterrupted[f"{name}-{model}"])


KILLED = """
import os, signal, sys
from pathlib import Path
from roclip_audit.core.shards import expand_shards
from roclip_audit.train.data.pairs import read_pairs
from roclip_audit.train.trainer import train
from tests.train.trainkit import StopsAfter, make_config

class Kill(StopsAfter):
    def advance(self, n, **how):
        try:
            super().advance(n, **how)
        except RuntimeError:
            os.kill(os.getpid(), signal.SIGKILL)

place, out = map(Path, sys.argv[1:])
config = make_config(out, place / "resnet.json", method="roclip", checkpoint_s=0.0)
train(config, read_pairs(expand_shards([str(place / "shards")])), reporter=Kill(5, RuntimeError))
"""


def test_a_killed_process_resumes(
    place: Path, tmp_path: Path, table: PairTable, uninterrupted: dict[str, Path]
) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-c", KILLED, str(place), str(out)]
    done = subprocess.run(command, check=False, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (out / "manifest.json").exists()
    train(make_config(out, place / "resnet.json", method="roclip"), table, resume=True)
    assert_same_run(out, uninterrupted["roclip-fixed-resnet"])


def test_how_a_run_is_computed_does_not_change_it(
    place: Path, tmp_path: Path, table: PairTable, uninterrupted: dict[str, Path]
) -> None:
    before = torch.random.get_rng_state()
    config = make_config(tmp_path / "run", place / "vit.json", method="roclip", cache="stream", workers=3)
    report = train(config, table)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert_same_run(tmp_path / "run", uninterrupted["roclip-fixed-vit"])
    assert (report.n_pairs, report.n_steps, report.n_unreadable, report.resumed) == (24, 6, 0, False)
    assert report.loss == json.loads(lines(tmp_path / "run")[-1])["loss"]
    assert report.pairs_per_s == pytest.approx(48 / report.seconds)


def test_another_seed_is_another_run(
    place: Path, tmp_path: Path, table: PairTable, uninterrupted: dict[str, Path]
) -> None:
    train(make_config(tmp_path / "run", place / "vit.json", seed=1), table)
    assert not same(weights(tmp_path / "run"), weights(uninterrupted["clip-vit"]))


class Clock(StopsAfter):
    """A clock by which every step takes a second; also the reporter that sees the steps."""

    def __init__(self) -> None:
        super().__init__(1_000)
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def advance(self, n: int, **how: Any) -> None:
        super().advance(n, **how)
        self.now += 1


@pytest.mark.parametrize(("takes_s", "n_saves"), [(0.1, 4), (60.0, 2)])
def test_checkpoints_of_short_epochs_wait_until_they_cost_little(
    place: Path, tmp_path: Path, table: PairTable, monkeypatch: pytest.MonkeyPatch, takes_s: float, n_saves: int
) -> None:
    """The first epoch, of which nothing is known, and the last one are written in any case."""
    saves: list[int] = []
    clock = Clock()

    def save(path: Path, *, cursor: Cursor, **state: Any) -> None:
        saves.append(cursor.epoch)
        clock.now += takes_s
        save_checkpoint(path, cursor=cursor, **state)

    monkeypatch.setattr(trainer, "save_checkpoint", save)
    monkeypatch.setattr(trainer, "time", clock)
    train(make_config(tmp_path / "run", place / "vit.json", recipe_epochs=4), table, reporter=clock)
    assert len(saves) == n_saves
    assert saves[-1] == 5


def test_a_complete_run_that_is_resumed_stays_as_it_is(place: Path, tmp_path: Path, table: PairTable) -> None:
    run = tmp_path / "run"
    config = make_config(run, place / "vit.json", recipe_epochs=1)
    first = train(config, table)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.rglob("*.*") if path.name != ".lock"}
    (run / "metrics.jsonl").unlink()
    assert train(config, table, resume=True) == replace(first, resumed=True)
    del before[run / "metrics.jsonl"]
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
    run.rename(tmp_path / "moved")
    moved = train(replace(config, out=tmp_path / "moved"), table, resume=True)
    assert (moved.model, moved.seconds) == (tmp_path / "moved" / "model", first.seconds)


def test_a_run_that_lacks_only_its_end_gets_it_without_a_journal(place: Path, tmp_path: Path, table: PairTable) -> None:
    run = tmp_path / "run"
    config = make_config(run, place / "vit.json", recipe_epochs=1)
    train(config, table)
    before = weights(run)
    for name in ("manifest.json", "metrics.jsonl", "model/open_clip_model.safetensors"):
        (run / name).unlink()
    report = train(config, table, resume=True)
    assert (report.loss, report.n_steps, report.pairs_per_s, report.resumed) == (None, 3, 0.0, True)
    assert json.loads((run / "manifest.json").read_text())["report"]["loss"] is None
    assert same(weights(run), before)
    (run / "manifest.json").write_text('{"report": {"n_steps": 3}}')
    with pytest.raises(StoreError, match=r"manifest\.json: damaged"):
        train(config, table, resume=True)


def all_finite(tensors: Mapping[str, Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def test_a_run_that_diverges_ends_with_an_error_and_saves_nothing(
    place: Path, tmp_path: Path, table: PairTable
) -> None:
    config = make_config(tmp_path / "run", place / "vit.json", recipe_lr=1e18)
    with pytest.raises(ConfigError, match=r"diverged: a loss of nan.* step 3 of 6; .*--lr .it was 1e\+18.") as caught:
        train(config, table)
    assert caught.value.exit_code == EXIT_USAGE
    assert not any((tmp_path / "run" / name).exists() for name in (CHECKPOINT_NAME, "manifest.json", "loss.svg"))
    assert lines(tmp_path / "run") == []
    train(replace(config, recipe=replace(config.recipe, lr=1e-3)), table)  # the folder is free


def test_weights_that_are_not_finite_do_not_take_the_place_of_a_checkpoint(
    place: Path, tmp_path: Path, table: PairTable
) -> None:
    """Also where no line of the metrics is due, and the loss not looked at: no rank may raise alone."""
    config = make_config(tmp_path / "run", place / "vit.json", recipe_lr=1e18, checkpoint_s=0.0)
    with pytest.raises(ConfigError, match=r"diverged: a loss of nan.* after step 3 of 6"):
        train(config, table)
    saved = read_checkpoint(tmp_path / "run" / CHECKPOINT_NAME)
    assert saved.cursor.n_steps_done == 1
    assert all_finite(saved.part("model"))


@pytest.mark.parametrize("left", ["manifest.json", "done/index"])
def test_a_folder_of_an_audit_or_of_a_finished_run_is_left_alone(
    place: Path, tmp_path: Path, table: PairTable, left: str
) -> None:
    (tmp_path / "audit" / left).parent.mkdir(parents=True)
    (tmp_path / "audit" / left).write_text("{}")
    with pytest.raises(ConfigError, match="name another --out"):
        train(make_config(tmp_path / "audit", place / "vit.json"), table)
    assert (tmp_path / "audit" / left).read_text() == "{}"
    assert not (tmp_path / "audit" / "config.json").exists()


def test_metrics_tell_epochs_matches_and_the_rate_of_every_line(uninterrupted: dict[str, Path]) -> None:
    entries = read_metrics(uninterrupted["roclip-fixed-vit"])
    assert [(e["epoch"], e["n_steps_done"], e["is_matched"]) for e in entries] == [(1, 3, False), (2, 6, True)]
    for entry in entries:
        expected = learning_rate(entry["n_steps_done"] - 1, n_steps=6, n_warmup=1, peak=1e-3)
        assert entry["lr"] == pytest.approx(expected)
    end = weights(uninterrupted["roclip-fixed-vit"])["logit_scale"].exp()
    assert entries[-1]["logit_scale"] == pytest.approx(float(end))


def test_a_finished_run_has_a_plot_and_a_manifest(uninterrupted: dict[str, Path], table: PairTable) -> None:
    run = uninterrupted["clip-vit"]
    assert 'class="own"' in (run / "loss.svg").read_text()
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["data"]["fingerprint"] == table.fingerprint
    assert manifest["report"]["n_steps"] == 6


def halves(place: Path, out: Path, table: PairTable, **changes: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the model after epoch 1, which is plain, and after epoch 2, which is matched."""
    config = make_config(out, place / "vit.json", method="roclip", **changes)
    with pytest.raises(KeyboardInterrupt):
        train(config, table, reporter=StopsAfter(N_STEPS))
    saved = read_checkpoint(out / CHECKPOINT_NAME)
    assert (saved.cursor.epoch, saved.cursor.step) == (2, 0)
    train(config, table, resume=True)
    return saved.part("model"), weights(out)


def test_the_text_tower_rests_in_a_matched_epoch_of_fixed(place: Path, tmp_path: Path, table: PairTable) -> None:
    """No gradient, no momentum, no decay; and it goes on in the plain epochs."""
    before, after = halves(place, tmp_path / "run", table)
    text = [name for name in before if is_text_parameter(name)]
    assert len(text) > 5
    assert all(torch.equal(before[name], after[name]) for name in text)
    assert all(not torch.equal(before[name], after[name]) for name in before if name.startswith("visual."))


def test_momentum_and_decay_move_the_text_tower_in_a_matched_epoch_of_strict(
    place: Path, tmp_path: Path, table: PairTable
) -> None:
    before, after = halves(place, tmp_path / "run", table, strict=True)
    moved = [name for name in before if is_text_parameter(name) and not torch.equal(before[name], after[name])]
    assert "text_projection" in moved


def pool_after(place: Path, out: Path, table: PairTable, n_steps: int, **changes: Any) -> Tensor:
    """Return whose captions are in the pool after so many steps."""
    config = make_config(out, place / "vit.json", method="roclip", recipe_pool_share=1.0, **changes)
    with pytest.raises(KeyboardInterrupt):
        train(config, table, reporter=StopsAfter(n_steps))
    return read_checkpoint(out / CHECKPOINT_NAME).part("method")["pool.owner"]


def test_the_pool_is_refreshed_when_the_mode_says(place: Path, tmp_path: Path, table: PairTable) -> None:
    batch = epoch_batches(epoch_order(table.shard_N, seed=0, epoch=1, buffer=12), None, 8)[0].tolist()
    plain = pool_after(place, tmp_path / "a", table, 1)
    assert plain.tolist() == [*batch, *[NOBODY] * 16]
    assert set(pool_after(place, tmp_path / "b", table, 3).tolist()) == set(range(24))
    assert pool_after(place, tmp_path / "c", table, 3, strict=True).tolist() == [NOBODY] * 24
    matched = pool_after(place, tmp_path / "d", table, 4, strict=True)
    second = epoch_batches(epoch_order(table.shard_N, seed=0, epoch=2, buffer=12), None, 8)[0].tolist()
    assert matched.tolist() == [*second, *[NOBODY] * 16]


def test_fixed_with_every_epoch_matched_fills_the_pool_first(place: Path, tmp_path: Path, table: PairTable) -> None:
    owners = pool_after(place, tmp_path / "run", table, 1, recipe_match_every=1)
    assert NOBODY not in owners.tolist()


@pytest.fixture
def odd_table(tmp_path: Path) -> PairTable:
    """Return 24 pairs of which 3 pictures cannot be decoded."""
    samples = draw_samples(24, px=40)
    for i in (2, 11, 12):
        samples[i] = sample(samples[i].key, image=b"not a picture", meta={"uid": f"{i:032x}"})
    return read_pairs(expand_shards([str(make_shard(tmp_path / "odd.tar", samples))]))


def test_unreadable_pictures_are_counted_and_not_trained_on(place: Path, tmp_path: Path, odd_table: PairTable) -> None:
    runs = {}
    for cache in ("memory", "stream"):
        runs[cache] = tmp_path / cache
        report = train(make_config(runs[cache], place / "vit.json", method="roclip", cache=cache), odd_table)
        assert report.n_unreadable == 3 * 2  # each is asked for once an epoch
    assert_same_run(runs["memory"], runs["stream"])
    owners = read_checkpoint(runs["memory"] / CHECKPOINT_NAME).part("method")["pool.owner"]
    assert not {2, 11, 12} & set(owners.tolist())


def test_a_batch_without_a_picture_is_an_error(place: Path, tmp_path: Path) -> None:
    samples = [sample(f"{i}", image=b"no picture") for i in range(8)]
    table = read_pairs(expand_shards([str(make_shard(tmp_path / "bad.tar", samples))]))
    with pytest.raises(ShardError, match="none of the 8 pictures of step 0 of epoch 1"):
        train(make_config(tmp_path / "run", place / "vit.json"), table)


def test_too_few_pairs_are_a_config_error(place: Path, tmp_path: Path, table: PairTable) -> None:
    with pytest.raises(ConfigError, match="lower --batch-size"):
        train(make_config(tmp_path / "run", place / "vit.json", recipe_batch_size=32), table)


def test_steps_are_counted_for_every_epoch_where_uids_repeat(place: Path, tmp_path: Path) -> None:
    """Whether the last copies find a batch depends on the order, so one epoch may be a step longer than another."""
    groups = [0, 0, 0, 1, 2, 3]
    samples = [sample(f"{i}", caption=f"number {i}", meta={"uid": f"{uid:032x}"}) for i, uid in enumerate(groups)]
    table = read_pairs(expand_shards([str(make_shard(tmp_path / "copies.tar", samples))]))
    config = make_config(tmp_path / "run", place / "vit.json", recipe_batch_size=2, recipe_epochs=6)
    report = train(config, table)
    orders = [epoch_order(table.shard_N, seed=0, epoch=epoch, buffer=12) for epoch in range(1, 7)]
    per_epoch = [len(epoch_batches(order, np.array(groups), 2)) for order in orders]
    assert len(set(per_epoch)) == 2
    assert report.n_steps == sum(per_epoch) == read_metrics(tmp_path / "run")[-1]["n_steps_done"]


def test_every_method_trains(place: Path, tmp_path: Path, table: PairTable) -> None:
    for method in ("cleanclip", "safeclip"):
        report = train(make_config(tmp_path / method, place / "vit.json", method=method, recipe_epochs=3), table)
        assert report.loss is not None
        assert np.isfinite(report.loss)
        assert report.n_steps == 9


def test_training_goes_on_from_another_model(
    place: Path, tmp_path: Path, table: PairTable, uninterrupted: dict[str, Path]
) -> None:
    source = uninterrupted["clip-vit"] / "model"
    config = make_config(
        tmp_path / "run", place / "vit.json", start_from=f"local-dir:{source}", recipe_lr=1e-12, recipe_epochs=1
    )
    train(config, table)
    for name, tensor in weights(tmp_path / "run").items():
        torch.testing.assert_close(tensor, weights(uninterrupted["clip-vit"])[name], atol=1e-9, rtol=0)


def test_an_interrupt_waits_for_the_end_of_a_step() -> None:
    """A checkpoint of half a step, with the batch in the pool but not in the weights, would not resume alike."""
    done = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the point is what still runs
        with whole_step():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("rest of the step")
        done.append("never")
    assert done == ["rest of the step"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with whole_step():
        pass


def test_an_error_in_a_step_is_not_hidden() -> None:
    with pytest.raises(ValueError, match="of the step"), whole_step():
        raise ValueError("of the step")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
