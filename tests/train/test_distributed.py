"""One process and two make the same model."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.progress import SilentReporter
from roclip_audit.train.assembly import assemble
from roclip_audit.train.checkpoint import CHECKPOINT_NAME, read_checkpoint
from roclip_audit.train.distributed import World, choose_device, joined
from roclip_audit.train.journal import read_metrics
from roclip_audit.train.trainer import train
from tests.train.trainkit import RUNS, make_config, make_table, weights, write_model
from tests.train.worldkit import run_all

N_SESSIONS = 2 * len(RUNS)


def free_ports(n: int) -> list[str]:
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [str(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_model(folder / "vit.json")
    make_table(folder / "shards")
    return folder


def start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, env=os.environ | environment, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def runs(place: Path) -> tuple[Path, Path]:
    """Run everything with one process and with two, and return the folders."""
    one, two = place / "one", place / "two"
    two.mkdir()
    ports = free_ports(N_SESSIONS)
    here = {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.train.worldkit", str(place), str(two), *ports]
    ranks = [start(command, here | {"RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")]
    try:
        one.mkdir()
        run_all(place, one, [])
        errors = [rank.communicate(timeout=200)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)
    return one, two


def steps(folder: Path, name: str, rank: int) -> dict[str, Tensor]:
    return load_file(folder / f"{name}-{rank}.safetensors")


@pytest.mark.parametrize("name", RUNS)
def test_loss_and_gradients_are_those_of_one_process(runs: tuple[Path, Path], name: str) -> None:
    alone = steps(runs[0], name, 0)
    assert any(key.startswith("1.gradient.") for key in alone)
    for rank in (0, 1):
        mine = steps(runs[1], name, rank)
        assert mine.keys() == alone.keys()
        for key, expected in alone.items():
            torch.testing.assert_close(
                mine[key], expected, rtol=2e-4, atol=1e-6, msg=lambda text, k=key: f"{k}: {text}"
            )


@pytest.mark.parametrize("name", [name for name in RUNS if name != "clip"])
def test_every_rank_holds_the_same_pool(runs: tuple[Path, Path], name: str) -> None:
    ranks = [steps(runs[1], name, rank) for rank in (0, 1)]
    memory = [key for key in ranks[0] if ".method." in key]
    assert {"1.method.pool.rows", "2.method.pool.owner"} <= set(memory)
    assert all(torch.equal(ranks[0][key], ranks[1][key]) for key in memory)
    assert (ranks[0]["2.method.pool.owner"] >= 0).any()


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_end_where_one_does(runs: tuple[Path, Path], name: str) -> None:
    one, two = (folder / name for folder in runs)
    for mine, alone in zip(read_metrics(two), read_metrics(one), strict=True):
        assert mine.keys() == alone.keys()
        assert all(mine[key] == pytest.approx(alone[key], rel=1e-4) for key in alone)
    for key, expected in weights(one).items():
        torch.testing.assert_close(weights(two)[key], expected, rtol=1e-4, atol=2e-5)
    pools = [read_checkpoint(run / CHECKPOINT_NAME).part("method") for run in (one, two)]
    for key, expected in pools[0].items():
        torch.testing.assert_close(pools[1][key], expected, rtol=1e-4, atol=1e-4)


def test_a_run_of_two_processes_may_be_looked_at_by_one(runs: tuple[Path, Path], place: Path) -> None:
    """How many there were is no setting of the run."""
    report = train(make_config(runs[1] / "clip", place / "vit.json"), make_table(place / "again"), resume=True)
    assert report.resumed


INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from roclip_audit.core.shards import expand_shards
from roclip_audit.train.data.pairs import read_pairs
from roclip_audit.train.trainer import _Run, train
from tests.train.trainkit import make_config

step = _Run._step

def interrupted_step(self, batch, pairs, epoch):
    if (epoch, batch.step, self.world.rank) == (2, 1, 1):
        os.kill(os.getpid(), signal.SIGINT)
    return step(self, batch, pairs, epoch)

_Run._step = interrupted_step
place = Path(sys.argv[1])
config = make_config(place / "interrupted", place / "vit.json", method="roclip", checkpoint_s=600.0)
try:
    train(config, read_pairs(expand_shards([str(place / "shards")])))
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_an_interrupt_of_one_rank_stops_all_after_the_same_step(runs: tuple[Path, Path], place: Path) -> None:
    here = {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    here["MASTER_PORT"] = free_ports(1)[0]
    command = [sys.executable, "-c", INTERRUPTED, str(place)]
    ranks = [start(command, here | {"RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")]
    try:
        errors = [rank.communicate(timeout=100)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [130, 130], "\n".join(errors)
    out = place / "interrupted"
    assert read_checkpoint(out / CHECKPOINT_NAME).cursor.n_steps_done == 5
    train(make_config(out, place / "vit.json", method="roclip"), make_table(place / "again-interrupted"), resume=True)
    for name, expected in weights(runs[0] / "roclip-fixed").items():
        torch.testing.assert_close(weights(out)[name], expected, rtol=1e-4, atol=2e-5)


def test_alone_is_rank_0_of_1() -> None:
    with joined("cpu") as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
        tensor = torch.ones(3)
        assert world.gather(tensor) is tensor
        assert (world.any(True), world.any(False)) == (True, False)
        world.wait()


def test_parts_of_the_ranks_are_the_whole() -> None:
    worlds = [World(device=torch.device("cpu"), rank=rank, size=4) for rank in range(4)]
    numbers = list(range(12))
    assert [x for world in worlds for x in numbers[world.part(12)]] == numbers
    assert [world.is_main for world in worlds] == [True, False, False, False]


def test_a_batch_that_the_ranks_cannot_share_is_refused(place: Path, tmp_path: Path) -> None:
    world = World(device=torch.device("cpu"), rank=0, size=3)
    with pytest.raises(ConfigError, match="cannot be shared by 3 processes"):
        assemble(make_config(tmp_path, place / "vit.json"), make_table(place / "shards"), world, SilentReporter())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("name", ["cuda", "cuda:1", "nonsense"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="device"):
        choose_device(name)


def test_auto_is_a_gpu_where_there_is_one() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
