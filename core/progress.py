"""Progress of long work, on stderr: rich bars on a terminal, plain periodic lines elsewhere, or nothing.

A stage of work says what it is and how much there is, then counts::

    with reporter.stage("encode", total=6881) as progress:
        for batch in batches:
            ...
            progress.advance(len(batch), n_errors=n_unreadable)

Reporters are called from one thread. Nothing sleeps and nothing runs in the background of the plain one.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TextIO

from roclip_audit.core.terminal import printable, say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

PLAIN_PERIOD_S = 10.0


class Progress(Protocol):
    """What a stage reports to while it runs."""

    def advance(self, n: int, *, n_errors: int = 0) -> None:
        """Count ``n`` more finished units, ``n_errors`` of them with a problem."""


class Reporter(Protocol):
    """Makes one Progress per stage."""

    def stage(self, name: str, total: int, *, unit: str = "pairs") -> AbstractContextManager[Progress]:
        """Open a stage of ``total`` units, 0 if there turns out to be nothing to do."""

    def note(self, message: str) -> None:
        """Print one line; what it quotes is made harmless."""


def duration(seconds: float) -> str:
    """Return a time the way people say it: ``3.2 s``, ``1 min 05 s``, ``2 h 10 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def rate(n: float, seconds: float, unit: str) -> str:
    """Return ``1,234 pairs/s``, with a decimal below ten; a dash before there is anything to say."""
    if n <= 0 or seconds <= 0:
        return f"- {unit}/s"
    per_second = n / seconds
    return f"{per_second:,.0f} {unit}/s" if per_second >= 9.95 else f"{per_second:.1f} {unit}/s"


def errors(n: int) -> str:
    """Return ``no errors``, ``1 error``, ``1,234 errors``."""
    return "no errors" if n == 0 else f"{n:,} error{'' if n == 1 else 's'}"


class _Silent:
    def advance(self, n: int, *, n_errors: int = 0) -> None:
        pass


class SilentReporter:
    """Says nothing (``--quiet``, tests)."""

    @contextmanager
    def stage(self, name: str, total: int, *, unit: str = "pairs") -> Iterator[Progress]:
        """Open a stage that is not shown."""
        yield _Silent()

    def note(self, message: str) -> None:
        """Drop the line."""


@dataclass(slots=True, kw_only=True)
class _PlainStage:
    name: str
    total: int
    unit: str
    clock: Callable[[], float]
    period_s: float
    write: Callable[[str], None]
    started: float = field(init=False)
    reported: float = field(init=False)
    n: int = 0
    n_errors: int = 0

    def __post_init__(self) -> None:
        self.started = self.reported = self.clock()

    def advance(self, n: int, *, n_errors: int = 0) -> None:
        self.n += n
        self.n_errors += n_errors
        now = self.clock()
        if now - self.reported >= self.period_s and self.n < self.total:
            self.reported = now
            self.write(self._under_way(now - self.started))

    def _under_way(self, elapsed: float) -> str:
        left = duration(elapsed * (self.total - self.n) / self.n) if self.n else "?"
        counts = f"{self.n:,} of {self.total:,} {self.unit}"
        return f"{self.name}: {counts}, {rate(self.n, elapsed, self.unit)}, {left} left, {errors(self.n_errors)}"

    def closing_line(self, *, stopped: bool) -> str:
        elapsed = self.clock() - self.started
        verb = f"stopped after {self.n:,} of {self.total:,}" if stopped else f"{self.n:,}"
        speed = rate(self.n, elapsed, self.unit)
        return f"{self.name}: {verb} {self.unit} in {duration(elapsed)} ({speed}), {errors(self.n_errors)}"


class PlainReporter:
    """Prints a line every ten seconds and one at the end of each stage; for logs and pipes."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        period_s: float = PLAIN_PERIOD_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._period_s = period_s
        self._clock = clock

    @contextmanager
    def stage(self, name: str, total: int, *, unit: str = "pairs") -> Iterator[Progress]:
        """Open a stage that is told in lines."""
        stage = _PlainStage(
            name=name, total=total, unit=unit, clock=self._clock, period_s=self._period_s, write=self.note
        )
        stopped = True
        try:
            yield stage
            stopped = False
        finally:
            self.note(stage.closing_line(stopped=stopped))

    def note(self, message: str) -> None:
        """Print one line."""
        say(message, stream=self._stream)


@dataclass(slots=True, kw_only=True)
class _BarStage:
    bars: RichProgress
    task: TaskID
    unit: str
    n: int = 0
    n_errors: int = 0
    started: float = field(default_factory=time.monotonic)

    def advance(self, n: int, *, n_errors: int = 0) -> None:
        self.n += n
        self.n_errors += n_errors
        speed = rate(self.n, time.monotonic() - self.started, self.unit)
        shown_errors = errors(self.n_errors) if self.n_errors else ""
        self.bars.update(self.task, advance=n, speed=speed, shown_errors=shown_errors)


class BarReporter:
    """Draws a bar per stage with count, speed, time left and errors; for people at a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False) if console is None else console

    def _bars(self) -> RichProgress:
        from rich import progress

        columns = (
            progress.TextColumn("{task.description:<9}", markup=False),
            progress.BarColumn(bar_width=28),
            progress.TextColumn("{task.completed:>9,.0f} / {task.total:<9,.0f}", markup=False),
            progress.TextColumn("{task.fields[speed]:>16}", markup=False),
            progress.TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            progress.TextColumn("{task.fields[shown_errors]}", markup=False),
        )
        return progress.Progress(*columns, console=self._console)

    @contextmanager
    def stage(self, name: str, total: int, *, unit: str = "pairs") -> Iterator[Progress]:
        """Open a stage that is drawn."""
        with self._bars() as bars:
            task = bars.add_task(printable(name), total=total, speed=f"- {unit}/s", shown_errors="")
            yield _BarStage(bars=bars, task=task, unit=unit)

    def note(self, message: str) -> None:
        """Print one line above the bar."""
        self._console.print(printable(message), markup=False, highlight=False, soft_wrap=True)


def make_reporter(*, quiet: bool = False, stream: TextIO | None = None) -> Reporter:
    """Choose bars for a terminal, lines for anything else, silence for ``quiet``.

    Args:
        quiet: report nothing.
        stream: where to; stderr by default.
    """
    if quiet:
        return SilentReporter()
    target = sys.stderr if stream is None else stream
    if not target.isatty() or os.environ.get("TERM") in {"dumb", "unknown"}:
        return PlainReporter(stream)
    from rich.console import Console

    return BarReporter(Console(file=target, highlight=False))
