"""`pipelines/full.py`, whose trainings write down what they do, as they do it:

<store>/steps/<training>.txt     the number of each step, from 0, and `saved` once a checkpoint was handed to Ray
"""

import sys
from pathlib import Path
from typing import Any

import cluster.train
from pipelines.full import full, plan
from pipelines.stage import program


def traced_worker(settings: dict[str, Any]) -> None:
    """The worker, of which the first one writes."""
    from unittest.mock import patch

    import ray.train

    from cluster.train import train_worker
    from davam.train import loop
    from davam.train.step import optimizer_step

    if ray.train.get_context().get_world_rank() > 0:
        train_worker(settings)
        return
    task, report = settings["task"], ray.train.report
    path = Path(task.execution.store) / "steps" / f"{task.name}.txt"
    path.parent.mkdir(exist_ok=True)
    with path.open("a", buffering=1) as trace:

        def traced_step(job: Any, optimizer: Any, batch: Any, rows: Any, clock: Any, *rest: Any) -> Any:
            trace.write(f"{clock.global_step}\n")
            return optimizer_step(job, optimizer, batch, rows, clock, *rest)

        def traced_report(*given: Any, **named: Any) -> None:
            report(*given, **named)
            trace.write("saved\n")

        with patch.object(loop, "optimizer_step", traced_step), patch.object(ray.train, "report", traced_report):
            train_worker(settings)


if __name__ == "__main__":
    cluster.train.train_worker = traced_worker
    sys.exit(program("full", plan, full))
