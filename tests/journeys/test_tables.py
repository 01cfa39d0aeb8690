"""A table from fit to prediction: labels, then numbers; Python, command line and scikit-learn faces."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gristmill
from gristmill.cli import main
from gristmill.errors import DataError, UsageError

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def made(flowers: Path, tmp_path_factory: pytest.TempPathFactory) -> gristmill.Result:
    out = tmp_path_factory.mktemp("out") / "iris.grist"
    return gristmill.fit(flowers, target="species", out=out, segments=6, remember=True)


def test_labels(made: gristmill.Result) -> None:
    assert made.score > 0.8
    model = gristmill.load(made.bundle)
    rows = [
        {"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2, "site": "north"},
        {"sepal_length": "6.3", "petal_length": "6.0", "petal_width": "2.5", "site": "a place never seen"},
        {"sepal_length": "very long"},
    ]
    first, second, bad = model.predict(rows)
    assert first.label == "setosa"
    assert abs(sum(first.probabilities.values()) - 1) < 1e-5
    assert second.label == "virginica"
    assert bad.error
    assert "sepal_length" in bad.error


def test_small_tables_are_folded_and_what_is_deployed_learnt_from_all_rows(made: gristmill.Result) -> None:
    folder = made.bundle.with_suffix(".run")
    record = json.loads((folder / "report.json").read_text())
    assert record["folds"] == 5
    assert record["valid"]["n"] == 60, "half of the 120 rows that are not test"
    outcomes = [json.loads(p.read_text())["outcome"] for p in (folder / "segments").glob("*/outcome.json")]
    fitted = [o for o in outcomes if "deployed" in o["artefacts"]]
    assert len(fitted) == len(outcomes) >= 4
    assert all("whole" in o["artefacts"]["checkpoint"]["uri"] for o in fitted)


def test_the_table_as_input_of_predict_and_evaluate(
    made: gristmill.Result, flowers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(made.bundle), str(flowers)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 151
    assert lines[0].startswith("input,prediction,abstain,error,p(setosa)")
    assert main(["evaluate", str(made.bundle), str(flowers), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["evaluation"]["metrics"]["accuracy"]["value"] > 0.85


def test_counted_mode_repeats_itself(made: gristmill.Result, flowers: Path, tmp_path: Path) -> None:
    from gristmill.search.journal import decision_bytes, read

    again = gristmill.fit(flowers, target="species", out=tmp_path / "iris.grist", segments=6)
    assert again.score == made.score
    journals = [decision_bytes(read(r.bundle.with_suffix(".run") / "journal.jsonl")) for r in (made, again)]
    assert journals[0] == journals[1]
    lines = read(made.bundle.with_suffix(".run") / "journal.jsonl")
    own = [line.data for line in lines if line.kind == "searched"]
    assert len(own) == 1 and own[0]["own_s"] > 0.0 and own[0]["seconds"] > 0.0, "what the driver itself used"


def test_the_tour_and_the_source_name_every_file_of_a_run(made: gristmill.Result, repository: Path) -> None:
    from gristmill import run

    present = {p.name for p in made.bundle.with_suffix(".run").iterdir()}
    tour = (repository / "docs" / "tour.md").read_text(encoding="utf-8")
    for page in (str(run.__doc__), tour):
        folder = page.partition(".run/\n")[2]
        named = {line.split()[0].split("/")[0] for line in folder.splitlines() if line.startswith("  ")}
        assert present <= named, present - named


def test_a_pruned_run_prints_its_result_and_refuses_more_time(
    made: gristmill.Result, flowers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(made.bundle.with_suffix(".run"), tmp_path / "iris.run")
    shutil.copy(made.bundle, tmp_path / "iris.grist")
    fit = ["fit", str(flowers), "--target", "species", "--segments", "6", "--quiet"]
    fit += ["--out", str(tmp_path / "iris.grist")]
    assert main(["runs", "prune", str(folder)]) == 0
    assert main(fit) == 0, "what was found stays"
    result = folder / "result.json"
    result.write_text(json.dumps({**json.loads(result.read_text()), "budget": 10.0}))  # now it asks for more
    capsys.readouterr()
    assert main(fit) == 2
    assert "pruned" in (err := capsys.readouterr().err) and "--fresh" in err
    assert (tmp_path / "iris.grist").read_bytes() == made.bundle.read_bytes()
    assert not (folder / "segments").exists()


def test_what_a_run_measured_is_remembered_in_numbers_only(made: gristmill.Result, flowers: Path) -> None:
    from gristmill.experience import local_path
    from gristmill.search.metatable import Table, extended

    table = extended(local_path(), Table())
    assert table.notes == ()
    known = next(d for d in table.sets("table") if d.facts["classes"] == 3)
    assert known.facts["train"] == 120
    mine = [e for e in table.entries if e.data.name == known.name]
    assert {e.config["family"] for e in mine} >= {"constant", "trees"}
    assert max(p[2] for e in mine for p in e.curve) > 0.7
    text = local_path().read_text()
    for name in ("species", "setosa", "sepal", "north", flowers.stem, str(flowers.parent), str(made.bundle)):
        assert name not in text


def test_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    y = 100 + 30 * x[:, 0] - 20 * x[:, 1] + rng.normal(size=400)
    table = tmp_path / "flats.csv"
    table.write_text(
        "size,floor,price\n" + "".join(f"{a:.4f},{b:.4f},{c:.3f}\n" for (a, b), c in zip(x, y, strict=True))
    )
    made = gristmill.fit(table, target="price", out=tmp_path / "flats.grist", segments=5)
    assert made.metric == "rmse"
    assert made.score < 10
    (p,) = gristmill.load(made.bundle).predict([{"size": 1.0, "floor": 0.0}])
    assert abs(float(p.value or 0) - 130) < 15
    assert p.interval is not None
    assert p.interval[0] < float(p.value or 0) < p.interval[1]


def test_scikit_learn_estimators(flowers: Path, tmp_path: Path) -> None:
    import pickle

    from sklearn.base import clone
    from sklearn.datasets import load_iris

    from gristmill.sklearn import Classifier

    X, y = load_iris(return_X_y=True)
    model = clone(Classifier(segments=4, metric="accuracy", max_size=1.0)).fit(X, y)
    assert list(model.classes_) == [0, 1, 2]
    assert model.n_features_in_ == 4
    assert model.score(X, y) > 0.85
    probabilities = model.predict_proba(X[:5])
    assert probabilities.shape == (5, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    assert (pickle.loads(pickle.dumps(model)).predict(X[:5]) == model.predict(X[:5])).all()


def test_fit_works_from_stdin_where_no_main_module_could_be_imported_again(
    flowers: Path, tmp_path: Path
) -> None:
    script = f"""
import gristmill
result = gristmill.fit({str(flowers)!r}, target="species", out={str(tmp_path / "m.grist")!r}, segments=3)
print("score", result.score)
"""
    done = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("score") == 1, "no worker may run the script again"


def test_mistakes_of_the_user_leave_nothing_behind(flowers: Path, tmp_path: Path) -> None:
    table = tmp_path / "iris.csv"
    shutil.copy(flowers, table)
    with pytest.raises((DataError, UsageError), match="species"):
        gristmill.fit(table, target="specis", out=tmp_path / "m.grist", segments=2)
    with pytest.raises(UsageError, match="accuracy"):
        gristmill.fit(table, target="species", metric="acuracy", out=tmp_path / "m.grist", segments=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["iris.csv"]
