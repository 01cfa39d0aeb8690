from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.report.text import (
    amount,
    compact,
    duration,
    listed,
    percent,
    picture,
    plural,
    short,
    time_option,
    visible,
)  # fmt: skip


@given(st.text(alphabet=st.characters(codec=None, exclude_categories=())))
def test_visible_text_can_be_written_and_steers_nothing(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")
    kinds = {unicodedata.category(c) for c in shown.replace("\u200c", "").replace("\u200d", "")}
    assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert len(short(text, 40)) <= 40


def test_ordinary_names_stay_as_they_are() -> None:
    for name in ("Straße 7.jpg", "مرحبا", "日本", "नमस्ते", "می‌خواهم", "👩‍🔬"):
        assert visible(name) == name
    assert visible("a\u202eb") == "a[U+202E]b"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(12345.6, "€", "12,300 €"), (0.01234, None, "0.0123"), (-4.5, "kg", "−4.5 kg"), (0.0, None, "0"),
     (999.96, None, "1,000"), (1e-9, None, "1e−09"), (float("inf"), None, "unknown"), (3.0, "m", "3 m")],
)  # fmt: skip
def test_amounts(value: float, unit: str | None, text: str) -> None:
    assert amount(value, unit) == text


def test_small_forms() -> None:
    assert [percent(v) for v in (0.0, 0.834, 0.994, 1.0, 0.004)] == ["0%", "83%", "99.4%", "100%", "0.4%"]
    assert [compact(v) for v in (250_000.0, 1.25e6, 9000.0, -20_000.0, 0.5)] == [
        "250k",
        "1.25M",
        "9,000",
        "−20k",
        "0.5",
    ]
    assert [duration(v) for v in (0.24, 8.2, 125.0, 600.0, 3720.0)] == [
        "0.2 s",
        "8 s",
        "2 min 05 s",
        "10 min",
        "1 h 02 min",
    ]
    assert [time_option(v) for v in (90.0, 1200.0, 7200.0)] == ["90s", "20m", "2h"]
    assert listed(["a"]) == "a" and listed(["a", "b", "c"]) == "a, b and c" and listed([]) == ""
    assert listed(list("abcdef")) == "a, b and 4 more"
    assert (
        plural(1, "class") == "1 class"
        and plural(1200, "row") == "1,200 rows"
        and plural(2, "class") == "2 classes"
    )


def test_only_plain_pictures_are_pictures() -> None:
    assert picture("data:image/png;base64,AAAA")
    assert picture("data:image/png;base64,AA AA") is None
    assert picture("data:image/png;base64,AAAA\n") is None
