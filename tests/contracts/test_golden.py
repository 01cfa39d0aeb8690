"""The numbers that families are compared with are complete, compared, and made anew by one command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gristmill.models import Family, families, family
from gristmill.testing import golden
from gristmill.testing.model import FamilyContract, NetworkContract, OneShotContract, image_task, table_task

NETWORKS = [f.name for task in (image_task(), table_task()) for f in families(task) if f.learner == "network"]
MULTICLASS = {"multiclass": np.array([[1.0, -2.0, 0.0], [0.5, 0.25, 3.0]])}


def contract(name: str) -> NetworkContract:
    class Contract(NetworkContract):
        def family(self) -> Family:
            return family(name)

    return Contract()


def test_every_family_of_the_catalogue_has_golden_outputs() -> None:
    kept = {name.partition(" ")[0] for name in golden.read()}
    assert kept == {f.name for task in (image_task(), table_task()) for f in families(task)} | {"backbones"}


def test_what_is_written_is_read_and_agrees(tmp_path: Path) -> None:
    golden.write({"mine": MULTICLASS}, tmp_path / "golden.json")
    golden.write({"other": MULTICLASS}, tmp_path / "golden.json")
    golden.check("mine", MULTICLASS, tmp_path / "golden.json")
    assert set(golden.read(tmp_path / "golden.json")) == {"mine", "other"}


@pytest.mark.parametrize("place", [(0, 0), (0, 2), (1, 1)])
def test_one_changed_number_fails_and_the_command_is_named(tmp_path: Path, place: tuple[int, int]) -> None:
    golden.write({"mine": MULTICLASS}, tmp_path / "golden.json")
    changed = MULTICLASS["multiclass"].copy()
    changed[place] += 0.003
    with pytest.raises(AssertionError, match=golden.COMMAND):
        golden.check("mine", {"multiclass": changed}, tmp_path / "golden.json")


def test_rounding_of_another_processor_passes(tmp_path: Path) -> None:
    golden.write({"mine": MULTICLASS}, tmp_path / "golden.json")
    golden.check("mine", {"multiclass": MULTICLASS["multiclass"] * 1.0005 + 5e-5}, tmp_path / "golden.json")


@pytest.mark.parametrize("found", [{}, {"binary": np.zeros((2, 2))}, {"multiclass": np.zeros((1, 3))}])
def test_outputs_that_nothing_is_kept_for_fail(tmp_path: Path, found: dict[str, Any]) -> None:
    golden.write({"mine": MULTICLASS}, tmp_path / "golden.json")
    with pytest.raises(AssertionError):
        golden.check("mine", found, tmp_path / "golden.json")
    with pytest.raises(AssertionError, match="lacks another"):
        golden.check("another", MULTICLASS, tmp_path / "golden.json")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_change_of_any_weight_of_a_network_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tensor of the worn network in turn: a tenth more of it must fail the comparison."""
    known = golden.worn
    kept: list[torch.nn.Module] = []
    monkeypatch.setattr(golden, "worn", lambda *a: kept.append(known(*a)) or kept[0])
    mine = contract(name)
    mine.golden_outputs()
    (network,), shown = kept, mine.golden_batch(golden.ROWS)
    for part, tensor in network.state_dict().items():
        if tensor.dtype.is_floating_point:
            before = tensor.clone()
            with torch.no_grad():
                tensor.mul_(1.1).add_(0.01)
                found = network(*shown).numpy()
                tensor.copy_(before)
            with pytest.raises(AssertionError):
                golden.check(name, {"multiclass": found})
                pytest.fail(f"{part} may change unseen", pytrace=False)


def test_the_command_covers_what_the_contracts_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in (FamilyContract, NetworkContract, OneShotContract):
        monkeypatch.setattr(kind, "golden_outputs", lambda self: MULTICLASS)
    golden.main(tmp_path / "golden.json")
    made = golden.read(tmp_path / "golden.json")
    assert made.keys() == golden.read().keys()
    assert "features by perceptron" in made and "features by perceptron" in capsys.readouterr().out
    golden.check("convstack", MULTICLASS, tmp_path / "golden.json")


def test_inputs_are_the_same_everywhere() -> None:
    pixels = golden.pictures(3, 24)
    assert pixels.dtype == np.uint8 and pixels[1, 2, 3].tolist() == [40, 78, 115]
    assert len(np.unique(pixels)) > 200
    np.testing.assert_allclose(
        golden.columns(2, 2), [[0.722278, 0.536464], [-0.985015, -0.784216]], atol=1e-6
    )
