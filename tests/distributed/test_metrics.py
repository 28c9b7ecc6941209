"""Metrics as Prometheus reads them from a node of a real cluster."""

import time
import urllib.request

import ray

from cluster.progress import progress


def test_a_stage_is_seen_by_prometheus(connected: None) -> None:
    node = ray.nodes()[0]
    with progress("samples", 40, "rows") as counter:
        ray.get(counter.add.remote(done=30))
        deadline, text = time.monotonic() + 60, ""
        while "ray_davam_stage_done{" not in text and time.monotonic() < deadline:
            time.sleep(1)
            url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
            with urllib.request.urlopen(url, timeout=10) as answer:
                text = answer.read().decode()
    line = next(line for line in text.splitlines() if line.startswith("ray_davam_stage_done{"))
    assert 'stage="samples"' in line
    assert 'unit="rows"' in line
    assert line.endswith(" 30.0")
