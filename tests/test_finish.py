from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gristmill import finish
from gristmill.errors import VerificationError


def agreed(said: np.ndarray, meant: np.ndarray) -> float:
    """`finish.agreement` of a model that answers `said` where the trained one meant `meant`."""
    source: Any = SimpleNamespace(originals=lambda rows: rows)
    prepared: Any = SimpleNamespace(
        parts=SimpleNamespace(valid=np.arange(len(said))),
        task=SimpleNamespace(target=SimpleNamespace(task="multiclass")),
    )
    model: Any = SimpleNamespace(outputs=lambda rows: said[np.asarray(rows)])
    choice: Any = SimpleNamespace(outputs=meant)
    return finish.agreement(model, choice, source, prepared, len(said))


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
