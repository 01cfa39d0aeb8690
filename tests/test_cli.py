from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.deployment.conftest import made as made
from tests.deployment.conftest import table_member, table_task

from gristmill.cli import main
from gristmill.deployment import bundle, load


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    out, err = capfd.readouterr()
    return code, out, err


def test_help_names_every_command(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capfd, "--help")
    assert code == 0
    for command in ("fit", "quickstart", "audit", "plan", "predict", "evaluate", "serve", "report", "verify"):
        assert command in out


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    import gristmill

    assert run(capfd, "--version")[:2] == (0, f"gristmill {gristmill.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["fit"], 2, "Missing argument"),
        (["fot", "x"], 2, "Did you mean"),
        (["fit", "x", "--sedd", "1"], 2, "--seed"),
        (["fit", "nowhere", "--time", "1m"], 3, "nowhere"),
        (["fit", "nowhere", "--time", "soon"], 2, "--time 10m"),
        (["fit", "nowhere", "--time", "1s"], 2, "at least"),
        (["audit", "nowhere"], 3, "nowhere"),
        (["audit", "nowhere", "--fail-on", "panic"], 2, "--fail-on warning"),
        (["plan", "nowhere", "--max-latency", "-1"], 2, "--max-latency 20"),
        (["plan", "nowhere", "--max-size", "0.0001"], 2, "--max-size 2"),
        (["verify", "nowhere.grist"], 3, "nowhere.grist"),
        (["predict", "nowhere.grist", "a.jpg"], 3, "nowhere.grist"),
        (["inspect", "nowhere.grist"], 3, "nowhere.grist"),
        (["report", "nowhere"], 2, "nowhere"),
        (["runs", "show", "nowhere.run"], 2, "run.json"),
    ],
)
def test_mistakes_get_a_sentence_a_code_and_no_traceback(
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    found, out, err = run(capfd, *arguments)
    assert (found, words in err) == (code, True), err
    assert "Traceback" not in out + err
    assert list(tmp_path.iterdir()) == [], "nothing may be left behind"


def test_a_fault_of_ours_is_told_as_one(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gristmill import run as runs

    monkeypatch.delenv("GRISTMILL_DEBUG", raising=False)
    monkeypatch.setattr(runs, "list_runs", lambda folder: 1 / 0)
    code, _, err = run(capfd, "runs")
    assert code == 1
    assert "a fault in Gristmill" in err
    assert "GRISTMILL_DEBUG" in err


def test_runs_in_an_empty_folder_say_how_to_begin(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(capfd, "runs")[:2] == (0, "no runs here; start one with: gristmill fit PATH\n")
    assert json.loads(run(capfd, "runs", "--json")[1]) == []


def test_help_and_version_import_nothing_heavy() -> None:
    script = (
        "import sys; from gristmill.cli import main; main(['--help']); "
        "print(sorted({'torch','numpy','pydantic','rich','sklearn','onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_cells_of_a_csv_are_no_formulas() -> None:
    from gristmill.cli import _safe

    assert [_safe(v) for v in ("=1+1", "+x", "-x", "@x", "\tx", "-1.5", "cat")] == [
        "'=1+1", "'+x", "'-x", "'@x", "'\tx", "-1.5", "cat",
    ]  # fmt: skip


def test_a_number_is_predicted_with_its_range(
    made: Mapping[str, Path], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "new.csv").write_text("age,height,city\n40,1.7,Rome\nold,1.8,Oslo\n")
    code, out, _ = run(capfd, "predict", str(made["weights"]), str(tmp_path / "new.csv"))
    good, bad = csv.DictReader(out.splitlines())
    assert code == 0 and list(good) == ["input", "prediction", "low", "high", "abstain", "error"]
    (p, _) = load(made["weights"]).predict(tmp_path / "new.csv")
    assert p.interval == pytest.approx((float(good["low"]), float(good["high"])))
    assert float(good["high"]) - float(good["prediction"]) == pytest.approx(5.0, rel=1e-5)
    assert (bad["prediction"], bad["low"], bad["high"]) == ("", "", "") and "age" in bad["error"]


def test_a_number_without_a_promised_range_has_no_columns_for_it(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    members = [(table_member(tmp_path / "m", 1), 1.0)]
    bundle.write(tmp_path / "plain.grist", task=table_task("regression"), members=members)
    (tmp_path / "new.csv").write_text("age,height,city\n40,1.7,Rome\n")
    _, out, _ = run(capfd, "predict", str(tmp_path / "plain.grist"), str(tmp_path / "new.csv"))
    assert out.startswith("input,prediction,abstain,error\n")
