"""What a scan says at the end: counts, the largest campaigns, and commands that can be pasted as they are."""

from __future__ import annotations

import json
import os
import pty
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from roclip_audit.audit.findings import Campaign, Findings
from roclip_audit.cli.main import app
from roclip_audit.cli.render import print_json
from roclip_audit.cli.summary import as_json_value, describe, next_commands, print_next
from tests.cli.test_scan import CLEAN


def campaign(number: int, n: int, sentence: str = "So many pairs share a patch") -> Campaign:
    return Campaign(
        campaign=number, kind="trait", label="x", n_pairs=n, n_suspicious=n, p_corrected=0.001, sentence=sentence
    )


FINDINGS = Findings(
    campaigns=(campaign(2, 40), campaign(1, 30, "\x1b[2J" + "y" * 5000), campaign(4, 9), campaign(3, 8)),
    problems=(("image_truncated", 7), ("key_repeated", 3), ("no_pairs", 1), ("json_invalid", 1)),
)


def test_the_three_largest_campaigns_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    facts = describe(CLEAN, FINDINGS, Path("run"))
    at = [name for name, _ in facts].index("campaigns")
    assert facts[at : at + 2] == [("campaigns", "4, the largest 3:"), ("", "2. So many pairs share a patch")]
    assert facts[at + 2][1].startswith("1. \\x1b[2Jyyy")
    assert len(facts[at + 2][1]) < 300
    assert facts[at + 3] == ("", "4. So many pairs share a patch")
    assert facts[at + 4] == ("problems", "12 (image_truncated 7, key_repeated 3, no_pairs 1, ...)")


def test_machines_get_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    print_json(as_json_value(CLEAN, FINDINGS, Path("run")))
    found = json.loads(capsys.readouterr().out)
    assert [one["campaign"] for one in found["campaigns"]] == [2, 1, 4, 3]
    assert found["problems"] == dict(FINDINGS.problems)
    assert (found["n_flagged"], found["contamination"]["estimate"]) == (420, 0.064)


@pytest.mark.parametrize("out", [Path("audit"), Path("my run"), Path("it's $HOME")])
def test_the_commands_survive_a_shell(out: Path) -> None:
    shards = ["shards/", "x {0..9}.tar", "a;b.tar"]
    commands = [shlex.split(line) for line in next_commands(shards, out)]
    assert [command[1] for command in commands] == ["report", "review", "sql", "curate"]
    for command in commands:
        named = command[command.index("--audit") + 1] if "--audit" in command else "audit"
        assert named == str(out)
    assert commands[-1][2:5] == shards
    done = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {next_commands(shards, out)[-1]}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == commands[-1]


def test_the_commands_exist_with_their_options() -> None:
    group = typer.main.get_command(app)
    context = group.make_context("roclip-audit", [], resilient_parsing=True)
    for line in next_commands(["shards/"], Path("run")):
        _, name, *arguments = shlex.split(line)
        command = group.get_command(context, name)  # type: ignore[attr-defined]
        assert command is not None, name
        options = {option for parameter in command.params for option in parameter.opts}
        assert {argument for argument in arguments if argument.startswith("-")} <= options


def test_many_shards_are_not_repeated() -> None:
    assert "curate SHARDS curated" in next_commands([f"shard-{i:05d}.tar" for i in range(100)], Path("run"))[-1]


def test_nothing_steers_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_next(next_commands(["\x1b[2J.tar"], Path("run")))
    assert "\x1b" not in capsys.readouterr().out


PRINT = "from roclip_audit.cli.render import print_facts; print_facts([('name', 'value')], warnings=['name'])"


def on_a_terminal(**environment: str) -> bytes:
    """Run PRINT with a terminal as stdout."""
    leader, follower = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "TERM"}}
    subprocess.run([sys.executable, "-c", PRINT], stdout=follower, env=clean | environment, check=True)
    os.close(follower)
    found = os.read(leader, 1000)
    os.close(leader)
    return found.replace(b"\r\n", b"\n")


def test_colours_are_for_terminals_that_want_them() -> None:
    assert b"\x1b[" in on_a_terminal(TERM="xterm", NO_COLOR="")
    assert on_a_terminal(TERM="xterm", NO_COLOR="1") == b"name  value\n"
    assert on_a_terminal(TERM="dumb") == b"name  value\n"
    piped = subprocess.run([sys.executable, "-c", PRINT], capture_output=True, check=True)
    assert piped.stdout == b"name  value\n"
