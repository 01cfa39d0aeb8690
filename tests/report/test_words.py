from __future__ import annotations

from dataclasses import replace

import pytest

from gristmill.report import Prospect, Rival, RunReport, headline
from gristmill.report.doubts import doubts
from gristmill.report.steps import improving, using
from gristmill.report.words import done, natural, subline


def made(
    example,
    metric: str = "accuracy",
    *,
    value: float = 0.83,
    low: float = 0.81,
    high: float = 0.85,
    **changes,
) -> RunReport:
    """A report with little more than a score."""
    base = example.pictures(metric=metric)
    evaluation = {**(base.evaluation or {}), "n": 900}
    evaluation["metrics"] = {**evaluation["metrics"], metric: {"value": value, "low": low, "high": high}}
    evaluation["calibration"] = None
    return replace(
        base, **{"evaluation": evaluation, "traditional": None, "valid": None, "findings": (), **changes}
    )


def titles(report: RunReport) -> list[str]:
    return [d.title for d in doubts(report)]


def test_the_headline_is_the_sentence_a_person_can_repeat(example) -> None:
    assert headline(made(example)) == (
        "Out of 100 new pictures like yours, about 83 would be labelled right (between 81 and 85)."
    )


def test_headlines_of_other_metrics_say_what_is_counted(example) -> None:
    assert headline(made(example, "balanced_accuracy")).startswith(
        "Out of 100 new pictures like yours, as many of each class,"
    )
    assert "pairs" in headline(made(example, "roc_auc"))
    assert "labelled right" in headline(made(example, "log_loss", value=0.5, low=0.4, high=0.6))
    loans = example.table()
    by_accuracy = replace(loans, evaluation={**loans.evaluation, "metric": "accuracy"})
    assert "the right “defaulted”" in headline(by_accuracy)
    assert headline(example.number()).startswith(
        "For a new row like yours, the predicted “price” would be off by about"
    )


@pytest.mark.parametrize(
    ("share", "told"),
    [((0.83, 0.81, 0.85), (100, 83, 81, 85)), ((0.994, 0.99, 0.997), (1000, 994, 990, 997)),
     ((0.997, 0.97, 0.999), (1000, 997, 970, 999)), ((1.0, 0.91, 1.0), (100, 100, 91, 100))],
)  # fmt: skip
def test_shares_become_counts_that_hide_no_mistakes(share, told) -> None:
    assert natural(*share) == told


def test_a_perfect_test_promises_only_what_the_interval_holds(example) -> None:
    assert "at least 91 would be labelled right: all 900 tested were." in headline(
        made(example, value=1.0, low=0.91, high=1.0)
    )


def test_no_better_than_guessing_comes_first(example) -> None:
    poor = made(example, value=0.2, low=0.17, high=0.23)
    assert headline(poor).startswith("This model is no better than always answering “cardboard”.")
    assert doubts(poor)[0].title == "It does not beat guessing" and doubts(poor)[0].level == "bad"
    close = made(example, value=0.26, low=0.2, high=0.33)
    assert "It may be no better than guessing" in titles(close)


def test_a_clean_run_has_no_doubt(example) -> None:
    assert titles(made(example, class_counts=dict.fromkeys(example.WASTE, 400))) == []


@pytest.mark.parametrize(
    ("gap", "title"),
    [((0.03, 0.01, 0.05), None), ((0.01, -0.01, 0.03), "Not clearly better than a traditional model"),
     ((-0.04, -0.06, -0.02), "The traditional model is better")],
)  # fmt: skip
def test_the_traditional_model_is_compared_honestly(example, gap, title) -> None:
    rival = Rival(
        title="boosted trees", metrics={}, difference=dict(zip(("value", "low", "high"), gap, strict=True))
    )
    report = made(example, traditional=rival)
    assert (title in titles(report)) if title else not any("traditional" in t for t in titles(report))
    assert any("traditional" in line for line in subline(report))


def test_second_readings_and_valid_figures_are_doubted(example) -> None:
    assert "The test pictures were read 3 times" in titles(made(example, test_reading=3))
    valid = made(example)
    told = doubts(replace(valid, evaluation={**valid.evaluation, "part": "valid"}, selection_bias=0.012))
    assert told[0].title == "The pictures that tested it also chose it" and "1.2 points" in told[0].text


def test_shrinking_from_valid_to_test_is_told_only_beyond_chance(example) -> None:
    report = made(example)
    near = {**report.evaluation, "metrics": {"accuracy": {"value": 0.85, "low": 0.82, "high": 0.88}}}
    far = {**report.evaluation, "metrics": {"accuracy": {"value": 0.95, "low": 0.94, "high": 0.96}}}
    assert "It shrank on the test" not in titles(replace(report, valid=near))
    assert "It shrank on the test" in titles(replace(report, valid=far))


def test_rare_and_weak_classes_are_named_with_what_to_do(example) -> None:
    counts = {**dict.fromkeys(example.WASTE, 300), "trash": 12}
    report = made(example, class_counts=counts)
    per_class = [{**c, "recall": 0.3} if c["label"] == "glass" else c for c in report.evaluation["per_class"]]
    report = replace(report, evaluation={**report.evaluation, "per_class": per_class})
    told = {d.title: d.text for d in doubts(report)}
    assert "“trash”" in told["Few pictures in 1 class"]
    assert "“glass” (30%)" in told["Some classes are mostly missed"]
    step = next(s for s in improving(report) if s.title.startswith("Add pictures"))
    assert "“glass”" in step.title and "“trash”" in step.title and "12 pictures" in step.text


def test_grave_findings_and_small_tests_are_doubts(example) -> None:
    base = example.table()
    assert "Only 90 rows to test on" in titles(base)
    assert "The data have 1 problem" in titles(base)
    assert "Guessing is right more often" in titles(base)


def test_commands_can_be_copied(example) -> None:
    report = example.pictures(bundle="my photos.grist")
    assert using(report)[0].command == "gristmill predict 'my photos.grist' new_pictures/"
    assert using(replace(report, bundle="-rf.grist"))[1].command == "gristmill serve ./-rf.grist"
    assert using(replace(report, evaluation=None)) == []
    full = replace(report, place="/my runs", program="'/my clone/gristmill'")
    assert using(full)[1].command == "'/my clone/gristmill' serve '/my runs/my photos.grist'"
    assert using(full.without_examples())[1].command == "gristmill serve 'my photos.grist'", "it travels"
    assert any("--time 20m" in s.text for s in improving(report))


def test_done_tells_the_four_steps(example) -> None:
    lines = done(example.pictures())
    assert len(lines) == 4
    assert lines[0] == "Read 2,500 pictures from “trashnet/”: a folder with one folder of pictures per class."
    assert "1,500 to learn from" in lines[1] and "kept aside for the final test" in lines[1]
    assert lines[2].startswith(
        "Tried 6 candidate models in 9 min 23 s of the 10 min allowed; 1 of them did not"
    )
    assert "(60%)" in lines[3]


def test_folds_are_told_in_plain_words(example) -> None:
    parts = {"train": 900, "valid": 450, "calib": 450, "test": 300}
    told = done(made(example, parts=parts, folds=5))[1]
    assert "from all 900 pictures" in told
    assert "by a model that had not seen it (5 folds)" in told
    assert "450" not in told, "halves of the same pictures are not to be added up"
    early = made(example, folds=5)
    on_valid = replace(early, evaluation={**(early.evaluation or {}), "part": "valid"})
    assert "each answered by a model that had not seen it" in " ".join(subline(on_valid))


def test_regression_doubts_speak_of_the_unit(example) -> None:
    report = example.number()
    told = {d.title: d.text for d in doubts(report)}
    assert "€" in told["Some values are much harder"]
    residuals = {**report.evaluation["residuals"], "bias": 15_000.0}
    leaning = replace(report, evaluation={**report.evaluation, "residuals": residuals})
    assert "too high by 15,000 €" in {d.title: d.text for d in doubts(leaning)}["It leans high"]


def test_more_time_is_told_with_what_it_is_expected_to_reach(example) -> None:
    report = replace(
        example.pictures(),
        prospects=(
            Prospect(seconds=1200, value=0.91, low=0.90, high=0.93),
            Prospect(seconds=3000, value=0.92, low=0.90, high=0.95),
        ),
    )
    (step,) = [s for s in improving(report) if "--time 20m" in s.text]
    assert "its accuracy would become about 91% (90% to 93%) after 20 min in all and about 92%" in step.text
    assert RunReport.from_json(report.to_json()) == report
