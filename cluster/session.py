"""The one place that connects to Ray, and checks beforehand that a request can ever be met: Ray itself would wait."""

import logging
import os
import re
import socket
import time
import uuid
from collections.abc import Mapping
from urllib.parse import urlsplit

# Ray reads these when it is imported and when it starts processes, so they are set before the import.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
os.environ.setdefault("RAY_DATA_LOG_LEVEL", "CRITICAL")  # stages say themselves what they do
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

import grpc
import ray
from ray._private.gcs_utils import create_gcs_channel
from ray.exceptions import AuthenticationError

from davam.errors import ClusterError, ClusterFaultError
from davam.execution import Execution
from davam.log import SETTING, say

# No keys: all who hold the cluster's token can read what goes through Ray, and every node has its own environment.
WORKER_ENV = (
    SETTING,
    "OMP_NUM_THREADS",
    "RAY_DATA_DISABLE_PROGRESS_BARS",
    "RAY_TRAIN_ENABLE_PRINT_PATCH",
    "AWS_ENDPOINT_URL",
    "AWS_DEFAULT_REGION",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
)


FOUND_BY_RAY = ("auto", "local")  # addresses that name no machine
NODES_POLL_S = 1.0
GROWING = "; one that grows needs time for it, by --wait-for-nodes-s"


def connect(execution: Execution) -> None:
    """Connects to the cluster of RAY_ADDRESS, or starts Ray on this machine; does nothing when connected.

    Raises ClusterError when the address does not answer or takes nobody with this token or these versions, or when the
    workers asked for can never fit, and ClusterFaultError when Ray does not start.
    """
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        if address:
            _check_reachable(address)
            _check_token(address)
        elif execution.at_least.workers * execution.cpus_per_worker > (os.cpu_count() or 1):
            raise ClusterError(_too_many(execution.at_least, float(os.cpu_count() or 1), "this machine"))
        _start(execution, address)
    if execution.wait_for_nodes_s:
        _await_nodes(execution)
    check_resources(execution.at_least, most_resources())


def check_resources(execution: Execution, resources: Mapping[str, float]) -> None:
    """Raises ClusterError when the resources, at their most, can never hold the workers."""
    if execution.gpu and resources.get("GPU", 0) < execution.workers:
        raise ClusterError(
            f"--workers {execution.workers} --gpu needs {execution.workers} GPUs, but the cluster has "
            f"{resources.get('GPU', 0):g}; ask for fewer workers, or leave out --gpu{GROWING}"
        )
    if execution.workers * execution.cpus_per_worker > resources.get("CPU", 0):
        raise ClusterError(_too_many(execution, resources.get("CPU", 0), "the cluster") + GROWING)


def most_resources() -> dict[str, float]:
    """What the cluster has now or, where it scales, the most that its configuration allows."""
    from ray._private.state import state as global_state

    now = dict(ray.cluster_resources())
    most = global_state.get_max_resources_from_cluster_config() or {}
    return {name: max(now.get(name, 0), most.get(name, 0)) for name in now.keys() | most.keys()}


def actor_cpus(execution: Execution, resources: Mapping[str, float], spare: int = 1) -> float:
    """CPUs that each of a pool's actors takes: its share, less what leaves some for the tasks that read and write.
    Ray Data would otherwise wait for ever on a cluster that the actors fill."""
    return min(execution.cpus_per_worker, max(0.0, (resources.get("CPU", 0) - spare) / execution.workers))


def slots(execution: Execution) -> int:
    """How many runs of that size fit at once; each takes one CPU beside its workers, for reading and writing."""
    resources = ray.cluster_resources()
    fit = int(resources.get("CPU", 0) / (execution.workers * execution.cpus_per_worker + 1))
    if execution.gpu:
        fit = min(fit, int(resources.get("GPU", 0) / execution.workers))
    return max(1, fit)


def task_cpus() -> int:
    """How many tasks of one CPU run at once: on this machine no more than it has, on a cluster as many as that has."""
    cpus = int(ray.cluster_resources().get("CPU", 1))
    return max(1, cpus if os.environ.get("RAY_ADDRESS") else min(cpus, os.cpu_count() or 1))


def address() -> str:
    """Where other processes reach the cluster that this one is connected to."""
    return str(ray.get_runtime_context().gcs_address)


def unique_name(prefix: str) -> str:
    """A name for an actor of this run."""
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


def _too_many(execution: Execution, cpus: float, where: str) -> str:
    return (
        f"--workers {execution.workers} needs {execution.workers * execution.cpus_per_worker} CPUs, but {where} "
        f"has {cpus:g}; ask for fewer workers, or join a larger cluster by RAY_ADDRESS"
    )


def _await_nodes(execution: Execution) -> None:
    """Asks the autoscaler for what the workers need, and waits until it is there or the time is over. Ray does not say
    how large a cluster can become, so a cluster that starts from no workers has to be waited for."""
    from ray.autoscaler.sdk import request_resources

    bundle = {"CPU": execution.cpus_per_worker} | ({"GPU": 1} if execution.gpu else {})
    # One more for the tasks that read and write beside the workers.
    wanted = [bundle] * execution.workers + [{"CPU": 1}]
    total = {name: sum(each.get(name, 0) for each in wanted) for name in bundle}
    began_s, said = time.monotonic(), ""
    request_resources(bundles=wanted)
    while time.monotonic() - began_s < execution.wait_for_nodes_s:
        there = ray.cluster_resources()
        if all(there.get(name, 0) >= count for name, count in total.items()):
            break
        line = ", ".join(f"{there.get(name, 0):g} of {count} {name}s" for name, count in total.items())
        if line != said:
            say(f"waiting for nodes: {line}")
            said = line
        time.sleep(NODES_POLL_S)
    # From here on the work itself holds its nodes, and idle ones may go.
    request_resources(bundles=[])


def _start(execution: Execution, address: str | None) -> None:
    try:
        _init(execution, address)
    except Exception as error:  # Ray raises bare exceptions
        if str(error).startswith("Version mismatch"):
            raise _other_versions(str(error), address) from None
        where = f"the cluster at {address}" if address else "this machine"
        raise ClusterFaultError(
            f"Ray did not start on {where} ({(str(error).splitlines() or [type(error).__name__])[0]}); is the machine "
            "out of memory or overloaded? The same command goes on where this one stopped"
        ) from error


def _init(execution: Execution, address: str | None) -> None:
    env_vars = {name: os.environ[name] for name in WORKER_ENV if name in os.environ}
    if address:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env={"env_vars": env_vars})
        return
    # This machine goes with all that runs on it: nobody has to watch for its warning.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # One logical CPU more for every run of this size that fits: Ray Data's reads and writes would otherwise wait for
    # the actors.
    cpus = os.cpu_count() or 1
    ray.init(
        address="local",
        num_cpus=cpus + max(1, cpus // (execution.workers * execution.cpus_per_worker)),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": env_vars},
    )


def _check_reachable(address: str) -> None:
    """Ray would wait for minutes on a wrong address, so the port is tried first."""
    if address in FOUND_BY_RAY:
        return
    try:
        with socket.create_connection(_host_and_port(address), timeout=5):
            pass
    except OSError as error:
        raise ClusterError(
            f"RAY_ADDRESS={address} does not answer ({error}); start the cluster, or unset RAY_ADDRESS "
            "to run on this machine"
        ) from None


def _check_token(address: str) -> None:
    """Ray would try a wrong token for half a minute, and then say that there is no cluster, so it is tried first."""
    if address in FOUND_BY_RAY:
        return
    host, port = _host_and_port(address)
    with create_gcs_channel(f"{host}:{port}") as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")(b"", timeout=5)
            return
        except AuthenticationError as error:
            reason = error.message
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                return
            reason = error.details()
    raise ClusterError(
        f"the cluster at {address} takes only who has its token ({reason}); set RAY_AUTH_MODE=token, and give the "
        "token as RAY_AUTH_TOKEN or in ~/.ray/auth_token"
    )


def _other_versions(mismatch: str, address: str | None) -> ClusterError:
    (ray_there, ray_here), (python_there, python_here) = (
        re.findall(rf"{name}: (\S+)", mismatch) for name in ("Ray", "Python")
    )
    return ClusterError(
        f"the cluster at {address} has Ray {ray_there} and Python {python_there}, but this program runs with Ray "
        f"{ray_here} and Python {python_here}; give both the same image or versions, or submit it by `ray job submit`: "
        "jobs run with the cluster's own"
    )


def _host_and_port(address: str) -> tuple[str, int]:
    parts = urlsplit(address if "://" in address else f"//{address}")
    return parts.hostname or "", parts.port or 10001
