"""A cluster that starts from a head without work grows for a job and shrinks after it, by Ray's own autoscaler, which
starts processes of this machine in the place of machines."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider
from ray.util import get_node_ip_address

from tests.head import begin, free_port, job, running
from tests.programs import SMALL, STAGES, actions

MOST_NODES = 2
COMMANDS = (
    *("initialization", "setup", "head_setup", "worker_setup"),
    *("head_start_ray", "worker_start_ray"),
)


def configuration(port: int) -> dict[str, object]:
    """Of a cluster whose head takes no work, and whose nodes of two CPUs go after half an idle minute."""
    return {
        "cluster_name": "fake",
        "max_workers": MOST_NODES,
        "idle_timeout_minutes": 0.5,
        "provider": {
            # By name, since Ray's wheel is without the defaults of the type `fake_multinode`.
            "type": "external",
            "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}",
            "gcs_address": f"{get_node_ip_address()}:{port}",
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        # Nodes are processes: there is nothing to be done on them.
        **{f"{each}_commands": [] for each in COMMANDS},
        **{"file_mounts": {}, "cluster_synced_files": [], "rsync_exclude": [], "rsync_filter": [], "auth": {}},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": MOST_NODES},
        },
    }


def until(holds: Callable[[], bool], what: str) -> None:
    """Waits for that."""
    deadline = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_demand_raises_the_cluster_and_idleness_lowers_it(tmp_path: Path) -> None:
    """Three CPUs are asked for, one of them for reading and writing: two nodes."""
    port, config, store = free_port(), tmp_path / "cluster.json", tmp_path / "store"
    config.write_text(json.dumps(configuration(port)))
    variables = {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    with running(port, "--num-cpus=0", f"--autoscaling-config={config}", **variables) as head:
        assert head.nodes() == 0
        begin(head, "grow", "--store", str(store), "--workers", "2", "--wait-for-nodes-s", "250", *SMALL)
        until(lambda: head.nodes() == MOST_NODES, "demand did not raise the cluster")
        while job(head, "grow")["status"] in ("PENDING", "RUNNING"):
            assert head.nodes() <= MOST_NODES
            time.sleep(1)
        log = job(head, "grow", "/logs")["logs"]
        assert job(head, "grow")["status"] == "SUCCEEDED", log
        assert "waiting for nodes: 0 of 3 CPUs" in log
        assert actions(log) == dict.fromkeys(STAGES, "build")
        until(lambda: head.nodes() == 0, "idleness did not lower it")
