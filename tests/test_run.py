from __future__ import annotations

import json
from pathlib import Path

import pytest

from gristmill.errors import RunError, UsageError
from gristmill.run import (
    check_unpruned,
    claim,
    clear,
    identity_of,
    list_runs,
    locate,
    output_path,
    prune,
    read_json,
    write_json,
)


def test_output_defaults_to_the_name_of_the_data_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert output_path("photos/", None) == tmp_path / "photos.grist"
    assert output_path("tables/train.csv", None) == tmp_path / "train.grist"
    assert output_path(None, None) == tmp_path / "model.grist"
    assert output_path("photos", "cats") == tmp_path / "cats.grist"


def test_output_needs_its_ending_and_its_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"end in \.grist"):
        output_path("photos", tmp_path / "cats.onnx")
    with pytest.raises(UsageError, match="folder of the output must exist"):
        output_path("photos", tmp_path / "nowhere" / "cats.grist")


def test_identity_changes_with_data_and_with_the_problem() -> None:
    one = identity_of("a", {"target": "x"})
    assert one == identity_of("a", {"target": "x"})
    assert len({one, identity_of("b", {"target": "x"}), identity_of("a", {"target": "y"})}) == 3


def test_the_same_problem_goes_on_and_another_is_refused_by_name(tmp_path: Path) -> None:
    output = tmp_path / "m.grist"
    claim(locate(output, "one"), {"target": "x"})
    claim(locate(output, "one"), {"target": "x"})
    with pytest.raises(RunError, match=r"target was 'x', is 'y'") as caught:
        claim(locate(output, "two"), {"target": "y"})
    assert "--fresh" in str(caught.value)
    with pytest.raises(RunError, match="the data have changed"):
        claim(locate(output, "three"), {"target": "x"})


def test_fresh_clears_everything_but_the_lock(tmp_path: Path) -> None:
    output = tmp_path / "m.grist"
    run = locate(output, "one")
    claim(run, {})
    (run.folder / "lock").touch()
    (run.folder / "segments" / "a").mkdir(parents=True)
    output.touch()
    again = locate(output, "two", fresh=True)
    claim(again, {"target": "y"}, fresh=True)
    assert sorted(p.name for p in run.folder.iterdir()) == ["lock", "run.json"]
    assert json.loads((run.folder / "run.json").read_text())["identity"] == "two"
    assert not output.exists()


def test_an_output_without_its_run_is_not_overwritten(tmp_path: Path) -> None:
    output = tmp_path / "m.grist"
    output.write_bytes(b"precious")
    with pytest.raises(RunError, match="must not exist yet"):
        locate(output, "one")
    assert output.read_bytes() == b"precious"
    assert not output.with_suffix(".run").exists()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "m.run"
    folder.mkdir()
    (folder / "thesis.tex").touch()
    with pytest.raises(RunError, match=r"thesis\.tex"):
        locate(tmp_path / "m.grist", "one")
    assert (folder / "thesis.tex").exists()


def test_a_broken_description_is_told(tmp_path: Path) -> None:
    run = locate(tmp_path / "m.grist", "one")
    (run.folder / "run.json").write_text("{")
    with pytest.raises(RunError, match="must be readable"):
        claim(run, {})


def test_writing_leaves_no_temporary_file_when_it_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    write_json(tmp_path / "a.json", {"x": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_runs_are_listed_and_pruned(tmp_path: Path) -> None:
    run = locate(tmp_path / "m.grist", "one")
    claim(run, {})
    (run.folder / "segments").mkdir()
    (run.folder / "segments" / "checkpoint").write_bytes(b"x" * 1000)
    (run.folder / "traditional.grist").write_bytes(b"x" * 500)
    (tmp_path / "not-a-run.run").mkdir()
    assert [(r["name"], r["state"]) for r in list_runs(tmp_path)] == [("m.run", "unfinished")]
    write_json(run.result, {"state": "finished", "metric": "accuracy", "score": 0.9, "spent": 12.0})
    assert list_runs(tmp_path)[0]["score"] == 0.9
    assert prune(run.folder) == 1500
    assert not (run.folder / "segments").exists() and not (run.folder / "traditional.grist").exists()
    assert run.result.exists()
    with pytest.raises(RunError, match="pruned run cannot go on") as caught:
        check_unpruned(run)
    assert "--fresh" in str(caught.value)
    claim(run, {}, fresh=True)
    check_unpruned(run)


def test_clear_on_an_empty_run_is_harmless(tmp_path: Path) -> None:
    run = locate(tmp_path / "m.grist", "one")
    clear(run)
    assert run.folder.is_dir()


def test_a_damaged_record_is_told_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.run" / "result.json"
    path.parent.mkdir()
    write_json(path.with_name("run.json"), {})
    path.write_text("{")
    with pytest.raises(RunError, match=r"result\.json must be readable"):
        read_json(path)
    assert [r["state"] for r in list_runs(tmp_path)] == ["damaged"]


def test_the_portfolio_is_decided_once(tmp_path: Path) -> None:
    run = locate(tmp_path / "a.grist", "identity")
    assert run.kept_portfolio() == []
    entries = [{"config": {"family": "constant"}}, {"config": {"family": "trees"}, "view": "deduplicated"}]
    run.keep_portfolio(entries)
    run.keep_portfolio(entries[:1])
    assert run.kept_portfolio() == entries


@pytest.mark.parametrize("text", ["{", "{}", '{"entries": []}', '{"entries": [3]}'])
def test_a_damaged_portfolio_names_fresh(tmp_path: Path, text: str) -> None:
    run = locate(tmp_path / "a.grist", "identity")
    run.portfolio.write_text(text)
    with pytest.raises(RunError, match="--fresh"):
        run.kept_portfolio()
