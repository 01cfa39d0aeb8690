"""The page as a reader, a browser and an attacker meet it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from gristmill.report import Candidate, RunReport, render
from gristmill.report.page import MATRIX_CLASSES

VOID = {"meta", "img", "br"}
HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}\u202egnp.exe\x00\x1b[31m\ud800"


class _Reader(HTMLParser):
    """Counts elements and complains about what does not close."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.feed(html)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.seen[tag] += 1
        self.attributes += [(tag, k, v or "") for k, v in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen[tag] += 1
        self.attributes += [(tag, k, v or "") for k, v in attrs]

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, (tag, self.open, self.getpos())

    def handle_data(self, data):
        self.text.append(data)

    def values(self, name: str) -> list[str]:
        return [v for _, k, v in self.attributes if k == name]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


KINDS = ("pictures", "table", "number")


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_is_whole_and_loads_nothing(example, kind: str) -> None:
    html = render(getattr(example, kind)())
    page = _Reader(html)
    assert page.seen["script"] == page.seen["link"] == page.seen["iframe"] == page.seen["form"] == 0
    assert all(a.startswith(("#", "data:image/")) for a in page.values("src") + page.values("href"))
    assert not [k for _, k, _ in page.attributes if k.startswith("on")]
    assert "http:" not in html and "https:" not in html and "url(" not in html
    assert "default-src 'none'" in "".join(page.values("content"))
    assert page.seen["h1"] == 1 and page.seen["main"] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_links_lead_to_sections_and_pictures_have_words(example, kind: str) -> None:
    page = _Reader(render(getattr(example, kind)()))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {v[1:] for v in page.values("href")} <= set(ids)
    assert set(page.values("aria-labelledby")) <= set(ids)
    drawings = [a for a in page.attributes if a[0] == "svg" and a[1] == "aria-label"]
    assert page.seen["svg"] == len(drawings) and all(len(label) > 10 for _, _, label in drawings)
    assert page.seen["img"] == sum(1 for t, k, v in page.attributes if t == "img" and k == "alt" and v)


def test_order_is_done_worth_doubt_next_and_then_details(example) -> None:
    html = render(example.pictures())
    places = [html.index(f'id="{name}"') for name in (
        "done", "worth", "doubt", "next", "data", "classes", "mistakes", "charts", "figures", "candidates",
        "views", "time", "appendix",
    )]  # fmt: skip
    assert places == sorted(places)


def test_a_hostile_name_is_text_everywhere(example) -> None:
    labels = (HOSTILE, "b" * 500, "مرحبا", "", "</td><td>", "x\ty\nz")
    report = example.pictures(labels, name=HOSTILE)
    findings = tuple(replace(f, message=HOSTILE, advice=HOSTILE, names=(HOSTILE,)) for f in report.findings)
    board = tuple(replace(c, title=HOSTILE, reason=HOSTILE, view=HOSTILE) for c in report.leaderboard)
    report = replace(
        report, findings=findings, leaderboard=board, ignored=((HOSTILE, HOSTILE),), notes=(HOSTILE,),
        source=HOSTILE, layout=HOSTILE, command=HOSTILE, doubts=(HOSTILE,), advice=(HOSTILE,),
        options={HOSTILE: HOSTILE, "list": [HOSTILE]}, versions={HOSTILE: HOSTILE}, bundle=f"-{HOSTILE}",
        views=tuple(replace(v, name=HOSTILE, description=HOSTILE) for v in report.views),
        timeline=tuple(replace(s, name=HOSTILE) for s in report.timeline), created=HOSTILE, version=HOSTILE,
    )  # fmt: skip
    html = render(report)
    page = _Reader(html)
    assert page.seen["script"] == 0 and "<script" not in html
    assert "\u202e" not in html and "\x00" not in html and "\x1b" not in html
    assert "{{7*7}}" in html  # a template inside a name is not run
    html.encode("utf-8")
    assert "[U+202E]" in page.words and "[U+D800]" in page.words


@pytest.mark.parametrize(
    "address",
    ["javascript:alert(1)", "data:text/html;base64,AAAA", 'data:image/png;base64,AA"onerror="x', "https://x/a.png",
     "data:image/svg+xml;base64,AAAA"],
)  # fmt: skip
def test_thumbnails_that_are_no_plain_pictures_are_not_shown(example, address: str) -> None:
    report = example.pictures()
    page = _Reader(render(replace(report, thumbnails=dict.fromkeys(report.thumbnails, address))))
    assert page.seen["img"] == 0


def test_many_classes_show_pairs_instead_of_a_matrix(example) -> None:
    many = tuple(f"c{i}" for i in range(MATRIX_CLASSES + 1))
    assert 'class="heat' in render(example.pictures(many[:-1]))
    html = render(example.pictures(many))
    assert 'class="heat' not in html and "Most confused" in html


def test_a_report_without_anything_still_reads(example) -> None:
    bare = RunReport(title="photos", task=example.pictures().task)
    page = _Reader(render(bare))
    assert "There is no model yet" in page.words
    assert "undefined" not in page.words.lower() and "None" not in page.words


def test_a_run_that_was_stopped_shows_valid_figures_as_such(example) -> None:
    full = example.pictures()
    page = _Reader(
        render(replace(full, evaluation={**(full.valid or {})}, valid=None, test_reading=0, state="stopped"))
    )
    assert "helped to choose the model" in page.words
    assert "that tested it also chose it" in page.words
    assert "stopped early" in page.words


def test_the_copy_for_a_bundle_shows_nothing_of_the_users_data(example) -> None:
    full = example.pictures()
    names = {n for c in (full.evaluation or {})["confused"] for n in c["names"]}
    assert any(n in render(full) for n in names)
    html = render(full.without_examples())
    assert "data:image" not in html.replace("img-src data:", "")
    assert not any(n in html for n in names) and "trashnet/" not in html and "notes.txt" not in html
    number = render(example.number().without_examples())
    assert "houses.csv row" not in number and "svg" in number


def test_a_dictionary_renders_like_the_record(example) -> None:
    report = example.table()
    assert render(report.to_json()) == render(report)


def test_regression_speaks_of_rows_and_euros(example) -> None:
    page = _Reader(render(example.number()))
    assert "€" in page.words and "picture" not in page.words and "HOG" not in page.words
    assert "gristmill predict 'my houses.grist' new_rows.csv" in page.words


def _colours(scheme: str) -> dict[str, tuple[float, ...]]:
    css = files("gristmill.report").joinpath("style.css").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", css, re.S)[:2]
    found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", light))
    if scheme == "dark":
        found |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", dark))
    return {k: tuple(int(v[i : i + 2], 16) / 255 for i in (1, 3, 5)) for k, v in found.items()}


def _contrast(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """WCAG 2 contrast ratio."""

    def light(colour: tuple[float, ...]) -> float:
        r, g, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour)
        return 0.2126 * r + 0.7152 * g + 0.0722 * blue

    high, low = sorted((light(a), light(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_that_wcag_asks_for(scheme: str) -> None:
    colour = _colours(scheme)
    pairs = [(ink, paper) for ink in ("ink", "soft", "accent-ink") for paper in ("paper", "card")]
    pairs += [("ink", f"{k}-wash") for k in ("bad", "warn", "note", "accent")]
    pairs += [
        ("bad", "bad-wash"),
        ("warn", "warn-wash"),
        ("accent-ink", "accent-wash"),
        ("soft", "note-wash"),
    ]
    low = {p: round(_contrast(colour[p[0]], colour[p[1]]), 2) for p in pairs}
    assert {p: v for p, v in low.items() if v < 4.5} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["heat", "fault"])
def test_the_darkest_cell_of_the_matrix_is_still_readable(scheme: str, kind: str) -> None:
    css = files("gristmill.report").joinpath("style.css").read_text(encoding="utf-8")
    triple = re.findall(rf"--{kind}: (\d+), (\d+), (\d+);", css)[0 if scheme == "light" else 1]
    colour = _colours(scheme)
    cell = tuple(0.7 * int(v) / 255 + 0.3 * c for v, c in zip(triple, colour["card"], strict=True))
    assert _contrast(colour["ink"], cell) >= 4.5


def test_tradeoffs_are_those_that_nobody_beats_in_everything(example) -> None:
    made = [
        ("best", 0.9, 20.0, 13.0),
        ("quick", 0.8, 2.0, 1.0),
        ("worse", 0.8, 3.0, 1.0),
        ("floor", 0.0, 0.1, 0.1),
    ]
    board = tuple(
        Candidate(id=name, title=f"model {name}", score=score, latency_ms=ms, size_mb=mb)
        for name, score, ms, mb in made
    )
    page = render(replace(example.table(), leaderboard=board))
    shown = page.split("If it must be faster or smaller")[1].split("</section>")[0]
    assert [name for name, *_ in made if f"model {name}" in shown] == ["best", "quick", "floor"]
    assert "20 ms" in shown and "13 MB" in shown
    assert "If it must be" not in render(replace(example.table(), leaderboard=board[:1]))
