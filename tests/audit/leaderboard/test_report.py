"""The page and the figure hold the numbers, and text of strangers stays text."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from roclip_audit.audit.leaderboard.figure import svg
from roclip_audit.audit.leaderboard.measure import Cell, MeasureConfig, measure_run
from roclip_audit.audit.leaderboard.report import QUOTED, write_leaderboard
from roclip_audit.audit.leaderboard.rows import Row, read_rows
from tests.audit.leaderboard.leaderkit import add_peers, make_poisoned, row

PEERS = ["seer", "mute"]
HOSTILE = "a|b<script>alert(1)</script>\x1b[2J"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    run, truth = make_poisoned(tmp_path_factory.mktemp("made"), campaigns=True)
    add_peers(run)
    cell = Cell(data="made up", encoder="embedded", rate=0.1, seed=3)
    return measure_run(run, truth, cell, MeasureConfig(n_replicates=20), scan_seconds=4.0)


def lines_of(page: str, start: str) -> list[list[str]]:
    found = [line for line in page.splitlines() if line.startswith(f"| {start}")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in found]


def test_writes_page_numbers_and_figure(tmp_path: Path, rows: list[Row]) -> None:
    written = write_leaderboard(tmp_path, rows, peers=PEERS, notes=["processor: x"])
    assert read_rows([written.numbers]) == rows
    page = written.table.read_text()
    assert "(leaderboard.svg)" in page
    assert ElementTree.parse(written.figure).getroot().tag.endswith("svg")
    assert "- processor: x" in page
    assert QUOTED in page
    titles = ("AUROC", "Average precision", "FPR at 95", "FPR at 100", "Recall when 1 %", "What the scan", "Campaigns")
    assert all(f"### {title}" in page for title in titles)


def test_tables_have_one_shape(tmp_path: Path, rows: list[Row]) -> None:
    page = write_leaderboard(tmp_path, rows, peers=PEERS).table.read_text()
    for block in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block


def test_the_best_is_bold_and_peers_are_called_so(tmp_path: Path, rows: list[Row]) -> None:
    page = write_leaderboard(tmp_path, rows, peers=PEERS).table.read_text()
    seer = lines_of(page, "seer (peer)")
    assert seer[0][1].startswith("**1.000**")
    verdict = next(cells for cells in lines_of(page, "badnets_fixed") if "seer" in cells[3])
    risk = next(r.value for r in rows if (r.detector, r.attack, r.metric) == ("risk", "badnets_fixed", "auroc"))
    assert verdict[1].startswith(f"{risk:.3f}")
    assert verdict[4] == f"{risk - 1:+.3f}"


def test_low_is_best_for_false_positives_and_ties_of_all_are_not_bold(tmp_path: Path) -> None:
    rows = [
        *(row(detector=d, metric="fpr_at_95_tpr", value=v) for d, v in (("risk", 0.2), ("seer", 0.4))),
        *(row(detector=d, metric="recall_at_1_removed", value=0.0) for d in ("risk", "seer")),
        row(detector="scan", attack="all", metric="contamination_true", value=0.1),
    ]
    page = write_leaderboard(tmp_path, rows, peers=PEERS).table.read_text()
    assert "**0.200**" in page
    assert "**0.400**" not in page
    assert "**0.000**" not in page


def test_a_scan_without_lists_and_estimate_gets_dashes(tmp_path: Path) -> None:
    rows = [row(), row(detector="scan", attack="all", metric="contamination_true", value=0.1)]
    page = write_leaderboard(tmp_path, rows, peers=[]).table.read_text()
    assert "| fdr <= 0.1 | - | - | - |" in page
    assert "not measured (resumed)" in page
    assert "### Campaigns" not in page


def test_names_of_strangers_stay_text(tmp_path: Path) -> None:
    rows = [row(data=HOSTILE), row(data=HOSTILE, detector="scan", attack="all", metric="contamination_true")]
    written = write_leaderboard(tmp_path, rows, peers=[])
    for text in (written.table.read_text(), written.figure.read_text()):
        assert "<script" not in text
        assert "\x1b" not in text
    ElementTree.fromstring(written.figure.read_text())


def test_the_figure_has_a_dot_where_the_number_is(rows: list[Row]) -> None:
    root = ElementTree.fromstring(svg(rows, peers=PEERS))
    circles = [one for one in root.iter("{http://www.w3.org/2000/svg}circle") if float(one.attrib["cy"]) > 60]
    by_attack = {r.attack: r.value for r in rows if (r.detector, r.metric) == ("risk", "auroc")}
    found = sorted(float(one.attrib["cx"]) for one in circles if one.attrib["fill"] == "#0b5fa5")
    assert found == pytest.approx(sorted(150 + 520 * value for value in by_attack.values()), abs=0.06)
    texts = [one.text for one in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "best peer 1.00 seer" in texts
    assert svg(rows, peers=PEERS) == svg(rows, peers=PEERS)


def test_nothing_to_show_is_an_empty_figure() -> None:
    assert ElementTree.fromstring(svg([], peers=[])).tag.endswith("svg")
