"""Serves the page until a signal ends it."""

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
    """The page's server; a browser that leaves in the middle is nothing to report."""

    daemon_threads = True
    # Two programs on one port would share its visitors.
    allow_reuse_port = False

    def __init__(self, port: int, studio: Studio) -> None:
        super().__init__((_HOST, port), Requests)
        self.studio = studio

    def handle_error(self, request: object, client_address: object) -> None:
        """Pass over connections that were cut; tell the rest as ever."""
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
        bundle: folder of a trained model.
        options: of every animation; the page changes a few.
        out: folder of the results.
        port: 0 for any that is free.
        on_ready: told the page's address once it answers.
        until: ends the server too, as a signal does.

    Raises:
        UserError: the bundle or the options do not suit, nothing can be written in `out`, or the
            port is taken.
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
