"""Reporters: what a log, a terminal and a quiet run get to see."""

from __future__ import annotations

import io
import os
import pty
import re
from dataclasses import dataclass

import pytest
from rich.console import Console

from roclip_audit.core.progress import (
    BarReporter,
    PlainReporter,
    SilentReporter,
    counted,
    duration,
    errors,
    make_reporter,
    rate,
)


@dataclass
class Clock:
    """A clock that only moves when told."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def plain(period_s: float = 10.0) -> tuple[PlainReporter, io.StringIO, Clock]:
    stream, clock = io.StringIO(), Clock()
    return PlainReporter(stream, period_s=period_s, clock=clock), stream, clock


def test_plain_lines_come_every_period_and_at_the_end() -> None:
    reporter, stream, clock = plain()
    with reporter.stage("encode", 400) as progress:
        for _ in range(4):
            clock.now += 4
            progress.advance(100, n_errors=1)
    assert stream.getvalue().splitlines() == [
        "encode: 300 of 400 pairs, 25 pairs/s, 4.0 s left, 3 errors",
        "encode: 400 pairs in 16 s (25 pairs/s), 4 errors",
    ]


def test_a_detail_stays_until_another_takes_its_place() -> None:
    reporter, stream, clock = plain()
    with reporter.stage("train", 500) as progress:
        for detail in ("loss 2.3", "", "loss 1.9", ""):
            clock.now += 5
            progress.advance(100, detail=detail)
    assert [line.rpartition(", ")[2] for line in stream.getvalue().splitlines()[:2]] == ["loss 2.3", "loss 1.9"]


def test_plain_reports_a_stage_that_was_stopped() -> None:
    reporter, stream, clock = plain()

    def interrupted() -> None:
        with reporter.stage("index", 10, unit="shards") as progress:
            clock.now += 1
            progress.advance(3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert stream.getvalue() == "index: stopped after 3 of 10 shards in 1.0 s (3.0 shards/s), no errors\n"


def test_an_empty_stage_is_told_without_dividing_by_zero() -> None:
    reporter, stream, _ = plain(period_s=0.0)
    with reporter.stage("encode", 0) as progress:
        progress.advance(0)
    assert stream.getvalue() == "encode: 0 pairs in 0.0 s (- pairs/s), no errors\n"


def test_what_was_finished_before_says_nothing_about_the_speed() -> None:
    reporter, stream, clock = plain()
    with reporter.stage("encode", 2000) as progress:
        progress.advance(1000, reused=True)
        clock.now += 10
        progress.advance(100)
        clock.now += 5
        progress.advance(900)
    assert stream.getvalue().splitlines() == [
        "encode: 1,100 of 2,000 pairs, 10 pairs/s, 1 min 30 s left, no errors",
        "encode: 2,000 pairs in 15 s (67 pairs/s), 1,000 finished before, no errors",
    ]


def test_notes_cannot_steer_the_terminal() -> None:
    reporter, stream, _ = plain()
    reporter.note("shard \x1b[2J\nnext")
    assert stream.getvalue() == "shard \\x1b[2J\\nnext\n"


def test_silent_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = SilentReporter()
    with reporter.stage("encode", 3) as progress:
        progress.advance(3, n_errors=1)
    reporter.note("anything")
    assert capsys.readouterr() == ("", "")


def test_bars_show_count_speed_and_errors() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120, color_system=None)
    reporter = BarReporter(console)
    with reporter.stage("encode", 1500) as progress:
        progress.advance(1000, n_errors=2)
        progress.advance(500)
    reporter.note("[red]not markup[/red] \x1b[31m")
    text = stream.getvalue()
    assert re.search(r"encode .*1,500/1,500 .*pairs/s.*2 errors", text)
    assert "[red]not markup[/red] \\x1b[31m" in text


def test_the_reporter_fits_where_it_writes() -> None:
    assert isinstance(make_reporter(quiet=True), SilentReporter)
    assert isinstance(make_reporter(stream=io.StringIO()), PlainReporter)


def test_a_terminal_gets_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    controller, terminal = pty.openpty()
    with os.fdopen(controller, "rb", buffering=0), os.fdopen(terminal, "w") as stream:
        assert isinstance(make_reporter(stream=stream), BarReporter)
        monkeypatch.setenv("TERM", "dumb")
        assert isinstance(make_reporter(stream=stream), PlainReporter)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (3.21, "3.2 s"), (42.4, "42 s"), (59.96, "1 min 00 s"), (65, "1 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations_read_naturally(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_rates_and_counts_read_naturally() -> None:
    assert rate(12345, 10, "pairs") == "1,234 pairs/s"
    assert rate(5, 10, "pairs") == "0.5 pairs/s"
    assert rate(0, 10, "shards") == "- shards/s"
    assert rate(2, 90, "folds") == "45 s each"
    assert (counted(1, "shards"), counted(1200, "pairs")) == ("1 shard", "1,200 pairs")
    assert (errors(0), errors(1), errors(1200)) == ("no errors", "1 error", "1,200 errors")
