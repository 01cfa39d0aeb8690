"""The state of one training: network, average, optimizers, position; how it starts, resumes and is saved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from gristmill import device as devices
from gristmill.data.augment import cut_share, mixed_pairs
from gristmill.errors import DataError
from gristmill.models.catalog import build, resolution
from gristmill.segment import Outcome, Segment
from gristmill.training import checkpoint, probe
from gristmill.training.lower import Lower, mirrored_in
from gristmill.training.objective import Objective, class_weights, objective
from gristmill.training.optim import Average, load_optimizer_tensors, optimizer_tensors, optimizers
from gristmill.training.recipe import Recipe, from_config
from gristmill.training.stream import (
    Batch,
    Columns,
    Inputs,
    Order,
    Pictures,
    generator,
    mixed,
    training_batches,
)

if TYPE_CHECKING:
    from gristmill.data import Prepared, View
    from gristmill.task import Target

INIT_PICTURES = 256
INIT_ROWS = 65536
"""Training rows shown to `init_from_batch`: pictures (their patches count), rows of a table."""

TOLERANCE = 1.1
"""A first rung is refused only when it needs this many times the cap: timings of two steps are rough."""

SHORTEST_COOLDOWN = 0.3
"""A cooldown that the cap shortens to less than this share of its rows counts as cut."""


@dataclass
class Plan:
    """Where a segment begins and ends, in steps of its trunk. `last` moves when the cap demands it."""

    first: int
    last: int
    wanted: int
    cooldown: bool
    capped: bool
    evaluated_rows: int


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Which picture is mixed into each one, by position, what it keeps of itself, and how."""

    partner: Tensor
    share: float
    rng: torch.Generator
    cut: bool


class Training:
    """Everything that changes while a network is trained. Made by `start`, driven by the loop."""

    def __init__(
        self,
        *,
        segment: Segment,
        prepared: Prepared,
        folder: Path,
        parents: Mapping[str, Outcome],
        recipe: Recipe,
        inputs: Inputs,
        order: Order,
        objective: Objective,
        network: nn.Module,
        meta: Mapping[str, Any],
        device: devices.Device,
    ) -> None:
        self.segment, self.prepared, self.folder, self.parents = segment, prepared, folder, parents
        self.recipe, self.inputs, self.order, self.objective = recipe, inputs, order, objective
        self.network, self.meta, self.device = network, meta, device
        self.optimizers = optimizers(network, recipe)
        self.average = Average(
            network, batch=recipe.batch, share=recipe.average_share, horizon=recipe.average_rows
        )
        self.augment = _augment(recipe)
        self.steps = 0
        self.rate_factor = 1.0
        self.micro_batch = min(recipe.batch, recipe.micro_batch or recipe.batch)
        self.refused = False
        self.plan = Plan(first=0, last=0, wanted=0, cooldown=False, capped=False, evaluated_rows=0)

    @property
    def rows(self) -> int:
        """Training rows seen since the start of the trunk."""
        return self.steps * self.recipe.batch

    @property
    def ended(self) -> bool:
        """Whether no step is left to do."""
        return self.steps >= self.plan.last or self.refused

    @property
    def cut(self) -> bool:
        """Whether the cap ended it before its rows were seen (a cooldown may be somewhat shorter)."""
        plan = self.plan
        shortest = SHORTEST_COOLDOWN if plan.cooldown else 1.0
        return self.steps - plan.first < shortest * (plan.wanted - plan.first)

    def epoch(self) -> Iterator[Batch]:
        """The batches from the present step to the end of the current epoch or of the segment."""
        number = self.order.epoch_of(self.steps)
        end = -(-(number + 1) * len(self.order.rows) // self.recipe.batch)
        return training_batches(self.order, self.inputs, self.steps, min(end, self.plan.last))

    def rate(self) -> float:
        """Part of the full rates for the next step."""
        span = (self.plan.first * self.recipe.batch, self.plan.last * self.recipe.batch)
        # the middle of the step, so that a cooldown's last step still moves and the first one is not lost
        middle = self.rows + self.recipe.batch // 2
        return self.rate_factor * self.recipe.rate_factor(middle, span if self.plan.cooldown else None)

    def seed_of_step(self) -> int:
        """The seed of dropout and augmentation: a pure function of segment seed and position."""
        return mixed(self.segment.seed, self.steps)

    def augmented(self, batch: Batch) -> tuple[Tensor, ...]:
        """The batch's inputs as floats, pictures augmented."""
        if isinstance(self.inputs, Lower):
            turn = mirrored_in(batch.epoch, batch.rows) if self.recipe.flip else None
            return self.inputs.gather(batch.rows, turn)
        if self.augment is None:
            return self.as_floats(batch.inputs)
        rng = generator(self.segment.seed, self.steps, 1)
        strength = self.recipe.strength_in(batch.epoch)
        drawn = replace(self.augment, strength=strength)(batch.inputs[0], rng, batch.epoch, batch.rows)
        pair = self.pairs(batch)
        if pair is not None:
            drawn = mixed_pairs(drawn, pair.partner, pair.share, pair.rng, cut=pair.cut)
        return self.as_floats((self._sized(drawn),))

    def pairs(self, batch: Batch) -> Pairs | None:
        """How the pictures of the batch are mixed in pairs: from strength 2 on, every other batch."""
        if not isinstance(self.inputs, Pictures) or self.recipe.strength_in(batch.epoch) < 2:
            return None
        rng = generator(self.segment.seed, self.steps, 2)
        kind, share = int(torch.randint(0, 4, (), generator=rng)), float(torch.rand((), generator=rng))
        partner = torch.randperm(len(batch), generator=rng)
        if kind > 1:
            return None
        kept = cut_share(share, self.recipe.resolution) if kind == 0 else share
        return Pairs(partner=partner, share=kept, rng=rng, cut=kind == 0)

    def _sized(self, pictures: Tensor) -> Tensor:
        """The pictures at the side of the trunk, or whole in a cooldown."""
        side = round(self.recipe.trunk_side * self.recipe.resolution)
        if self.plan.cooldown or side >= self.recipe.resolution:
            return pictures
        return nn.functional.interpolate(pictures.float(), size=(side, side), mode="bilinear", antialias=True)

    def viewed(self, batch: Batch, view: str) -> tuple[Tensor, ...]:
        """The batch's inputs as a test-time view shows them, as floats."""
        if isinstance(self.inputs, Lower):
            return self.inputs.gather(batch.rows, torch.full(batch.rows.shape, view == "mirror"))
        inputs = self.as_floats(batch.inputs)
        return (inputs[0].flip(-1),) if view == "mirror" else inputs

    def forward(self, network: Any, inputs: tuple[Tensor, ...]) -> Tensor:
        """Logits of inputs as `augmented` and `viewed` give them."""
        logits: Tensor = network.upper(*inputs) if isinstance(self.inputs, Lower) else network(*inputs)
        return logits

    def as_floats(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """uint8 pictures as floats 0..255 in channels_last; everything else as it is."""
        return tuple(
            x.to(torch.float32, memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs
        )

    @contextlib.contextmanager
    def precision(self) -> Iterator[None]:
        """bfloat16 autocast where the device gains from it, float32 elsewhere."""
        if not self.device.bf16:
            yield
            return
        with torch.autocast(self.device.kind, dtype=torch.bfloat16):
            yield

    def advance(self) -> None:
        """A step was taken: move the position and take the weights into the average."""
        self.steps += 1
        since = self.steps - (self.plan.first if self.plan.cooldown else 0)
        self.average.update(self.network, since)

    def replan(self, reachable_rows: float) -> None:
        """Fit the end to the `reachable_rows` that the cap still allows.

        A fresh trunk whose rung cannot fit is refused after its first timed steps. A cooldown is made
        shorter: its rate then falls faster, and it still ends at zero.
        """
        plan, steps_left = self.plan, max(0, int(reachable_rows // self.recipe.batch))
        if self.steps - plan.first == 3 and plan.first == 0 and not plan.cooldown:
            self.refused = plan.last - self.steps > steps_left * TOLERANCE + 1
        if plan.cooldown:
            plan.last = max(self.steps, min(plan.wanted, self.steps + steps_left))
        elif steps_left < 1:
            plan.last = self.steps

    def tensors(self) -> dict[str, np.ndarray]:
        """The checkpoint's arrays: averaged weights, and for a trunk also weights and optimizer state."""
        kept = {checkpoint.AVERAGED + k: v for k, v in self.average.network.state_dict().items()}
        if not self.plan.cooldown:
            kept |= {f"network.{k}": v for k, v in self.network.state_dict().items()}
            kept |= {f"optimizer.{k}": v for k, v in optimizer_tensors(self.optimizers, self.network).items()}
        return {k: v.detach().cpu().contiguous().numpy() for k, v in kept.items()}


def start(
    segment: Segment,
    prepared: Prepared,
    folder: Path,
    parents: Mapping[str, Outcome],
    *,
    halvings: int = 0,
) -> Training:
    """A training at the segment's beginning: fresh, or resumed from the trunk among its parents."""
    device = devices.pick()
    task, view = prepared.task, prepared.views[segment.view]
    values = np.asarray(prepared.targets[task.target.name])
    recipe = from_config(
        segment.config, task, rows=len(view.rows), resolution=resolution(segment.config, task)
    ).halved(halvings)
    inputs, meta = _inputs(segment, prepared, view, recipe, device)
    order = _order(segment, task.target, values, np.asarray(view.rows, np.int64), recipe)
    aim = objective(task.target, values, order.rows, view.weights, recipe, device.torch)
    devices.seed(segment.seed)
    network = build(segment.config, task, meta.get("shape")).to(device.torch)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trunk = next((o for o in parents.values() if "checkpoint" in o.artefacts), None)
    if trunk is None:
        _prime(network, recipe, inputs, order, aim, prepared, segment.seed)
    _set_mode(network, recipe)
    training = Training(
        segment=segment,
        prepared=prepared,
        folder=folder,
        parents=parents,
        recipe=recipe,
        inputs=inputs,
        order=order,
        objective=aim,
        network=network,
        meta=_described(segment, recipe, aim, meta),
        device=device,
    )
    if trunk is not None:
        _resume(training, trunk)
    training.plan = _plan(segment, prepared, recipe, training.steps)
    return training


def _plan(segment: Segment, prepared: Prepared, recipe: Recipe, first: int) -> Plan:
    last = max(first, -(-segment.to_rows // recipe.batch))
    return Plan(
        first=first,
        last=last,
        wanted=last,
        cooldown=segment.kind == "cooldown",
        capped=segment.cap_s != float("inf"),
        evaluated_rows=len(recipe.views) * (len(prepared.parts.valid) + len(prepared.parts.calib)),
    )


def _order(segment: Segment, target: Target, values: np.ndarray, rows: np.ndarray, recipe: Recipe) -> Order:
    weights = None
    if recipe.balance == "sampling" and target.task != "regression":
        weights = class_weights(values[rows], target.outputs)[values[rows]]
    return Order(rows=rows, batch=recipe.batch, seed=segment.seed, weights=weights)


def restarted(training: Training, factor: float) -> Training:
    """The same segment from its beginning at `factor` times the rate."""
    fresh = start(training.segment, training.prepared, training.folder, training.parents)
    fresh.recipe = training.recipe
    fresh.rate_factor = training.rate_factor * factor
    fresh.micro_batch = training.micro_batch
    return fresh


def _inputs(
    segment: Segment, prepared: Prepared, view: View, recipe: Recipe, device: devices.Device
) -> tuple[Inputs, dict[str, Any]]:
    """The gatherer of a family's inputs, and how deployment must prepare the same."""
    store = prepared.store()
    if prepared.task.has_images:
        spec = next(i for i in prepared.task.inputs if i.kind == "image")
        squares = store.squares(spec.name, recipe.resolution, recipe.how)
        picture = {
            "longest": int(spec.spec["size"]),
            "channels": int(spec.spec["channels"]),
            "size": recipe.resolution,
            "how": recipe.how,
        }
        inputs = (
            Lower(squares, device.torch, store)
            if recipe.tune == "upper"
            else Pictures(squares, device.torch, store)
        )
        return inputs, {
            "inputs": [spec.name],
            "preprocessing": {"image": picture},
        }
    from gristmill.data import TableEncoder

    columns = store.gather(np.arange(store.rows))
    encoder = TableEncoder.fit(
        columns, prepared.task.inputs, view.rows, numbers=recipe.numbers, categories="codes"
    )
    numbers, codes = encoder.transform(columns)
    shape = {"numbers": int(numbers.shape[1]), "cardinalities": [int(c) for c in encoder.cardinalities]}
    return Columns(numbers, codes, device.torch), {
        "inputs": [i.name for i in prepared.task.inputs],
        "preprocessing": {"table": encoder.to_json()},
        "shape": shape,
    }


def _prime(
    network: nn.Module,
    recipe: Recipe,
    inputs: Inputs,
    order: Order,
    aim: Objective,
    prepared: Prepared,
    seed: int,
) -> None:
    """Fit what is learned from data before the first step: whitening, bins, the probe of a fine-tuning."""
    if isinstance(inputs, Lower):
        rows = order.epoch(0)[: recipe.probe_rows]
        probe.fit_upper_head(network, inputs, rows, aim, prepared.task, seed)
        return
    first = order.epoch(0)[: INIT_PICTURES if recipe.resolution else INIT_ROWS]
    shown = inputs(first)
    init: Any = network.init_from_batch
    init(*(x.float() if x.ndim == 4 else x for x in shown))
    if recipe.probe_rows and isinstance(inputs, Pictures):
        parts = prepared.parts
        every = None if parts.folds is None else np.union1d(parts.train, parts.valid)
        rows = order.epoch(0)[: recipe.probe_rows]
        probe.fit_head(network, inputs, rows, aim, prepared.task, seed, every)


def _set_mode(network: nn.Module, recipe: Recipe) -> None:
    network.train()
    if recipe.freeze_norm:
        for module in network.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.eval()


def _resume(training: Training, trunk: Outcome) -> None:
    artefact = trunk.artefacts["checkpoint"]
    path = checkpoint.locate(artefact, trunk.id, training.folder.parent)
    arrays, meta = checkpoint.load_tensors(path, artefact.sha256)
    tensors = {k: torch.from_numpy(v) for k, v in arrays.items()}
    if not any(k.startswith("network.") for k in tensors):
        raise DataError(
            "Only a trunk can be resumed; a cooldown is an end.",
            got=trunk.id,
            next_step="resume the trunk that it branched off",
        )
    training.network.load_state_dict(_under(tensors, "network."))
    training.average.network.load_state_dict(_under(tensors, checkpoint.AVERAGED))
    load_optimizer_tensors(training.optimizers, training.network, _under(tensors, "optimizer."))
    training.steps = int(meta["steps"])
    training.rate_factor = float(meta["rate_factor"])


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _described(segment: Segment, recipe: Recipe, aim: Objective, meta: Mapping[str, Any]) -> dict[str, Any]:
    scale = aim.scale
    return {
        "family": segment.config["family"],
        "config": dict(segment.config),
        "views": list(recipe.views),
        "target": {} if scale is None else {"mean": scale.mean, "std": scale.std},
        **meta,
    }


def _augment(recipe: Recipe) -> Any:
    """The augmentation of pictures, or None where there is nothing to do."""
    wanted = recipe.flip, recipe.shift, recipe.cutout, recipe.colour, recipe.strength, recipe.trunk_side < 1
    if not recipe.resolution or not any(wanted):
        return None
    from gristmill.data.augment import Augment

    return Augment(flip=recipe.flip, shift=recipe.shift, cutout=recipe.cutout, colour=recipe.colour)
