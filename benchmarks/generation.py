"""A large corpus beside the plain sampler: rows a second, and the memory of the driver and of the workers (Linux).

    python benchmarks/generation.py --model my_store/runs/... --rows 1000000 --workers 2

So many plain processes as workers sample on one thread each, for a while before the corpus is made and after it; the
corpus is made by pipelines/generate.py with all its checks, on a machine with nothing else to do. One JSON object is
printed: wall-clock rates of all processes together, their ratio, and the highest proportional set size of the driver
and of a worker in each quarter of the time.
"""

import argparse
import itertools
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from memory import processes_mib

from davam import api

ROOT = Path(__file__).resolve().parents[1]
INTERVAL_S = 5.0
QUARTERS = 4
WORKER = "MapWorker"  # in the command line of a worker of Ray Data's pool

Sizes = dict[str, float]


def main() -> int:
    """Prints the figures; the exit code of the corpus's program."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", required=True)
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--plain-s", type=float, default=60.0, help="seconds of plain sampling, before and after")
    given = options.parse_args()
    before = plain_rows_per_s(given.model, given.workers, given.plain_s)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "pipelines/generate.py", "--model", given.model, "--store", f"{folder}/corpus"]
        command += ["--rows", str(given.rows), "--workers", str(given.workers)]
        exit_code, wall_s, sizes = watched(command)
    after = plain_rows_per_s(given.model, given.workers, given.plain_s)
    plain, corpus = statistics.mean([before, after]), given.rows / wall_s
    print(
        json.dumps(
            {
                "rows": given.rows,
                "workers": given.workers,
                "wall_s": round(wall_s, 1),
                "corpus_rows_per_s": round(corpus, 1),
                "plain_rows_per_s": [round(before, 1), round(after, 1)],
                "ratio": round(corpus / plain, 3),
                "driver_mib_by_quarter": by_quarter(sizes, "driver"),
                "worker_mib_by_quarter": by_quarter(sizes, "worker"),
                "all_mib_by_quarter": by_quarter(sizes, "all"),
            }
        )
    )
    return exit_code


def plain_rows_per_s(model_uri: str, processes: int, seconds: float) -> float:
    """Rows a second of so many processes side by side, without the time that they take to start."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        return sum(pool.starmap(_sample_for, [(model_uri, index, seconds) for index in range(processes)], chunksize=1))


def _sample_for(model_uri: str, index: int, seconds: float) -> float:
    """Rows a second of this process, which samples for so many seconds."""
    torch.set_num_threads(1)
    model = api.load(model_uri)
    model.sample_ids(range(api.SAMPLE_ROWS), seed=index)
    began = time.monotonic()
    for block in itertools.count():
        elapsed_s = time.monotonic() - began
        if elapsed_s > seconds:
            return block * api.SAMPLE_ROWS / elapsed_s
        model.sample_ids(range(block * api.SAMPLE_ROWS, (block + 1) * api.SAMPLE_ROWS), seed=index)
    raise AssertionError


def watched(command: list[str]) -> tuple[int, float, list[Sizes]]:
    """Runs the command, its output on stderr: its exit code, its seconds, and what its processes held meanwhile."""
    began, sizes = time.monotonic(), list[Sizes]()
    process = subprocess.Popen(command, cwd=ROOT, stdout=sys.stderr)
    while True:
        try:
            exit_code = process.wait(INTERVAL_S)
            return exit_code, time.monotonic() - began, sizes
        except subprocess.TimeoutExpired:
            sizes.append(sizes_mib(psutil.Process(process.pid)))


def sizes_mib(driver: psutil.Process) -> Sizes:
    """Proportional set sizes: the driver's, the largest worker's, and of all processes together."""
    held = processes_mib(driver)
    sizes = [size for _, size in held]
    workers = [size for kind, size in held if WORKER in kind]
    return {"driver": next(iter(sizes), 0.0), "worker": max(workers, default=0.0), "all": sum(sizes)}


def by_quarter(sizes: list[Sizes], name: str) -> list[int]:
    """The highest size in each quarter of the time."""
    parts = np.array_split([row[name] for row in sizes], QUARTERS)
    return [round(part.max()) for part in parts if len(part)]


if __name__ == "__main__":
    sys.exit(main())
