"""Connections to a cluster, and sizes of requests to it."""

import platform
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import ray
from ray._private.utils import check_version_info

from cluster import session
from cluster.session import actor_cpus, connect
from davam.errors import ClusterError, ClusterFaultError
from davam.execution import Execution


@pytest.mark.parametrize(
    ("workers", "cpus_per_worker", "cluster_cpus", "share"),
    [(2, 1, 3, 1), (2, 1, 2, 0.5), (1, 1, 1, 0), (2, 4, 9, 4), (2, 4, 8, 3.5), (2, 1, 64, 1)],
)
def test_actors_leave_a_cpu_for_reading_and_writing(
    workers: int, cpus_per_worker: int, cluster_cpus: float, share: float
) -> None:
    execution = Execution(workers=workers, cpus_per_worker=cpus_per_worker)
    assert actor_cpus(execution, {"CPU": cluster_cpus}) == share


def test_a_ray_that_does_not_start_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def overloaded(**settings: object) -> None:
        raise Exception("The current node timed out during startup.\nIn detail: ...")

    monkeypatch.setattr(ray, "init", overloaded)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(
        ClusterFaultError, match=r"Ray did not start on this machine \(The current node timed out during"
    ) as at:
        connect(Execution())
    assert "\n" not in str(at.value)


def test_a_cluster_of_other_versions_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own check, of what a cluster would have told it."""

    def other(**settings: object) -> None:
        check_version_info({"ray_version": "2.9.0", "python_version": "3.10.1"}, "node 10.0.0.7")

    monkeypatch.setattr(ray, "init", other)
    monkeypatch.setattr(session, "_check_reachable", lambda address: None)
    monkeypatch.setattr(session, "_check_token", lambda address: None)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ClusterError) as caught:
        connect(Execution())
    assert str(caught.value) == (
        "the cluster at 10.0.0.1:6379 has Ray 2.9.0 and Python 3.10.1, but this program runs with Ray "
        f"{ray.__version__} and Python {platform.python_version()}; give both the same image or versions, or submit it "
        "by `ray job submit`: jobs run with the cluster's own"
    )


class Gcs(grpc.GenericRpcHandler):
    """The service of a cluster's head that drivers ask first, which lets nobody in."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        def refuse(request: bytes, context: grpc.ServicerContext) -> bytes:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken: it is missing or incorrect")
            raise AssertionError

        return grpc.unary_unary_rpc_method_handler(refuse)


@pytest.fixture
def closed() -> Iterator[str]:
    """The address of a cluster that lets nobody in."""
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((Gcs(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_a_client_without_the_token_is_refused_at_once(closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", closed)
    with pytest.raises(ClusterError) as caught:
        connect(Execution())
    assert str(caught.value) == (
        f"the cluster at {closed} takes only who has its token (InvalidAuthToken: it is missing or incorrect); set "
        "RAY_AUTH_MODE=token, and give the token as RAY_AUTH_TOKEN or in ~/.ray/auth_token"
    )


def test_an_address_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(
            ClusterError, match=f"^RAY_ADDRESS={address} does not answer .*; start the cluster, or unset"
        ):
            connect(Execution())


GROWING = Execution(workers=4, gpu=True, cpus_per_worker=2, wait_for_nodes_s=5)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[dict[str, float]]]:
    """What an autoscaler was asked for."""
    bundles: list[list[dict[str, float]]] = []
    monkeypatch.setattr(
        "ray.autoscaler.sdk.request_resources", lambda bundles_=None, **given: bundles.append(given["bundles"])
    )
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(session, "NODES_POLL_S", 0.01)
    return bundles


def test_a_cluster_that_grows_is_waited_for(
    asked: list[list[dict[str, float]]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = iter([{}, {}, {"CPU": 4.0, "GPU": 2.0}, *([{"CPU": 9.0, "GPU": 4.0}] * 9)])
    monkeypatch.setattr(ray, "cluster_resources", lambda: next(sizes))
    monkeypatch.setattr(session, "most_resources", ray.cluster_resources)
    connect(GROWING)
    assert asked == [[{"CPU": 2, "GPU": 1}] * 4 + [{"CPU": 1}], []]
    assert capsys.readouterr().err.splitlines() == [
        "waiting for nodes: 0 of 9 CPUs, 0 of 4 GPUs",
        "waiting for nodes: 4 of 9 CPUs, 2 of 4 GPUs",
    ]


def test_a_cluster_that_does_not_grow_is_too_small(
    asked: list[list[dict[str, float]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(session, "most_resources", ray.cluster_resources)
    with pytest.raises(ClusterError, match=r"^--workers 4 --gpu needs 4 GPUs, .* has 0; .*--wait-for-nodes-s$"):
        connect(GROWING.model_copy(update={"wait_for_nodes_s": 0.05}))
    assert asked[-1] == []
