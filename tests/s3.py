"""Object stores for tests: what the environment says of one, and a fake one over HTTP."""

import contextlib
import logging
from collections.abc import Iterator

from moto.server import ThreadedMotoServer


def environment(endpoint: str, key: str = "key", secret: str = "secret") -> dict[str, str]:
    """The variables by which every part of the project finds the server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }


@contextlib.contextmanager
def fake_server() -> Iterator[str]:
    """The endpoint of a fake server that keeps everything in memory and checks no signature."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # not a line for every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
