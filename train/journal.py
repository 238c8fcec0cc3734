"""What a run tells while it goes on: ``metrics.jsonl``, one line of progress, TensorBoard if asked for."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from roclip_audit.core.errors import MissingExtraError, StoreError
from roclip_audit.core.run import write_atomic

METRICS_NAME: Final = "metrics.jsonl"


@dataclass(slots=True, kw_only=True)
class Journal:
    """The metrics file of a run, and TensorBoard's; made by ``open_journal``."""

    path: Path
    board: Any = None

    def write(self, entry: Mapping[str, object]) -> None:
        """Append one line: numbers by name, and where they belong (epoch, step, n_steps_done)."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(entry)) + "\n")
        if self.board is not None:
            for name, value in entry.items():
                if isinstance(value, float):
                    self.board.add_scalar(name, value, entry["n_steps_done"])


@contextmanager
def open_journal(folder: Path, *, n_steps_done: int, tensorboard: bool) -> Iterator[Journal]:
    """Open the journal of a run and forget what was written after the checkpoint that it resumes from.

    Args:
        folder: run folder.
        n_steps_done: of the whole run, at the checkpoint; 0 begins a new journal.
        tensorboard: write TensorBoard's files too, into ``tensorboard/``.

    Raises:
        MissingExtraError: tensorboard is not installed.
        StoreError: the journal is damaged.
    """
    path = folder / METRICS_NAME
    kept = [entry for entry in read_metrics(folder) if entry["n_steps_done"] <= n_steps_done] if n_steps_done else []
    text = "".join(json.dumps(entry) + "\n" for entry in kept)
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    board = _board(folder / "tensorboard", n_steps_done) if tensorboard else None
    try:
        yield Journal(path=path, board=board)
    finally:
        if board is not None:
            board.close()


def require_tensorboard() -> None:
    """Raise MissingExtraError where tensorboard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise MissingExtraError("--tensorboard", "tensorboard")


def _board(folder: Path, n_steps_done: int) -> Any:  # noqa: ANN401 - an optional package
    require_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=n_steps_done + 1)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the lines of a run; a last one that was cut short by a kill is dropped.

    Raises:
        StoreError: a line before the last is damaged.
    """
    path = folder / METRICS_NAME
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise StoreError(f"{path}, line {number}: damaged ({error})") from error
    return entries
