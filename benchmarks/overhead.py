"""What a run of the whole pipeline takes beyond the compute of its stages, stage by stage:

    python benchmarks/overhead.py > results/overhead-tiny.json
    python benchmarks/overhead.py --preset recommended,tiny --workers 2 samples.rows=5000

The pipeline runs in a store that is removed afterwards, on a machine with nothing else to do. One JSON object is
printed. A stage's compute is the time in optimizer steps, validation and k-means; or what actors and tasks spent on
rows, over the number of them; or, of what the driver does alone, all of it. What is outside of stages is the start and
the end of the program.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from davam.data.artifacts import Store, provenance
from davam.errors import DavamError
from davam.log import say
from davam.plan.cost import Build
from davam.plan.runs import finished, run_builds

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Prints one JSON object; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="recommended,tiny,brief")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    arguments = ["--preset", options.preset, "--workers", str(options.workers), *options.overrides]
    with tempfile.TemporaryDirectory() as folder:
        try:
            wall_s = run_full([*arguments, "--store", folder])
            ((name, _),) = finished(Store(folder))
            builds = {stage: build for stage, (_, build) in run_builds(Store(folder), name).items()}
        except DavamError as error:
            say(f"error: {error}", "error")
            return error.exit_code
        except subprocess.CalledProcessError as error:
            return int(error.returncode)
    print(json.dumps(figures(builds, wall_s, arguments), indent=1))
    return 0


def run_full(arguments: Sequence[str]) -> float:
    """Runs the pipeline, its talk and data on stderr; its seconds. Raises CalledProcessError when it fails."""
    began = time.monotonic()
    subprocess.run([sys.executable, "pipelines/full.py", *arguments], cwd=ROOT, stdout=sys.stderr, check=True)
    return time.monotonic() - began


def figures(builds: Mapping[str, Build], wall_s: float, arguments: Sequence[str]) -> dict[str, Any]:
    """Seconds of each stage, of which so many are compute and overhead; and of the whole command."""
    stages = {
        stage: {name: round(getattr(build, name), 2) for name in ("wall_s", "compute_s", "overhead_s")}
        for stage, build in builds.items()
    }
    compute_s = sum(stage["compute_s"] for stage in stages.values())
    said = provenance()
    return {
        "command": f"python pipelines/full.py {' '.join(arguments)}",
        "wall_s": round(wall_s, 2),
        "compute_s": round(compute_s, 2),
        "overhead_s": round(wall_s - compute_s, 2),
        "outside_of_stages_s": round(wall_s - sum(stage["wall_s"] for stage in stages.values()), 2),
        "stages": stages,
        "versions": said["versions"],
        "commit": said["git"],
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


if __name__ == "__main__":
    sys.exit(main())
