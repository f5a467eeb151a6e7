"""Serve the page until a signal."""

import os
import sys
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path

from pipelines.animate.job import AnimateOptions, load_animator
from pipelines.cluster.signals import stop_on_signals
from pipelines.webui.requests import Requests
from pipelines.webui.studio import Studio
from preprocessing.errors import UserError

_HOST = "127.0.0.1"


class _Server(ThreadingHTTPServer):
    """The page's server; dropped connections are not reported."""

    daemon_threads = True
    # Two programs must not share a port.
    allow_reuse_port = False

    def __init__(self, port: int, studio: Studio) -> None:
        super().__init__((_HOST, port), Requests)
        self.studio = studio

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore dropped connections; report other errors."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def serve(
    bundle: str | Path,
    options: AnimateOptions,
    out: Path,
    port: int,
    on_ready: Callable[[str], None],
    until: threading.Event | None = None,
) -> None:
    """Load a model and serve the page on this machine, to this machine, until a signal.

    Args:
        bundle: Folder of a trained model.
        options: Settings of every animation; the page changes a few.
        out: Folder of the results.
        port: 0 for any free one.
        on_ready: Receives the address of the page once it is served.
        until: Stops the server, as a signal does.

    Raises:
        UserError: The bundle or the options are unusable, `out` is not writable, or the port is in
            use.
    """
    parent = next(p for p in (out / "x").absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"nothing can be written in {parent}", "give another --output-dir")
    studio = Studio(load_animator(bundle, options), options, out)
    try:
        try:
            server = _Server(port, studio)
        except OSError as error:
            raise UserError(f"port {port}: {error.strerror}", "give another --port") from error
        with server, stop_on_signals() as stop:
            thread = threading.Thread(target=server.serve_forever, name="page", daemon=True)
            thread.start()
            on_ready(f"http://{_HOST}:{server.server_address[1]}/")
            while not stop.wait(0.2) and not (until and until.is_set()):
                pass
            server.shutdown()
            thread.join()
    finally:
        studio.close()
