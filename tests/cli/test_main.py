"""The frame of the command line: quick help, exit codes, and messages that quote hostile text."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.completion import get_completion_script
from typer.testing import CliRunner

from roclip_audit import __version__
from roclip_audit.audit.ingest import ingest
from roclip_audit.cli.main import app
from tests.audit.runkit import make_run

COMMANDS = ("scan", "sql", "show", "report", "review", "curate", "fetch", "export")
COMMANDS += ("train", "eval", "poison", "bench", "demo", "doctor")
HEAVY = {"torch", "numpy", "duckdb", "polars", "pyarrow", "faiss", "PIL", "open_clip", "timm", "ray", "rich.console"}
HEAVY |= {"jinja2"}
HELP_CPU_S = 0.5


def start(*arguments: str, **how: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "roclip_audit.cli.main", *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | how
    return subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload, no-any-return]


def call(*arguments: str) -> tuple[int, str, str]:
    with start(*arguments) as process:
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err


def cpu_of(command: list[str]) -> float:
    """Return the processor time of a command, best of three."""
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(spent)


def test_help_is_quick() -> None:
    """On an idle machine 0.2 s. Neighbours on the same cores slow both commands alike, so the ratio is what counts."""
    spent = cpu_of([sys.executable, "-m", "roclip_audit.cli.main", "scan", "--help"])
    assert spent < HELP_CPU_S or spent < 6 * cpu_of([sys.executable, "-c", "import typer.main"])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: roclip-audit {command} ")
    assert "Examples:" in result.stdout


def test_every_option_is_explained() -> None:
    group = typer.main.get_command(app)
    context = group.make_context("roclip-audit", [], resilient_parsing=True)
    commands = {name: group.get_command(context, name) for name in group.list_commands(context)}  # type: ignore[attr-defined]
    assert tuple(commands) == COMMANDS
    unexplained = [f"{name} {p.name}" for name, command in commands.items() for p in command.params if not p.help]
    assert unexplained == []


def test_the_command_line_imports_nothing_heavy() -> None:
    code = "import sys, roclip_audit.cli.main; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not HEAVY & set(found)


def test_version() -> None:
    assert call("--version") == (0, f"roclip-audit {__version__}\n", "")


def test_no_arguments_print_the_help() -> None:
    code, out, err = call()
    assert code == 2
    assert "Commands:" in out + err


@pytest.mark.parametrize(
    "arguments",
    [["no-such-command"], ["scan"], ["scan", "x", "--contest", "duel"], ["scan", "x", "--fail-on", "2"]],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert "Traceback" not in err


def test_a_missing_run_ends_with_4_and_one_line(tmp_path: Path) -> None:
    code, out, err = call("sql", "select 1", "--audit", str(tmp_path / "none"))
    assert (code, out) == (4, "")
    assert err.startswith("roclip-audit: error: ")
    assert err.count("\n") == 1
    assert "roclip-audit scan" in err


def test_messages_show_hostile_names_instead_of_obeying_them(tmp_path: Path) -> None:
    code, _, err = call("sql", "select 1", "--audit", str(tmp_path / "\x1b[2J\nroclip-audit: all is well"))
    assert code == 4
    assert "\x1b" not in err
    assert err.count("\n") == 1


def test_an_interrupt_ends_with_130_and_says_how_to_go_on() -> None:
    with start("sql", "-") as process:
        wait_until_reading(process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "roclip-audit: interrupted; the same command resumes (train: with --resume)\n"


def wait_until_reading(process: subprocess.Popen[str]) -> None:
    """Return when the process waits in read(0, ...), which the kernel tells."""
    syscall = Path(f"/proc/{process.pid}/syscall")
    while process.poll() is None:
        number, *rest = syscall.read_text().split()
        if number != "running" and rest and rest[0] == "0x0":
            return


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    run = make_run(tmp_path / "audit")
    ingest(run)
    query = "select pairs.* from pairs, range(5000)"
    with start("sql", query, "--audit", str(run.root), "--format", "csv") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("uid")
        process.stdout.close()
        process.stdout = None
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


def test_an_error_of_ours_shows_where_and_ends_with_2() -> None:
    code = """
from roclip_audit.cli import main
@main.app.command()
def broken() -> None:
    raise ValueError("caption \\x1b[2J")
main.main(["broken"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "ValueError: caption \\x1b[2J" in done.stderr
    assert "please report it" in done.stderr


def test_the_terminal_width_does_not_break_the_help() -> None:
    environment = os.environ | {"COLUMNS": "40"}
    with start("scan", "--help", env=environment) as process:
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "--fail-on" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("roclip-audit s", {"scan", "sql", "show"}),
        ("roclip-audit report --", {"--audit", "--out", "--thumbnails", "--json", "--help"}),
        ("roclip-audit scan --contest ", {"closed", "sampled"}),
    ],
)
def test_a_shell_completes_commands_options_and_choices(words: str, expected: set[str]) -> None:
    """As the script of `--show-completion bash` asks, which the test below looks at."""
    asked = {"_ROCLIP_AUDIT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    with start(env=os.environ | asked) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert expected <= set(out.split())


def test_the_completion_script_names_the_program() -> None:
    """What --show-completion prints; the option itself asks which shell it runs in, and a test runs in none."""
    script = get_completion_script(prog_name="roclip-audit", complete_var="_ROCLIP_AUDIT_COMPLETE", shell="bash")
    assert "_ROCLIP_AUDIT_COMPLETE=complete_bash" in script
    assert script.rstrip().endswith("-F _roclip_audit_completion roclip-audit")
