"""The contract of a model family, as tests. Whoever writes one inherits them:

from gristmill.testing.model import NetworkContract, OneShotContract

class TestMine(NetworkContract):       # or OneShotContract
    def family(self): return MY_FAMILY
"""

from __future__ import annotations

import importlib
import random
from pathlib import Path
from typing import Any, cast

import numpy as np

from gristmill.evaluation import metrics
from gristmill.models.catalog import Family, families, resolution, seconds_per_row, space
from gristmill.segment import config_hash
from gristmill.space import Space
from gristmill.task import InputSpec, Target, Task, TaskKind
from gristmill.testing import golden

TRACEABLE_FUNCTIONS = ("flatten", "add", "sub", "mul", "sqrt", "permute", "cat", "relu6", "getitem")
"""Functions of a traced network that the export writer knows."""

TRACEABLE_LAYERS = (
    "Conv2d", "BatchNorm1d", "BatchNorm2d", "ReLU", "ReLU6", "GELU", "Linear", "MaxPool2d", "AvgPool2d",
    "AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "Embedding", "ZeroPad2d", "LayerNorm",
)  # fmt: skip
"""Layers that the export writer knows."""

SHAPE = {"numbers": 3, "cardinalities": [4, 7]}
"""Widths of the encoded table that `table_task` stands for."""


def image_task(kind: TaskKind = "multiclass", *, channels: int = 3, size: int = 64) -> Task:
    """A task on pictures, with three classes, two for binary, or one number."""
    spec = {"channels": channels, "size": size}
    return _task((InputSpec(name="image", kind="image", spec=spec),), kind)


def table_task(kind: TaskKind = "multiclass") -> Task:
    """A task on three numbers and two categories."""
    numbers = tuple(InputSpec(name=f"n{i}", kind="number") for i in range(3))
    categories = tuple(InputSpec(name=f"c{i}", kind="category") for i in range(2))
    return _task((*numbers, *categories), kind)


def _task(inputs: tuple[InputSpec, ...], kind: TaskKind) -> Task:
    labels = {"binary": ("no", "yes"), "multiclass": ("a", "b", "c")}.get(kind, ())
    metric = "rmse" if kind == "regression" else "accuracy"
    return Task(inputs=inputs, targets=(Target(name="label", task=kind, labels=labels),), metric=metric)


class FamilyContract:
    """What holds for every family: its space, its tiny configuration and what it answers, its costs."""

    def family(self) -> Family:
        """The family under test."""
        raise NotImplementedError

    def task(self, kind: TaskKind = "multiclass") -> Task:
        """A task of the family's modality."""
        return table_task(kind) if self.family().modality == "table" else image_task(kind)

    def own_space(self) -> Space:
        """The space in which the family lives."""
        return space(self.task())

    def golden_outputs(self) -> golden.Numbers:
        """What the tiny configuration answers on fixed inputs; the floor: on rows of any inputs."""
        x = golden.columns(200, 6)
        return {
            kind: metrics.constant_outputs(golden.targets(x, kind), 1, self.task(kind).target).reshape(1, -1)
            for kind in golden.KINDS
        }

    def golden_name(self) -> str:
        """The name of these outputs in the file."""
        return self.family().name

    def golden_file(self) -> Path:
        """The file that keeps them (see `gristmill.testing.golden`)."""
        return golden.FILE

    def test_the_golden_outputs_come_out_again(self) -> None:
        golden.check(self.golden_name(), self.golden_outputs(), self.golden_file())

    def test_every_parameter_carries_the_family_name_and_a_condition(self) -> None:
        family = self.family()
        for parameter in family.parameters:
            assert parameter.name.startswith(f"{family.name}.")
            assert parameter.when is not None

    def test_the_tiny_configuration_lies_in_the_space(self) -> None:
        complete = self.own_space().complete(self.family().tiny)
        assert complete["family"] == self.family().name

    def test_costs_are_positive_and_grow_with_no_surprise(self) -> None:
        task, family = self.task(), self.family()
        tiny = seconds_per_row(family.tiny, task)
        assert 0 < tiny <= 1.01 * seconds_per_row({"family": family.name}, task) < 10

    def test_a_features_configuration_is_shared_by_heads(self) -> None:
        family = self.family()
        read = family.features(family.tiny)
        if read is not None:
            stronger = {**family.tiny, f"{family.name}.strength": 0.1}
            assert family.features(stronger) == read
            assert config_hash(read)


class NetworkContract(FamilyContract):
    """What holds for every network family; torch is needed."""

    def network(self, config: Any = None, kind: TaskKind = "multiclass") -> Any:
        """The tiny network, seeded, in evaluation mode, initialised on a batch."""
        import torch

        torch.manual_seed(0)
        build = self.family().build
        assert build is not None
        network = build(self.family().tiny if config is None else config, self.task(kind), SHAPE)
        cast(Any, network).init_from_batch(*self.batch(64, config))
        return network.eval()

    def batch(self, rows: int, config: Any = None, seed: int = 0) -> tuple[Any, ...]:
        """Inputs of `rows` random rows."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        if self.family().modality == "table":
            sizes = torch.tensor(SHAPE["cardinalities"])
            codes = (torch.rand((rows, 2), generator=generator) * sizes).long()
            return torch.randn((rows, 3), generator=generator), codes
        side = resolution(self.family().tiny if config is None else config, self.task())
        return (torch.randint(0, 256, (rows, 3, side, side), generator=generator).float(),)

    def golden_outputs(self) -> golden.Numbers:
        """Logits of the tiny network, seeded and worn (see `golden.worn`)."""
        import torch

        torch.manual_seed(0)
        build = self.family().build
        assert build is not None
        network: Any = build(self.family().tiny, self.task(), SHAPE)
        shown = self.golden_batch(64)
        network.init_from_batch(*shown)
        golden.worn(network, *shown)
        with torch.no_grad():
            return {"multiclass": network(*(part[: golden.ROWS] for part in shown)).numpy()}

    def golden_batch(self, rows: int) -> tuple[Any, ...]:
        """The first `rows` fixed inputs."""
        import torch

        if self.family().modality == "table":
            cardinalities = cast(list[int], SHAPE["cardinalities"])
            numbers = 2.0 * golden.columns(rows, cast(int, SHAPE["numbers"]))
            return torch.from_numpy(numbers), torch.from_numpy(golden.codes(rows, cardinalities))
        pixels = golden.pictures(rows, resolution(self.family().tiny, self.task()))
        return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float(),)

    def test_logits_have_one_column_per_output(self) -> None:
        for kind, outputs in (("multiclass", 3), ("binary", 2), ("regression", 1)):
            logits = self.network(kind=kind)(*self.batch(5))  # type: ignore[arg-type]
            assert tuple(logits.shape) == (5, outputs)
            assert logits.dtype.is_floating_point and bool(logits.isfinite().all())

    def test_features_feed_the_head(self) -> None:
        network = self.network()
        assert tuple(network.features(*self.batch(5)).shape) == (5, network.head.in_features)
        assert network.head.out_features == 3

    def test_a_row_does_not_depend_on_its_batch(self) -> None:
        import torch

        network, batch = self.network(), self.batch(6)
        with torch.no_grad():
            alone = network.features(*(part[2:3] for part in batch))
            together = network.features(*batch)[2:3]
        assert torch.allclose(alone, together, atol=1e-4)

    def test_the_state_round_trips_through_arrays(self) -> None:
        import torch

        first, batch = self.network(), self.batch(4, seed=1)
        arrays = {k: v.numpy().copy() for k, v in first.state_dict().items()}
        second = self.network()
        with torch.no_grad():
            for parameter in second.parameters():
                parameter.zero_()
        second.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()})
        assert torch.equal(first(*batch), second(*batch))

    def test_the_trace_holds_only_layers_that_export_knows(self) -> None:
        import torch

        traced = torch.fx.symbolic_trace(self.network())
        modules = dict(traced.named_modules())
        for node in traced.graph.nodes:
            if node.op == "call_module":
                assert type(modules[node.target]).__name__ in TRACEABLE_LAYERS
            elif node.op == "call_function":
                assert node.target.__name__ in TRACEABLE_FUNCTIONS
            else:
                assert node.op in ("placeholder", "output"), node.op

    def test_it_learns(self) -> None:
        """Thirty steps on sixteen rows lower the loss, every trained weight moves, the others do not."""
        import torch

        network, batch = self.network().train(), self.batch(16)
        labels = torch.arange(16) % 3
        before = {k: v.clone() for k, v in network.named_parameters()}
        optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=3e-3)
        losses = []
        for _ in range(30):
            loss = torch.nn.functional.cross_entropy(network(*batch), labels)
            optimizer.zero_grad()
            cast(Any, loss).backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.8 * losses[0]
        for name, parameter in network.named_parameters():
            assert parameter.requires_grad != torch.equal(parameter, before[name]), name

    def test_drawn_configurations_build(self) -> None:
        """Configurations drawn from the space build, and give finite logits for one row."""
        import torch

        rng, build = random.Random(0), self.family().build
        assert build is not None
        own = self.own_space()
        for _ in range(4):
            drawn = own.sample(rng)
            while drawn["family"] != self.family().name or drawn.get("mbconv.pretrained"):
                drawn = own.sample(rng)
            network = build(drawn, self.task(), SHAPE).eval()
            with torch.no_grad():
                assert bool(network(*self.batch(1, drawn)).isfinite().all())


class OneShotContract(FamilyContract):
    """What holds for every learner that is fitted once."""

    def learner(self) -> Any:
        """The module with `fit` and `logits`."""
        raise NotImplementedError

    def golden_outputs(self) -> golden.Numbers:
        """Logits of the first rows of those that the tiny configuration was fitted on."""
        found: dict[str, np.ndarray] = {}
        x = golden.columns(200, 6)
        for kind in golden.KINDS:
            y, tiny = golden.targets(x, kind), self.family().tiny
            state = self.learner().fit(x, y, None, self.task(kind), tiny, 0)
            found[kind] = self.learner().logits(state, x[: golden.ROWS])
        return found

    def golden_name(self) -> str:
        """Of the family and its learner, where that has another name."""
        family, learner = self.family().name, self.learner().__name__.rpartition(".")[2]
        return family if family == learner else f"{family} by {learner}"

    def rows(self, kind: TaskKind, count: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Columns (n, 6) float32 and the targets that the first three of them decide."""
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(count, 6)).astype(np.float32)
        if kind == "regression":
            return x, (x[:, 0] - 0.5 * x[:, 1]).astype(np.float64)
        return x, x[:, : 2 if kind == "binary" else 3].argmax(1).astype(np.int64)

    def fitted(self, kind: TaskKind, **options: Any) -> dict[str, np.ndarray]:
        """The tiny configuration's state on `rows(kind)`."""
        x, y = self.rows(kind)
        arguments: dict[str, Any] = {"weights": None, "config": self.family().tiny, "seed": 0, **options}
        state: dict[str, np.ndarray] = self.learner().fit(x, y, task=self.task(kind), **arguments)
        return state

    def test_it_beats_the_constant_answer(self) -> None:
        kinds: tuple[TaskKind, ...] = ("binary", "multiclass")
        for kind in kinds:
            x, y = self.rows(kind, 200, seed=1)
            logits = self.learner().logits(self.fitted(kind), x)
            assert logits.shape == (200, self.task(kind).target.outputs)
            assert logits.dtype == np.float32
            assert (logits.argmax(1) == y).mean() > 0.75

    def test_regression_explains_most_of_the_variance(self) -> None:
        x, y = self.rows("regression", 200, seed=1)
        values = self.learner().logits(self.fitted("regression"), x)
        assert values.shape == (200, 1)
        assert ((values[:, 0] - y) ** 2).mean() < 0.3 * y.var()

    def test_the_state_is_plain_numbers_and_repeats(self) -> None:
        first, second = self.fitted("multiclass"), self.fitted("multiclass")
        assert list(first) == list(second)
        for name, array in first.items():
            assert array.dtype.kind in "fiu" and np.isfinite(array).all()
            assert np.array_equal(array, second[name])

    def test_weights_count_like_repeated_rows(self) -> None:
        """Rows of weight nearly zero with wrong labels change little."""
        x, y = self.rows("binary")
        spoilt = np.concatenate([y, 1 - y])
        weights = np.concatenate([np.ones(len(y)), np.full(len(y), 1e-6)])
        state = self.learner().fit(
            np.concatenate([x, x]), spoilt, weights, self.task("binary"), self.family().tiny, 0
        )
        assert (self.learner().logits(state, x).argmax(1) == y).mean() > 0.75

    def test_a_class_without_a_row_is_answered_rarely(self) -> None:
        x, y = self.rows("multiclass")
        kept = y != 1
        state = self.learner().fit(x[kept], y[kept], None, self.task(), self.family().tiny, 0)
        logits = self.learner().logits(state, x)
        assert logits.shape == (len(x), 3) and (logits.argmax(1) == 1).mean() < 0.1

    def test_one_label_only_is_answered_always(self) -> None:
        x, _ = self.rows("multiclass", 50)
        state = self.learner().fit(x, np.full(50, 2), None, self.task(), self.family().tiny, 0)
        assert (self.learner().logits(state, x).argmax(1) == 2).all()

    def test_hardly_any_time_still_gives_a_model(self) -> None:
        state = self.fitted("multiclass", seconds=1e-3)
        x, _ = self.rows("multiclass")
        assert np.isfinite(self.learner().logits(state, x)).all()


HEADS = {"features": ("linear", "perceptron")}
"""Learners of the one-shot families that are not called like their module."""


def golden_outputs() -> dict[str, golden.Numbers]:
    """The golden outputs of every family in the catalogue, by name."""
    every = {f.name: f for task in (image_task(), table_task()) for f in families(task)}
    contracts = [c for f in every.values() for c in _contracts(f)]
    return {c.golden_name(): c.golden_outputs() for c in contracts}


def _contracts(chosen: Family) -> list[FamilyContract]:
    """The contract of a family; of a one-shot family one for each learner."""
    if chosen.learner == "network":
        return [_contract(NetworkContract, family=chosen)]
    if chosen.role == "floor":
        return [_contract(FamilyContract, family=chosen)]
    names = HEADS.get(chosen.name, (chosen.name,))
    learners = [importlib.import_module(f"gristmill.models.{name}") for name in names]
    return [_contract(OneShotContract, family=chosen, learner=learner) for learner in learners]


def _contract(kind: type[FamilyContract], **answers: Any) -> FamilyContract:
    """A contract whose methods of these names return these answers."""
    made = kind()
    for name, answer in answers.items():
        setattr(made, name, lambda given=answer: given)
    return made
