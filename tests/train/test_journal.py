"""The metrics of a run, through kills and resumes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from roclip_audit.core.errors import EXIT_USAGE, MissingExtraError, StoreError
from roclip_audit.train.journal import METRICS_NAME, Journal, open_journal, read_metrics

NO_TENSORBOARD = importlib.util.find_spec("tensorboard") is None


class FakeBoard:
    """Keeps what TensorBoard would draw."""

    def __init__(self) -> None:
        self.scalars: list[tuple[str, float, int]] = []

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))


def write(folder: Path, *steps: int) -> None:
    with open_journal(folder, n_steps_done=0, tensorboard=False) as journal:
        for step in steps:
            journal.write({"epoch": 1, "n_steps_done": step, "loss": step / 10})


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write(tmp_path, 10, 20)
    expected = [{"epoch": 1, "n_steps_done": 10, "loss": 1.0}, {"epoch": 1, "n_steps_done": 20, "loss": 2.0}]
    assert read_metrics(tmp_path) == expected


def test_a_new_run_begins_a_new_journal(tmp_path: Path) -> None:
    write(tmp_path, 10, 20)
    write(tmp_path, 5)
    assert [entry["n_steps_done"] for entry in read_metrics(tmp_path)] == [5]


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 10, 20, 30)
    with open_journal(tmp_path, n_steps_done=20, tensorboard=False) as journal:
        journal.write({"epoch": 2, "n_steps_done": 30, "loss": 0.5})
    assert [(entry["epoch"], entry["n_steps_done"]) for entry in read_metrics(tmp_path)] == [(1, 10), (1, 20), (2, 30)]


@pytest.mark.parametrize("n_bytes", [1, 20])
def test_a_last_line_cut_by_a_kill_is_dropped(tmp_path: Path, n_bytes: int) -> None:
    write(tmp_path, 10, 20)
    path = tmp_path / METRICS_NAME
    line = path.read_text().splitlines(keepends=True)[-1]
    path.write_text(path.read_text() + line[:n_bytes])
    assert [entry["n_steps_done"] for entry in read_metrics(tmp_path)] == [10, 20]
    with open_journal(tmp_path, n_steps_done=20, tensorboard=False) as journal:
        journal.write({"epoch": 1, "n_steps_done": 30, "loss": 0.5})
    assert [json.loads(text)["n_steps_done"] for text in path.read_text().splitlines()] == [10, 20, 30]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    write(tmp_path, 10, 20)
    path = tmp_path / METRICS_NAME
    path.write_text("{broken\n" + path.read_text())
    with pytest.raises(StoreError, match=r"metrics\.jsonl, line 1: damaged"):
        read_metrics(tmp_path)


def test_no_journal_is_an_empty_one(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


def test_the_board_gets_the_measurements_at_their_step(tmp_path: Path) -> None:
    board = FakeBoard()
    journal = Journal(path=tmp_path / METRICS_NAME, board=board)
    journal.write({"epoch": 1, "n_steps_done": 10, "loss": 1.5, "is_matched": True, "lr": 0.1})
    assert board.scalars == [("loss", 1.5, 10), ("lr", 0.1, 10)]


@pytest.mark.skipif(not NO_TENSORBOARD, reason="tensorboard is installed here")
def test_tensorboard_without_the_package_says_how_to_install_it(tmp_path: Path) -> None:
    with (
        pytest.raises(MissingExtraError, match=r"roclip-audit\[tensorboard\]") as caught,
        open_journal(tmp_path, n_steps_done=0, tensorboard=True),
    ):
        pass
    assert caught.value.exit_code == EXIT_USAGE
