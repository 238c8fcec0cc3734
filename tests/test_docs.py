"""The pages say what is there: commands, links, tests, examples."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer

from roclip_audit.cli.main import app
from roclip_audit.cli.reference import reference

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
COMMAND = re.compile(r"^(?:\.venv/bin/)?(roclip-audit [^#\n]*)", re.MULTILINE)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_pages_of_the_project_are_there() -> None:
    wanted = {"architecture", "attacks", "benchmark", "cli", "method", "schema", "threat-model"}
    assert wanted <= {path.stem for path in (ROOT / "docs").glob("*.md")}


def test_the_reference_is_what_help_prints() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == reference(), "run `make docs`"


def test_every_command_is_in_the_reference() -> None:
    group = typer.main.get_command(app)
    context = group.make_context("roclip-audit", [], resilient_parsing=True)
    page = (ROOT / "docs" / "cli.md").read_text()
    for command in group.list_commands(context):  # type: ignore[attr-defined]
        assert f"\n## roclip-audit {command}\n" in page


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith(("https://", "http://")):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_commands_in_the_pages_have_their_options(page: Path) -> None:
    """Parse every `roclip-audit ...` line of a code block far enough to know that its options exist."""
    group = typer.main.get_command(app)
    context = group.make_context("roclip-audit", [], resilient_parsing=True)
    for block in re.findall(r"```(?:sh)?\n(.*?)```", page.read_text(), re.DOTALL):
        for line in COMMAND.findall(block.replace("\\\n", " ")):
            _, command_name, *arguments = shlex.split(line)
            if command_name.startswith("-"):
                continue
            command = group.get_command(context, command_name)  # type: ignore[attr-defined]
            assert command is not None, line
            command.make_context(command_name, arguments, parent=context, resilient_parsing=True)
            options = {option for parameter in command.params for option in parameter.opts}
            used = {argument.split("=")[0] for argument in arguments if re.match(r"-{1,2}[a-z]", argument)}
            assert used <= options, line


def test_the_tests_that_the_threat_model_names_exist() -> None:
    page = (ROOT / "docs" / "threat-model.md").read_text()
    path = ""
    named = re.findall(r"`(tests/[\w/.]+)?::(test_\w+)`", page)
    assert len(named) > 10
    for where, test in named:
        path = where or path
        functions = [n for n in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(n, ast.FunctionDef)]
        assert test in {function.name for function in functions}, f"{path}::{test}"


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "Makefile", ROOT / "constraints.txt", ROOT / "pyproject.toml"], ids=name
)
def test_no_page_names_a_place_on_somebodys_machine(page: Path) -> None:
    assert not re.search(r"/(?:home|root|Users|work|opt)/", page.read_text())
