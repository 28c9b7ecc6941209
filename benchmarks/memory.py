"""The memory of a command and all that it starts, Ray's processes included (Linux):

python benchmarks/memory.py python pipelines/full.py --preset recommended,tiny,brief --workers 2

Proportional set sizes (a page shared by n processes counts 1/n in each) are summed once a second. One JSON object is
printed when the command has ended: the peak of the sum, and of each kind of process, in MiB.
"""

import json
import subprocess
import sys

import psutil

INTERVAL_S = 1.0
MIB = 1 << 20
KINDS_SHOWN = 8


def main() -> int:
    """Runs the command, its output on stderr; the command's exit code."""
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    command = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
    peak_mib, peak_mib_by_kind = 0.0, dict[str, float]()
    while True:
        sizes_mib = list(processes_mib(psutil.Process(command.pid)))
        peak_mib = max(peak_mib, sum(size for _, size in sizes_mib))
        for kind, size in sizes_mib:
            peak_mib_by_kind[kind] = max(size, peak_mib_by_kind.get(kind, 0))
        try:
            exit_code = command.wait(INTERVAL_S)
            break
        except subprocess.TimeoutExpired:
            continue
    largest = sorted(peak_mib_by_kind.items(), key=lambda item: -item[1])[:KINDS_SHOWN]
    print(json.dumps({"peak_mib": round(peak_mib), "largest_process_mib": {k: round(v) for k, v in largest}}))
    return exit_code


def processes_mib(root: psutil.Process) -> list[tuple[str, float]]:
    """(what it is, its size) of the process and its descendants; those that end meanwhile are left out."""
    sizes = []
    for process in [root, *root.children(recursive=True)]:
        try:
            kind = " ".join(process.cmdline()).split("(")[0].split(" ")[0] or process.name()
            sizes.append((kind.rsplit("/", 1)[-1], process.memory_full_info().pss / MIB))
        except psutil.Error:
            continue
    return sizes


if __name__ == "__main__":
    sys.exit(main())
