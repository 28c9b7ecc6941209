"""Object stores for tests: what the environment says of one, and a fake one over HTTP."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from threading import Event, Thread
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug import Request
from werkzeug.serving import make_server

EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"


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
def fake_server(expired: Event | None = None) -> Iterator[str]:
    """The endpoint of a fake server that keeps everything in memory and checks no signature. As long as `expired` is
    set, it answers everything as S3 does to temporary credentials whose time is over."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # not a line for every request
    backend = DomainDispatcherApplication(create_backend_app)

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if expired is None or not expired.is_set():
            return backend(environ, start_response)
        Request(environ).get_data()
        start_response("400 Bad Request", [("Content-Type", "application/xml"), ("Content-Length", str(len(EXPIRED)))])
        return [EXPIRED]

    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=MotoRequestHandler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
