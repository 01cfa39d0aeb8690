"""A Ray cluster of several nodes on this machine, for tests: `python ray_nodes.py FOLDER`.

Prints its address as a JSON line; then obeys lines `add CPUS GPUS` and `kill` (the newest node, by
SIGKILL), each answered by a line, until its input ends. Listens on the loopback interface only.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main(folder: str) -> int:
    (Path(folder) / "ray").mkdir(parents=True)
    os.environ["RAY_TMPDIR"] = folder
    from ray.cluster_utils import Cluster

    impatient = {  # about a second until a node that says nothing is taken for dead
        "health_check_initial_delay_ms": 500,
        "health_check_period_ms": 500,
        "health_check_failure_threshold": 3,
    }
    head = {"num_cpus": 1, "include_dashboard": False, "no_monitor": True, "_system_config": impatient}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1)]
    print(json.dumps({"address": cluster.address}), flush=True)
    for line in sys.stdin:
        command, *numbers = line.split()
        if command == "add":
            nodes.append(cluster.add_node(num_cpus=int(numbers[0]), num_gpus=int(numbers[1])))
        else:
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        print(json.dumps({"done": command}), flush=True)
    cluster.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
