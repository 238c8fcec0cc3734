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

    def advance(self, n: int, *, n_errors: int = 0, reused: bool = False, detail: str = "") -> None:
        """Count ``n`` more finished units, ``n_errors`` of them with a problem.

        Args:
            n: units, at least 0.
            n_errors: of them, those with a problem.
            reused: they were finished before; they say nothing about the speed.
            detail: how it goes, in words, such as ``loss 2.31``; takes the place of the one before, unless it is empty.
        """


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
    """Return ``1,234 pairs/s``, ``0.7 pairs/s``, ``45 s each``; a dash before there is anything to say."""
    if n <= 0 or seconds <= 0:
        return f"- {unit}/s"
    per_second = n / seconds
    if per_second < 0.2:
        return f"{duration(1 / per_second)} each"
    return f"{per_second:,.0f} {unit}/s" if per_second >= 9.95 else f"{per_second:.1f} {unit}/s"


def counted(n: int, unit: str) -> str:
    """Return ``1 shard``, ``6,881 pairs``; ``unit`` is in the plural."""
    return f"{n:,} {unit.removesuffix('s') if n == 1 else unit}"


def errors(n: int) -> str:
    """Return ``no errors``, ``1 error``, ``1,234 errors``."""
    return counted(n, "errors") if n else "no errors"


class _Silent:
    def advance(self, n: int, *, n_errors: int = 0, reused: bool = False, detail: str = "") -> None:
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
class _Tally:
    """What has been counted in a stage, in words."""

    total: int
    unit: str
    clock: Callable[[], float]
    started: float = field(init=False)
    n: int = 0
    n_reused: int = 0
    n_errors: int = 0

    def __post_init__(self) -> None:
        self.started = self.clock()

    def add(self, n: int, n_errors: int, *, reused: bool) -> None:
        self.n += n
        self.n_errors += n_errors
        self.n_reused += n if reused else 0

    def elapsed(self) -> float:
        return self.clock() - self.started

    def speed(self) -> str:
        return rate(self.n - self.n_reused, self.elapsed(), self.unit)

    def left(self) -> str:
        n_worked = self.n - self.n_reused
        return duration(self.elapsed() * (self.total - self.n) / n_worked) if n_worked > 0 else "?"


@dataclass(slots=True, kw_only=True)
class _PlainStage:
    name: str
    tally: _Tally
    period_s: float
    write: Callable[[str], None]
    reported: float = 0.0
    detail: str = ""

    def advance(self, n: int, *, n_errors: int = 0, reused: bool = False, detail: str = "") -> None:
        tally = self.tally
        tally.add(n, n_errors, reused=reused)
        self.detail = detail or self.detail
        elapsed = tally.elapsed()
        if elapsed - self.reported >= self.period_s and tally.n < tally.total:
            self.reported = elapsed
            counts = f"{tally.n:,} of {counted(tally.total, tally.unit)}"
            parts = (tally.speed(), f"{tally.left()} left", errors(tally.n_errors), self.detail)
            state = ", ".join(filter(None, parts))
            self.write(f"{self.name}: {counts}, {state}")

    def close(self, *, stopped: bool) -> None:
        tally = self.tally
        total = counted(tally.total, tally.unit)
        done = f"stopped after {tally.n:,} of {total}" if stopped else counted(tally.n, tally.unit)
        reused = f", {tally.n_reused:,} finished before" if tally.n_reused else ""
        took = f"{duration(tally.elapsed())} ({tally.speed()})"
        self.write(f"{self.name}: {done} in {took}{reused}, {errors(tally.n_errors)}")


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
        tally = _Tally(total=total, unit=unit, clock=self._clock)
        stage = _PlainStage(name=name, tally=tally, period_s=self._period_s, write=self.note)
        stopped = True
        try:
            yield stage
            stopped = False
        finally:
            stage.close(stopped=stopped)

    def note(self, message: str) -> None:
        """Print one line."""
        say(message, stream=self._stream)


@dataclass(frozen=True, slots=True, kw_only=True)
class _BarStage:
    bars: RichProgress
    task: TaskID
    tally: _Tally

    def advance(self, n: int, *, n_errors: int = 0, reused: bool = False, detail: str = "") -> None:
        tally = self.tally
        tally.add(n, n_errors, reused=reused)
        left = f"{tally.left()} left" if tally.n < tally.total else f"in {duration(tally.elapsed())}"
        shown_errors = errors(tally.n_errors) if tally.n_errors else ""
        self.bars.update(self.task, advance=n, speed=tally.speed(), left=left, shown_errors=shown_errors)
        if detail:
            self.bars.update(self.task, detail=printable(detail))


class BarReporter:
    """Draws a bar per stage with count, speed, time left and errors; for people at a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False, emoji=False) if console is None else console

    def _bars(self) -> RichProgress:
        from rich import progress

        columns = (
            progress.TextColumn("{task.description:<20}", markup=False),
            progress.BarColumn(bar_width=None),
            progress.TextColumn("{task.completed:>7,.0f}/{task.total:<7,.0f}", markup=False),
            progress.TextColumn("{task.fields[speed]:>14}", markup=False),
            progress.TextColumn("{task.fields[left]:>13}", markup=False),
            progress.TextColumn("{task.fields[shown_errors]}", markup=False),
            progress.TextColumn("{task.fields[detail]}", markup=False),
        )
        return progress.Progress(*columns, console=self._console, expand=True)

    @contextmanager
    def stage(self, name: str, total: int, *, unit: str = "pairs") -> Iterator[Progress]:
        """Open a stage that is drawn."""
        with self._bars() as bars:
            tally = _Tally(total=total, unit=unit, clock=time.monotonic)
            task = bars.add_task(printable(name), total=total, speed=tally.speed(), left="", shown_errors="", detail="")
            yield _BarStage(bars=bars, task=task, tally=tally)

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

    return BarReporter(Console(file=target, highlight=False, emoji=False))
