"""The contract of a metric: inherit `MetricContract`, set `metric`, and pytest runs these tests.

class TestMyMetric(MetricContract):
    metric = my_metric          # a gristmill.evaluation.metrics.Metric
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gristmill.evaluation.metrics import Metric, softmax

Array = npt.NDArray[Any]


class MetricContract:
    """What every metric must keep. Made-up rows of four classes (or of a number) with seeded noise."""

    metric: Metric
    rows = 400
    labels = 4

    def example(self, *, noise: float = 1.0, seed: int = 0, rows: int | None = None) -> tuple[Array, Array]:
        """True values and outputs that fit the metric's task; `noise` makes the outputs worse."""
        rng = np.random.default_rng(seed)
        n = rows or self.rows
        if "regression" in self.metric.kinds:
            number = rng.normal(50.0, 10.0, n)
            return number, number + noise * rng.normal(0.0, 5.0, n)
        y = rng.choice(self.labels, size=n, p=np.arange(1, self.labels + 1) / 10.0)
        return y, softmax(3.0 * np.eye(self.labels)[y] + noise * rng.normal(0.0, 2.0, (n, self.labels)))

    def perfect(self) -> tuple[Array, Array]:
        """True values and the outputs that no model can beat."""
        y, outputs = self.example()
        return (y, y.copy()) if outputs.ndim == 1 else (y, np.eye(self.labels)[y])

    def test_the_score_is_a_number_in_range(self) -> None:
        for seed in range(5):
            value = self.metric.compute(*self.example(noise=3.0, seed=seed))
            assert isinstance(value, float)
            assert self.metric.low <= value <= self.metric.high

    def test_perfect_outputs_get_the_best_score(self) -> None:
        assert abs(self.metric.compute(*self.perfect()) - self.metric.perfect) < 1e-6

    def test_worse_outputs_score_worse_in_its_direction(self) -> None:
        y, outputs = self.example(noise=0.2)
        best = self.metric.direction * self.metric.compute(y, outputs)
        shuffled = np.random.default_rng(1).permutation(len(y))
        assert best > self.metric.direction * self.metric.compute(y, outputs[shuffled])

    def test_the_order_of_rows_does_not_matter(self) -> None:
        y, outputs = self.example()
        order = np.random.default_rng(2).permutation(len(y))
        assert abs(self.metric.compute(y, outputs) - self.metric.compute(y[order], outputs[order])) < 1e-9

    def test_arguments_are_not_changed(self) -> None:
        y, outputs = self.example()
        kept = y.copy(), outputs.copy()
        self.metric.compute(y, outputs)
        self.metric.influence(y, outputs)
        assert np.array_equal(y, kept[0])
        assert np.array_equal(outputs, kept[1])

    def test_few_rows_and_missing_classes_are_scored(self) -> None:
        for rows in (1, 2, 3):
            y, outputs = self.example(rows=rows)
            assert np.isfinite(self.metric.compute(y, outputs))
            assert np.isfinite(self.metric.influence(y, outputs)).all()

    def test_influences_sum_to_zero(self) -> None:
        influence = self.metric.influence(*self.example())
        assert influence.shape == (self.rows,)
        assert abs(float(influence.mean())) < 1e-9

    def test_influence_foretells_what_repeating_rows_does(self) -> None:
        y, outputs = self.example(noise=2.0)
        half = np.random.default_rng(3).random(len(y)) < 0.05
        again = np.concatenate([np.arange(len(y)), np.flatnonzero(half)])
        change = self.metric.compute(y[again], outputs[again]) - self.metric.compute(y, outputs)
        told = float(self.metric.influence(y, outputs)[half].sum()) / len(again)
        assert abs(change - told) < 0.15 * abs(change) + 2e-3 * max(1.0, abs(self.metric.compute(y, outputs)))
