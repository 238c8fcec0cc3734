"""docs/notebook.md runs, block by block, and prints tables of the columns that it shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.audit.exportkit import drawn_run

PAGE = Path(__file__).parents[2] / "docs" / "notebook.md"
BLOCK = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", re.DOTALL)


def words(text: str) -> set[str]:
    """Return the column names of a printed frame, or the words of plain output that are no numbers."""
    if "┆" in text:
        header = next(line for line in text.splitlines() if line.startswith("│"))
        return set(re.findall(r"\w+", header))
    return {word for word in re.findall(r"\w+", text) if not word.isdigit()}


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "demo-run").mkdir()
    drawn_run(tmp_path / "demo-run")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert len(blocks) == 6
    for code, shown in blocks:
        exec(compile(code, str(PAGE), "exec"), names)
        assert words(capsys.readouterr().out) == words(shown), code
