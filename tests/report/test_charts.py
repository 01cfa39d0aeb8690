from __future__ import annotations

import re

import pytest

from gristmill.report import charts
from gristmill.report.words import Bar


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (-3.2, 7.9), (1e6, 1.3e6), (5.0, 5.0), (-1e-5, 2e-5), (0.0, 199.0)]
)
def test_ticks_are_few_round_and_span_the_range(low: float, high: float) -> None:
    ticks = charts._ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-12


def test_dots_are_a_hundred() -> None:
    svg = charts.dots(0.83, 0.81, 0.85)
    assert svg.count("<circle") == 100
    assert [svg.count(f'class="{k}"') for k in ("sure", "maybe", "wrong")] == [81, 4, 15]


def test_bars_stay_inside_their_track_whatever_the_value() -> None:
    bars = [Bar(name="This model", role="model", value=-0.4, low=-0.9, high=0.1, shown="−40%")]
    for _, svg in charts.comparison(bars, "r2"):
        assert all(0 <= float(v) <= 100 for v in re.findall(r'="(-?[\d.]+)%"', svg))


def test_errors_share_one_scale() -> None:
    bars = [
        Bar(name="a", role="model", value=2.0, shown="2"),
        Bar(name="b", role="floor", value=8.0, shown="8"),
    ]
    widths = [float(re.findall(r'width="([\d.]+)%" height="12" rx="6" class="fill', svg)[0])
              for _, svg in charts.comparison(bars, "rmse")]  # fmt: skip
    assert widths == [25.0, 100.0]


def test_odd_data_draw_without_complaint() -> None:
    assert "svg" in charts.scatter([(1.0, 1.0)], None)
    assert "svg" in charts.histogram([0.0, 1.0], [3], "kg")
    assert "svg" in charts.timeline([("a", 0.0)])
    assert "svg" in charts.abstention(
        [{"coverage": 1.0, "accuracy": 0.0}, {"coverage": 0.5, "accuracy": 1.0}], None
    )
    assert "svg" in charts.calibration([{"n": 1, "confidence": 0.5, "accuracy": 1.0}])
