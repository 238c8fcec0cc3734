"""The charts say what the numbers say, and draw nothing outside of their frame."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest

from roclip_audit.audit.report.axes import HEIGHT, WIDTH, across
from roclip_audit.audit.report.charts import box_mark, estimate_chart, meter, promise_chart, suspicion_chart
from roclip_audit.audit.report.facts import N_BINS, Cut, Scores

CUTS = (
    Cut(fdr=0.05, n_pairs=38, expected_sound=1.9, lowest_suspicion=0.81),
    Cut(fdr=0.1, n_pairs=51, expected_sound=5.1, lowest_suspicion=0.7),
    Cut(fdr=0.5, n_pairs=0, expected_sound=0.0, lowest_suspicion=None),
)
COUNTS = (500, *(0 for _ in range(N_BINS - 3)), 3, 40)
SCORES = Scores(histogram=COUNTS, curve=((0, 0.0), (25, 1.0), (51, 5.1)), cuts=CUTS, expected_mismatched=60.0)
NOTHING = Scores(histogram=(0,) * N_BINS, curve=((0, 0.0),), cuts=(), expected_mismatched=0.0)


def parse(drawing: str) -> ET.Element:
    return ET.fromstring(drawing)


def test_every_pair_of_the_histogram_is_in_a_bar() -> None:
    bars = parse(suspicion_chart(SCORES)).findall("rect")
    told = [int(re.search(r": ([\d,]+) pair", bar.findtext("title") or "")[1].replace(",", "")) for bar in bars]  # type: ignore[index]
    assert told == [n for n in COUNTS if n]
    heights = [float(bar.attrib["height"]) for bar in bars]
    assert np.argsort(heights).tolist() == np.argsort(told).tolist()


def test_the_flag_lines_stand_where_the_lists_end() -> None:
    drawing = suspicion_chart(SCORES)
    lines = [float(x) for x in re.findall(r'class="flag" d="M([\d.]+)', drawing)]
    assert lines == [across(0, 1)(0.81), across(0, 1)(0.7)]
    assert "FDR 10 %: 51 pairs" in drawing


def test_the_curve_ends_at_the_longest_list() -> None:
    curve = parse(promise_chart(SCORES)).find("polyline")
    assert curve is not None
    places = [tuple(map(float, point.split(","))) for point in curve.attrib["points"].split()]
    assert places == sorted(places, key=lambda place: (place[0], -place[1]))
    assert "remove 51, about 5 of them sound" in promise_chart(SCORES)


def test_labels_never_cover_each_other_and_the_flag_has_one() -> None:
    near = replace(CUTS[0], n_pairs=50, expected_sound=5.0)
    drawing = promise_chart(replace(SCORES, cuts=(near, *CUTS[1:])))
    assert re.findall(r'class="mark [a-z]+"[^>]*>([^<]+)<', drawing) == ["10 %"]
    assert drawing.count("<circle") == 2


@pytest.mark.parametrize(
    "drawing",
    [
        suspicion_chart(SCORES), suspicion_chart(NOTHING), promise_chart(SCORES), promise_chart(NOTHING),
        estimate_chart((0.14, 0.1, 0.18)), estimate_chart((0.0, 0.0, 0.0)), estimate_chart((1.0, 0.9, 1.0)),
    ],
)  # fmt: skip
def test_charts_have_words_and_no_inline_style(drawing: str) -> None:
    root = parse(drawing)
    assert root.attrib["role"] == "img"
    assert len(root.attrib["aria-label"]) > 20
    assert "style=" not in drawing
    assert "nan" not in drawing
    for x in (float(v) for v in re.findall(r' (?:x|cx)="([-\d.]+)"', drawing)):
        assert -1 <= x <= WIDTH
    for y in (float(v) for v in re.findall(r' (?:y|cy)="([-\d.]+)"', drawing)):
        assert -1 <= y <= HEIGHT


def test_a_meter_is_full_at_most() -> None:
    assert 'width="50.0"' in meter(1, 2)
    assert 'class="bar" width="100.0"' in meter(3, 2)
    assert 'class="bar" width="0"' in meter(0, 0)


def test_a_trigger_box_stays_inside_of_its_picture() -> None:
    rect = parse(box_mark((0.9, -1.0, 0.5, 2.0))).find("rect")
    assert rect is not None
    assert [float(rect.attrib[name]) for name in ("x", "y", "width", "height")] == [90, 0, 10, 100]
