from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gristmill import finish
from gristmill.data.split import Parts
from gristmill.errors import ResourceError, VerificationError
from gristmill.limits import Limits
from gristmill.run import locate
from gristmill.segment import Artefact, Outcome, Segment
from gristmill.task import InputSpec, Target, Task
from gristmill.training import checkpoint


def agreed(said: np.ndarray, meant: np.ndarray) -> float:
    """`finish.agreement` of a model that answers `said` where the trained one meant `meant`."""
    source: Any = SimpleNamespace(originals=lambda rows: rows)
    prepared: Any = SimpleNamespace(
        parts=SimpleNamespace(valid=np.arange(len(said))),
        task=SimpleNamespace(target=SimpleNamespace(task="multiclass")),
    )
    model: Any = SimpleNamespace(outputs=lambda rows: said[np.asarray(rows)])
    choice: Any = SimpleNamespace(outputs=1.0 - meant, deployed=meant)  # out of fold it may say otherwise
    return finish.agreement(model, choice, source, prepared, len(said))


@pytest.fixture
def folded() -> Any:
    """Eight rows of two classes in folds: valid is rows 0 to 3, calib rows 4 to 7."""
    labels = Target(name="y", task="multiclass", labels=("a", "b"))
    rows = np.arange(8)
    return SimpleNamespace(
        task=Task(inputs=(InputSpec(name="x", kind="number"),), targets=(labels,), metric="accuracy"),
        parts=Parts(train=rows, valid=rows[:4], calib=rows[4:], test=rows[:0], folds=rows % 2),
        targets={"y": rows % 2},
        names=tuple("abcdefgh"),
    )


def candidate(**changes: Any) -> finish.Candidate:
    fields: dict[str, Any] = {
        "id": "c", "title": "", "config": {}, "view": "all", "role": "model", "score": 0.5, "noise": 0.0,
        "cost": 0.0, "latency_s": 0.0, "size": 0, "folder": Path("c"),
    }  # fmt: skip
    return finish.Candidate(**{**fields, **changes})


def test_with_folds_the_choice_is_judged_out_of_fold_and_its_bundle_by_the_deployed_model(
    folded: Any,
) -> None:
    right = np.eye(2, dtype=np.float32)[folded.targets["y"]] * 4
    outputs = right.copy()
    outputs[:2] = right[:2, ::-1]  # out of fold, two of the four valid rows are wrong
    choice = finish.choose([candidate(outputs=outputs, deployed=right[:4])], folded)
    assert choice.valid.metrics["accuracy"].value == 0.5
    assert (choice.deployed.argmax(axis=1) == folded.targets["y"][:4]).all()
    np.testing.assert_allclose(choice.deployed.sum(axis=1), 1.0, rtol=1e-6)
    # calibrated like the outputs, by the same temperature
    np.testing.assert_allclose(choice.deployed[2:], choice.outputs[2:4])


def test_the_floor_is_no_member_unless_there_is_nothing_else(folded: Any) -> None:
    """It would be here: where the model errs, its share would turn the answer to the more frequent class."""
    y = folded.targets["y"]
    model = np.eye(2, dtype=np.float32)[y] * 4
    model[1] = [0.6, 0.5]  # a close mistake
    floor = np.tile(np.array([[0.0, 0.5]], np.float32), (8, 1))
    both = [
        candidate(id="model", outputs=model, deployed=model[:4]),
        candidate(id="floor", outputs=floor, deployed=floor[:4], role="floor"),
    ]
    assert [c.id for c, _ in finish.choose(both, folded).members] == ["model"]
    assert [c.id for c, _ in finish.choose(both[1:], folded).members] == ["floor"]


def test_what_was_deployed_is_read_beside_the_predictions(folded: Any, tmp_path: Path) -> None:
    for name, rows in (("predictions", 8), ("deployed", 4)):
        np.save(tmp_path / f"{name}.npy", np.full((rows, 2), float(rows), np.float16))
    both = {n: Artefact(uri=str(tmp_path / f"{n}.npy"), sha256="") for n in ("predictions", "deployed")}
    held_out = {"predictions": both["predictions"]}
    assert (finish._deployed(Outcome(id="a", state="done", artefacts=both), folded) == 4).all()
    assert (finish._deployed(Outcome(id="a", state="done", artefacts=held_out), folded) == 8).all()
    assert finish._deployed(Outcome(id="a", state="done", artefacts=held_out), folded).shape == (4, 2)


def test_with_folds_nothing_is_fitted_again(monkeypatch: pytest.MonkeyPatch, folded: Any) -> None:
    keeper: Any = SimpleNamespace(
        prepared=folded, broken=frozenset(), deadline=SimpleNamespace(left=lambda: 9.0),
        cost_cap=lambda left, best: 1.0, shippable=lambda study: [SimpleNamespace(id="c")],
        limits=Limits(),
    )  # fmt: skip
    monkeypatch.setattr(finish, "choose", lambda found, prepared, cost_cap, limits: "choice")
    monkeypatch.setattr(finish, "_fitted_again", lambda *_: pytest.fail("fitted again"))
    nothing: Any = None
    assert finish.decide(keeper, nothing, nothing, stopped=False) == "choice"


def test_labels_that_tie_within_the_stored_precision_agree() -> None:
    meant = np.tile([0.50001, 0.49999], (100, 1))
    assert agreed(meant[:, ::-1], meant) == 1.0


def test_a_bundle_that_says_something_else_is_refused() -> None:
    meant = np.tile([0.6, 0.4], (100, 1))
    said = meant.copy()
    said[0] = [0.4, 0.6]
    with pytest.raises(VerificationError, match=r"99\.5"):
        agreed(said, meant)
    assert agreed(meant, meant) == 1.0


def test_the_next_candidate_is_shipped_when_the_chosen_one_does_not_agree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good, bad = SimpleNamespace(id="good"), SimpleNamespace(id="bad+valid")
    keeper: Any = SimpleNamespace(
        run=SimpleNamespace(folder=Path("run")),
        broken=frozenset(), source=None, prepared=None, say=lambda *_: None,
    )  # fmt: skip

    def check(model: Any, choice: Any, *_: Any) -> float:
        if choice.members[0][0].id == "bad+valid":
            raise VerificationError("must agree")
        return 1.0

    monkeypatch.setattr(finish, "write", lambda *_: "final.grist")
    monkeypatch.setattr(finish.runtime, "load", lambda path: "model")
    monkeypatch.setattr(finish, "agreement", check)
    monkeypatch.setattr(finish, "choose", lambda found, prepared: SimpleNamespace(members=((found[0], 1.0),)))
    chosen: Any = SimpleNamespace(members=((bad, 1.0),))
    found: Any = [SimpleNamespace(id="bad"), good]
    choice, model = finish._agreeing(keeper, chosen, found, 10)
    assert (choice.members[0][0].id, model) == ("good", "model")
    with pytest.raises(VerificationError):
        finish._agreeing(keeper, chosen, found[:1], 10)


@pytest.mark.parametrize("file", ["predictions.npy", "model.onnx"])
@pytest.mark.parametrize("damage", [None, "flipped", "deleted"])
def test_a_candidate_whose_files_are_damaged_is_not_deployed(
    tmp_path: Path, file: str, damage: str | None
) -> None:
    artefacts = {
        "predictions": checkpoint.save_array(tmp_path / "predictions.npy", np.zeros((4, 2), np.float16)),
        "member": checkpoint.write(tmp_path / "model.onnx", b"a network"),
    }
    outcome = Outcome(id="a", state="done", score=0.5, artefacts=artefacts)
    trial = SimpleNamespace(outcome="a", config={"family": "constant"}, view="all", repeat=0)
    study: Any = SimpleNamespace(leaderboard=(trial,), outcome=lambda name: outcome)
    prepared: Any = SimpleNamespace(
        parts=SimpleNamespace(valid=np.arange(2)),
        task=SimpleNamespace(target=SimpleNamespace(task="multiclass")),
    )
    data = bytearray((tmp_path / file).read_bytes())
    data[-1] ^= 1
    if damage == "flipped":
        (tmp_path / file).write_bytes(data)
    elif damage == "deleted":
        (tmp_path / file).unlink()
    assert len(finish.candidates(study, prepared)) == (damage is None)


def test_a_refit_keeps_the_strength_that_was_found_and_is_priced_without_the_ladder() -> None:
    config = {"family": "linear", "linear.strength": "auto"}
    before = Segment(id="abc-all-fit-100-s0", kind="fit", config=config, to_rows=100)
    outcome = Outcome(id=before.id, state="done", seconds=10.0, facts={"strength": 0.03})
    again, seconds = finish.refit_of(before, outcome)
    assert (again.id, again.view) == ("abc-all+valid-fit-100-s0", "all+valid")
    assert again.config == {"family": "linear", "linear.strength": 0.03}
    assert seconds < 10.0
    trees = replace(before, config={"family": "trees"})
    again, seconds = finish.refit_of(trees, outcome)
    assert again.config == trees.config and seconds > 10.0


def test_an_ensemble_keeps_the_limits_that_its_members_keep_alone(folded: Any) -> None:
    right = np.eye(2, dtype=np.float32)[folded.targets["y"]] * 4
    left, other = right.copy(), right.copy()
    left[0], other[1] = right[0, ::-1] / 2, right[1, ::-1] / 2  # each mends the other's mistake
    pair = [
        candidate(id=name, outputs=outputs, deployed=outputs[:4], latency_s=0.003, size=size)
        for name, outputs, size in (("left", left, 10), ("other", other, 20))
    ]
    assert len(finish.choose(pair, folded).members) == 2
    assert len(finish.choose(pair, folded, limits=Limits.of(7, None)).members) == 2
    assert [c.id for c, _ in finish.choose(pair, folded, limits=Limits.of(5, None)).members] == ["left"]


def test_limits_that_nothing_keeps_are_said_with_the_nearest_candidate() -> None:
    nothing: Any = np.zeros(0)
    slow = candidate(title="slow", outputs=nothing, deployed=nothing, latency_s=0.5)
    near = candidate(title="near", outputs=nothing, deployed=nothing, latency_s=0.011)
    with pytest.raises(ResourceError, match=r"max-latency") as said:
        finish._check_limits([slow, near], Limits.of(10, None))
    assert "near predicts in 11 ms, --max-latency is 10" in str(said.value)
    finish._check_limits([slow, near], Limits())


@pytest.mark.parametrize("size", [None, 0.2])
def test_a_member_beyond_the_limits_has_no_score_but_the_reason(
    tmp_path: Path, folded: Any, size: float | None
) -> None:
    from gristmill.deployment import export

    def write(folder: Path, *_: Any) -> Path:
        folder.mkdir()
        (folder / "model.onnx").write_bytes(bytes(100_000))
        return folder / "model.onnx"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "write_member", write)
        patch.setattr("gristmill.training.deployable", lambda *_, **__: SimpleNamespace(tensors={}, meta={}))
        patch.setattr(finish, "seconds_per_rows", lambda *_: [1e-3, 1e-3])
        segment = Segment(id="t", kind="fit", config={"family": "linear"})
        artefacts = {"checkpoint": Artefact(uri="c", sha256="")}
        outcome = Outcome(id="t", state="done", score=0.7, noise=0.1, artefacts=artefacts)
        made = finish.with_member(segment, folded, outcome, tmp_path, Limits.of(None, size))
    assert made.facts["bytes"] == 100_000 and made.state == "done"
    assert ("member" in made.artefacts, made.score) == ((True, 0.7) if size is None else (False, None))
    assert made.reason == ("" if size is None else "has 0.1 MB, --max-size is 0.2")


def test_what_the_numbers_of_the_search_are_is_said_in_words(folded: Any) -> None:
    said = finish.Keeper.scale(SimpleNamespace(prepared=folded))  # type: ignore[arg-type]
    assert said == "how far its accuracy is from always one answer (0) to perfect (1)"


def test_a_bundle_tells_the_seed_and_the_options_of_its_run(
    folded: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr(finish.bundle, "write", lambda path, **given: told.update(given))
    keeper: Any = SimpleNamespace(
        prepared=folded, run=locate(tmp_path / "a.grist", "data"), reference={}, seed=0,
        options={"metric": "accuracy"},
    )  # fmt: skip
    right = np.eye(2, dtype=np.float32)[folded.targets["y"]] * 4
    choice = finish.choose([candidate(outputs=right, deployed=right[:4])], folded)
    finish.write(keeper, choice, tmp_path / "a.grist")
    assert told["provenance"]["seed"] == 0
    assert told["options"] == {"metric": "accuracy"}
