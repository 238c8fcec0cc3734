"""The picture of the loss, read back from its SVG."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roclip_audit.train.loss_plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, loss_svg, write_loss_plot

SVG = "{http://www.w3.org/2000/svg}"


def entry(epoch: int, step: int, loss: float, *, matched: bool = False) -> dict[str, Any]:
    return {"epoch": epoch, "n_steps_done": step, "loss": loss, "is_matched": matched}


def shades(svg: str) -> list[tuple[float, float]]:
    """Return left and right of every shade, as shares of the run."""
    found = [rect for rect in ET.fromstring(svg).iter(f"{SVG}rect") if rect.get("class") == "matched"]
    edges = [(float(r.attrib["x"]), float(r.attrib["x"]) + float(r.attrib["width"])) for r in found]
    return [((a - LEFT) / (WIDTH - LEFT - RIGHT), (b - LEFT) / (WIDTH - LEFT - RIGHT)) for a, b in edges]


def lines(svg: str) -> list[tuple[str, list[tuple[float, float]]]]:
    found = ET.fromstring(svg).iter(f"{SVG}polyline")
    return [
        (line.attrib["class"], [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()])  # type: ignore[misc]
        for line in found
    ]


def ticks(svg: str, anchor: str) -> list[str]:
    found = ET.fromstring(svg).iter(f"{SVG}text")
    numbers = [text.text or "" for text in found if text.get("text-anchor") == anchor]
    return [text for text in numbers if text[:1].isdigit()]


@given(st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=8))
def test_shades_exactly_the_matched_epochs(epochs: list[tuple[int, bool]]) -> None:
    entries, step, expected = [], 0, []
    for number, (n_steps, matched) in enumerate(epochs, start=1):
        expected.append((step, step + n_steps, matched))
        step += n_steps
        entries += [entry(number, step - n_steps // 2, 2.0, matched=matched), entry(number, step, 1.0, matched=matched)]
    found = shades(loss_svg(entries))
    wanted = [(a / step, b / step) for a, b, matched in expected if matched]
    assert len(found) == len(wanted)
    for got, want in zip(found, wanted, strict=True):
        assert got == pytest.approx(want, abs=1e-3)
    kinds = [kind for kind, _ in lines(loss_svg(entries))]
    assert kinds == ["pool" if matched else "own" for _, matched in epochs]


def test_a_loss_stands_where_it_belongs() -> None:
    (kind, points), *_ = lines(loss_svg([entry(1, 5, 4.0), entry(1, 10, 2.0)]))
    assert kind == "own"
    (x_half, y_top), (x_end, y_half) = points
    assert (x_half, x_end) == pytest.approx(((LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT), abs=0.1)
    zero = HEIGHT - BOTTOM
    assert (zero - y_top) / (zero - TOP) == pytest.approx(1 / 1.05, abs=1e-3)
    assert (zero - y_half) / (zero - TOP) == pytest.approx(0.5 / 1.05, abs=1e-3)


@pytest.mark.parametrize(
    "entries",
    [
        [entry(1, 1, 3.2)],
        [entry(1, 1, 0.0)],
        [entry(1, 1, float("nan"), matched=True)],
        [entry(1, 1, 2.0), entry(2, 2, float("nan")), entry(2, 3, float("inf"))],
        [entry(1, 1, 1e-7)],
        [entry(1, 1, 1e9), entry(2, 40_000_000, 1.0, matched=True)],
    ],
    ids=["one entry", "zero", "only nan", "some nan", "tiny", "huge"],
)
def test_is_well_formed_whatever_the_run_did(entries: list[dict[str, Any]]) -> None:
    svg = loss_svg(entries)
    ET.fromstring(svg)
    assert "nan" not in svg
    assert "inf" not in svg.replace("info", "")
    assert len(shades(svg)) == sum(one["is_matched"] for one in entries)


def test_ticks_are_few_round_numbers() -> None:
    for n_steps in (1, 3, 12, 99, 1_000, 46_872, 10_000_000, 123_456_789):
        numbers = [int(text.replace(",", "")) for text in ticks(loss_svg([entry(1, n_steps, 5.0)]), "middle")]
        assert numbers[0] == 0
        assert len(numbers) == len(set(numbers)) <= 7
        assert numbers[-1] <= n_steps
        assert n_steps == 1 or len(numbers) >= 2
    assert ticks(loss_svg([entry(1, 9, 5.0)]), "end") == ["0", "1", "2", "3", "4", "5"]
    assert ticks(loss_svg([entry(1, 9, 0.05)]), "end")[:2] == ["0", "0.01"]


def test_nothing_is_written_of_no_metrics(tmp_path: Path) -> None:
    write_loss_plot([], tmp_path / "loss.svg")
    assert not (tmp_path / "loss.svg").exists()
    write_loss_plot([entry(1, 1, 1.0)], tmp_path / "loss.svg")
    assert (tmp_path / "loss.svg").read_text() == loss_svg([entry(1, 1, 1.0)])
