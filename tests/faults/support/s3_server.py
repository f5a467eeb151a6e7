"""An S3-speaking server on loopback, which fails some of its calls if it is told to."""

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

BUCKET = "xnemo-test"


class _Flaky:
    """Answers every n-th call for an object with an error, before doing anything.

    `refuse` may answer any call with a status, a code and a message instead.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]], every: int) -> None:
        self._app, self._every, self.calls, self.failed = app, every, 0, 0
        self._lock = threading.Lock()
        self.refuse: Callable[[dict[str, Any]], tuple[str, str, str] | None] = lambda _: None

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            self.calls += 1
            fails = self._every and self.calls % self._every == 0
            self.failed += bool(fails)
        error = self.refuse(environ)
        if fails:
            error = ("503 Slow Down", "SlowDown", "reduce your request rate")
        if error is None:
            return self._app(environ, start)
        status, code, message = error
        start(status, [("Content-Type", "application/xml")])
        return [f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()]


def refuse_checksums(environ: dict[str, Any]) -> tuple[str, str, str] | None:
    """Refuse the headers that clients send since 2025, as stores that are not AWS do."""
    new = ("HTTP_X_AMZ_TRAILER", "HTTP_X_AMZ_SDK_CHECKSUM_ALGORITHM", "HTTP_X_AMZ_CHECKSUM")
    if not any(name.startswith(new) for name in environ):
        return None
    message = "A header you provided implies functionality that is not implemented"
    return "501 Not Implemented", "NotImplemented", message


def refuse_key(environ: dict[str, Any]) -> tuple[str, str, str] | None:
    """Refuse every call."""
    return "403 Forbidden", "InvalidAccessKeyId", "The key you provided does not exist."


def refuse_writes(environ: dict[str, Any]) -> tuple[str, str, str] | None:
    """Refuse calls that change something."""
    writes = environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE")
    return ("403 Forbidden", "AccessDenied", "Access Denied") if writes else None


@contextmanager
def s3_server(fail_every: int = 0) -> Iterator[tuple[dict[str, str], _Flaky]]:
    """Run a server with one bucket; yield the environment for its clients, and its counts.

    With `fail_every=5` one call in five fails. Clients try a call once more, where they would by
    themselves try four times: what they give up is left to this project's own patience.
    """
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log_request(self, *args: Any, **kwargs: Any) -> None:
            pass

    app = _Flaky(DomainDispatcherApplication(create_backend_app), 0)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    environment = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "2",
        "FSSPEC_S3": json.dumps({"config_kwargs": {"retries": {"max_attempts": 1}}}),
    }
    try:
        _make_bucket(environment)
        app._every = fail_every
        yield {**os.environ, **environment}, app
    finally:
        server.shutdown()
        thread.join()


def _make_bucket(environment: dict[str, str]) -> None:
    import boto3

    boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    ).create_bucket(Bucket=BUCKET)
