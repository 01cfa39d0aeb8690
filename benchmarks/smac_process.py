"""SMAC3 behind pipes: JSON lines in, JSON lines out (see `rivals.SmacSearch`). Needs only `smac`."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from typing import Any


def main() -> None:
    """Answer asks and take in tells until the input ends."""
    from smac.runhistory.dataclasses import TrialValue

    with tempfile.TemporaryDirectory() as folder:
        smac, open_trials, count = _facade(json.loads(sys.stdin.readline()), folder), {}, 0
        for line in sys.stdin:
            message = json.loads(line)
            if "ask" in message:
                count += 1
                trial = open_trials[count] = smac.ask()
                config = {k: v.item() if hasattr(v, "item") else v for k, v in dict(trial.config).items()}
                print(json.dumps({"id": count, "config": config, "budget": float(trial.budget)}), flush=True)
            else:
                smac.tell(open_trials.pop(message["id"]), TrialValue(cost=message["cost"]))


def _facade(start: dict[str, Any], folder: str) -> Any:
    from ConfigSpace import ConfigurationSpace, Float, Integer
    from smac import MultiFidelityFacade, Scenario

    space = ConfigurationSpace(seed=start["seed"])
    for name, kind, low, high, log in start["domains"]:
        space.add((Float if kind == "Float" else Integer)(name, (low, high), log=log))
    scenario = Scenario(
        space,
        deterministic=True,
        n_trials=100_000,
        min_budget=start["low"],
        max_budget=start["high"],
        seed=start["seed"],
        output_directory=folder,
    )
    return MultiFidelityFacade(
        scenario,
        lambda config, seed, budget: 0.0,
        intensifier=MultiFidelityFacade.get_intensifier(scenario, eta=start["eta"]),
        logging_level=logging.CRITICAL,
        overwrite=True,
    )


if __name__ == "__main__":
    main()
