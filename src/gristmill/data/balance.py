"""What the targets and cells say: rare classes, given parts that differ, empty cells, what is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from gristmill.data.findings import Finding, Severity, counted, finding, listed
from gristmill.data.source import Source

FEWEST_PER_CLASS = 20
"""Fewer training rows of a class than this are said aloud."""
_FEWEST_TO_COMPARE = 40
_IMBALANCE = 10
_SHIFT = 0.1
_RANK = {"test": 2, "valid": 1}


def part_rank(source: Source) -> np.ndarray:
    """int64 (N,): 2 for rows of a given test part, 1 of a given validation part, 0 for all others."""
    return np.array([_RANK.get(part, 0) for part in source.given.tolist()], dtype=np.int64)


def class_counts(source: Source, rows: np.ndarray) -> dict[str, int]:
    """Labelled rows of each class among `rows` (bool mask); empty for regression."""
    target = source.task.target
    if target.task == "regression":
        return {}
    codes = source.targets[target.name][rows & source.labelled]
    return dict(zip(target.labels, np.bincount(codes, minlength=len(target.labels)).tolist(), strict=True))


def classes(source: Source, usable: np.ndarray) -> list[Finding]:
    """Classes of which too little is left to learn from, and classes of very different sizes."""
    counts = class_counts(source, usable & (part_rank(source) == 0))
    found = []
    lost = [label for label, n in counts.items() if n < 2]
    if lost:
        message = f"Fewer than two usable training examples are left of {listed(lost)}."
        found.append(finding("class-lost", "error", message, lost, "Add examples, or take the class out."))
    rare = [label for label, n in counts.items() if 2 <= n < FEWEST_PER_CLASS]
    if rare:
        shown = listed([f"{label} ({counts[label]})" for label in rare])
        message = f"Fewer than {FEWEST_PER_CLASS} training examples of: {shown}."
        found.append(finding("rare-classes", "warning", message, rare, "Collect more of these first."))
    if counts and min(counts.values()) * _IMBALANCE < max(counts.values()):
        most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
        sizes = f'{counts[most]:,} of "{most}", {counts[least]:,} of "{least}"'
        message = f"Class sizes differ more than tenfold: {sizes}."
        advice = "Look at the score of each class, not only at the accuracy."
        found.append(finding("imbalance", "info", message, [most, least], advice))
    return found


def drift(source: Source, usable: np.ndarray) -> list[Finding]:
    """Given parts whose target is distributed otherwise than in training."""
    target, values = source.task.target, source.targets[source.task.target.name]
    known = usable & source.labelled
    train = values[known & (part_rank(source) == 0)]
    found = []
    for part, rank in _RANK.items():
        other = values[known & (part_rank(source) == rank)]
        if len(other) < _FEWEST_TO_COMPARE or len(train) < _FEWEST_TO_COMPARE:
            continue
        message = _shift(target.labels, train, other, part)
        if message:
            advice = "Ask which of the two is like real use: the scores of the parts will differ."
            found.append(finding("target-drift", "warning", message, [part], advice))
    return found


def _shift(labels: Sequence[str], train: np.ndarray, other: np.ndarray, part: str) -> str:
    if not labels:
        spread = float(train.std()) or 1.0
        distance = float(other.mean() - train.mean()) / spread
        return (
            f"The given {part} part has another mean target ({distance:+.1f} standard deviations)."
            if (abs(distance) > 0.5)
            else ""
        )
    shares = [np.bincount(v, minlength=len(labels)) / len(v) for v in (train, other)]
    if 0.5 * np.abs(shares[0] - shares[1]).sum() <= _SHIFT:
        return ""
    worst = int(np.abs(shares[0] - shares[1]).argmax())
    return (
        f'The given {part} part has another class balance: "{labels[worst]}" is {shares[1][worst]:.0%} there '
        f"and {shares[0][worst]:.0%} in training."
    )


def empty_cells(source: Source) -> list[Finding]:
    """Columns of a table with empty cells."""
    shares = {}
    for name, values in source.inputs.items():
        missing = (
            np.isnan(values) if values.dtype != object else np.array([v is None for v in values.tolist()])
        )
        if missing.any():
            shares[name] = float(missing.mean())
    if not shares:
        return []
    shown = listed([f"{name} ({share:.1%})" for name, share in sorted(shares.items(), key=lambda s: -s[1])])
    mostly = [name for name, share in shares.items() if share > 0.5]
    advice = "Nothing to do: missing cells are filled in and marked."
    if mostly:
        advice = f"Mostly empty columns seldom help; to leave them out: --ignore {','.join(mostly)}"
    severity: Severity = "warning" if mostly else "info"
    return [finding("missing-values", severity, f"Columns with empty cells: {shown}.", list(shares), advice)]


def left_out(source: Source) -> list[Finding]:
    """Columns and files that are not used, with the reasons that the reader gave."""
    if not source.ignored:
        return []
    reasons = ", ".join(
        f"{n:,} x {reason}" for reason, n in Counter(why for _, why in source.ignored).most_common(6)
    )
    message = (
        f"{counted(len(source.ignored), 'column or file is', 'columns or files are')} left out: {reasons}."
    )
    return [
        finding(
            "left-out", "info", message, [name for name, _ in source.ignored], "Check that none is missed."
        )
    ]
