from __future__ import annotations

import random
import subprocess
import sys

import pytest

from gristmill.errors import UsageError
from gristmill.models import catalog
from gristmill.space import Choice
from gristmill.testing.model import SHAPE, image_task, table_task


def test_each_modality_has_its_families_the_floor_first() -> None:
    pictures = ["constant", "features", "convstack", "resnet", "convnext", "mbconv"]
    assert [f.name for f in catalog.families(image_task())] == pictures
    assert [f.name for f in catalog.families(table_task())] == ["constant", "linear", "trees", "mlp"]


def test_an_unknown_family_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="convstack"):
        catalog.family("convstak")


def test_from_scratch_takes_away_everything_that_needs_weights() -> None:
    space = catalog.space(image_task(), pretrained=False)
    assert space.complete({"family": "features"})["features.backbone"] == "hog"
    assert space.complete({"family": "mbconv"})["mbconv.pretrained"] is False
    assert "features.pool" not in space.complete({"family": "features"})
    assert all(f.weights is None for f in catalog.families(image_task(), pretrained=False))


def test_drawn_configurations_are_complete() -> None:
    rng = random.Random(0)
    for task in (image_task(), table_task()):
        space = catalog.space(task)
        for _ in range(50):
            drawn = space.sample(rng)
            assert space.complete(drawn) == drawn
            assert catalog.seconds_per_row(drawn, task) > 0


@pytest.mark.parametrize(("size", "last"), [(28, 32), (32, 32), (64, 64), (70, 96), (500, 128)])
def test_scratch_resolutions_end_where_the_pictures_end(size: int, last: int) -> None:
    domain = catalog.space(image_task(size=size))["convstack.resolution"].domain
    assert isinstance(domain, Choice) and domain.options[-1] == last


def test_pictures_are_enlarged_for_trained_backbones_only() -> None:
    small = image_task(size=28)
    assert catalog.resolution({"family": "convstack", "convstack.resolution": 32}, small) == 28
    assert catalog.resolution({"family": "features", "features.resolution": 96}, small) == 96
    assert catalog.resolution({"family": "trees"}, table_task()) == 0


def test_hog_is_the_traditional_model_for_pictures() -> None:
    assert catalog.role({"family": "features", "features.backbone": "hog"}) == "traditional"
    assert catalog.role({"family": "features"}) == "model"
    assert catalog.role({"family": "trees"}) == "traditional"


@pytest.mark.parametrize(
    ("config", "backbone"),
    [
        ({}, "lite0-layers"),
        ({"features.pool": "last"}, "lite0"),
        ({"features.backbone": "hog"}, "hog"),
    ],
)
def test_heads_read_the_features_of_their_backbone(config: dict[str, str], backbone: str) -> None:
    read = catalog.family("features").features({"family": "features", "features.resolution": 96, **config})
    assert read == {"backbone": backbone, "resolution": 96}


def test_only_networks_are_built_and_tables_need_their_widths() -> None:
    with pytest.raises(UsageError, match="network"):
        catalog.build({"family": "trees"}, table_task())
    with pytest.raises(UsageError, match="shape="):
        catalog.build({"family": "mlp"}, table_task())
    assert catalog.build({"family": "mlp"}, table_task(), SHAPE) is not None


@pytest.mark.parametrize("size", [28, 64, 128])
@pytest.mark.parametrize("width", [16, 32])
def test_nominal_operations_of_convstack_are_about_right(size: int, width: int) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    task = image_task(size=size)
    config = {"family": "convstack", "convstack.resolution": 128, "convstack.width": width}
    network = catalog.build(config, task).eval()
    import torch

    side = catalog.resolution(config, task)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, side, side))
    counted = 3 * counter.get_total_flops() / catalog.GFLOPS_TRAIN / 1e9
    assert 0.5 < catalog.seconds_per_row(config, task) / counted < 2


def test_importing_the_package_needs_no_torch() -> None:
    code = "import sys, gristmill.models; sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
