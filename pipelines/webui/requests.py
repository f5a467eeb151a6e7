"""HTTP requests of the page, from this machine only."""

import json
import re
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pipelines.webui.studio import Studio
from preprocessing.errors import UserError

# Largest upload in bytes.
_LARGEST = 8 * 2**30

# Largest settings message in bytes.
_LARGEST_MESSAGE = 2**16

# Host names of this machine for its browser, or for a tunnel to it.
_OWN_NAMES = ("127.0.0.1", "localhost", "::1")

_PAGE = Path(__file__).with_name("page.html")
_PIECE = 2**20


class Requests(BaseHTTPRequestHandler):
    """Serves one connection of a browser; the server's `studio` does the work.

    | request | answer |
    |---|---|
    | `GET /` | the page |
    | `PUT /files?name=NAME` with a file as its body | `{"file": TOKEN}` |
    | `POST /jobs` with `{"portrait": TOKEN, "driving": TOKEN, "settings": {}}` | `{"job": TOKEN}` |
    | `GET /jobs/TOKEN` | its progress |
    | `DELETE /jobs/TOKEN` | cancels it |
    | `GET /jobs/TOKEN/video`, `GET /jobs/TOKEN/sheet` | its results |

    Refused requests are answered with `{"error": LINE}`.
    """

    protocol_version = "HTTP/1.1"
    # Idle connections are closed after this many seconds.
    timeout = 60.0

    @property
    def _studio(self) -> Studio:
        return self.server.studio  # type: ignore[attr-defined]

    def do_GET(self) -> None:
        """Answer with the page, a job or a result."""
        if self._is_foreign():
            return
        path = urlsplit(self.path).path
        if path == "/":
            self._send(_PAGE.read_bytes(), "text/html; charset=utf-8")
        elif found := re.fullmatch(r"/jobs/(\w+)(?:/(video|sheet))?", path):
            job = self._studio.job(found[1])
            if job is None:
                self._refuse(HTTPStatus.NOT_FOUND, "there is no such job")
            elif found[2] is None:
                self._send_json(job.view())
            else:
                made = job.result
                file = made and (made.output if found[2] == "video" else made.contact_sheet)
                if file:
                    self._send_file(file, "video/mp4" if found[2] == "video" else "image/png")
                else:
                    self._refuse(HTTPStatus.NOT_FOUND, "nothing was made yet")
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")

    def do_PUT(self) -> None:
        """Store a file."""
        parts = urlsplit(self.path)
        length = self._accepted_length(parts.path, "/files", _LARGEST)
        if length is None:
            return
        name = parse_qs(parts.query).get("name", ["file"])[0]
        try:
            self._send_json({"file": self._studio.take_file(name, self.rfile, length)})
        except UserError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except OSError as error:
            line = f"{name} cannot be kept here: {error.strerror or error}"
            self._refuse(HTTPStatus.INSUFFICIENT_STORAGE, line)

    def do_POST(self) -> None:
        """Start a job."""
        length = self._accepted_length(self.path, "/jobs", _LARGEST_MESSAGE)
        if length is None:
            return
        try:
            wanted = json.loads(self.rfile.read(length))
            files = (str(wanted["portrait"]), str(wanted["driving"]))
            settings = dict(wanted.get("settings", {}))
        except (ValueError, KeyError, TypeError, AttributeError):
            self._refuse(HTTPStatus.BAD_REQUEST, "the request names no portrait and driving video")
            return
        try:
            self._send_json({"job": self._studio.start(*files, settings)})
        except UserError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))

    def do_DELETE(self) -> None:
        """Cancel a job."""
        if self._is_foreign():
            return
        found = re.fullmatch(r"/jobs/(\w+)", self.path)
        job = self._studio.job(found[1]) if found else None
        if job is None:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such job")
            return
        job.unwanted = True
        self._send_json(job.view())

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the terminal belongs to the user."""

    def _is_foreign(self) -> bool:
        """Refuse requests that another site sends through this machine's browser."""
        host = urlsplit(f"//{self.headers.get('Host', '')}")
        origin = self.headers.get("Origin")
        own = host.hostname in _OWN_NAMES
        if own and (origin is None or urlsplit(origin).netloc == host.netloc):
            return False
        self._refuse(HTTPStatus.FORBIDDEN, "this page serves this machine only")
        return True

    def _accepted_length(self, path: str, only: str, largest: int) -> int | None:
        """Return the content length, or None if the request was refused."""
        if self._is_foreign():
            return None
        if path != only:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")
            return None
        text = self.headers.get("Content-Length", "")
        if not text.isdigit():
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "the request has no length")
        elif int(text) > largest:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {largest} bytes")
        else:
            return int(text)
        return None

    def _refuse(self, status: HTTPStatus, line: str) -> None:
        # The rest of the request is unread, so the connection cannot be reused.
        self.close_connection = True
        self._send_json({"error": line}, status)

    def _send_json(self, content: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(json.dumps(content).encode(), "application/json", status)

    def _send(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._begin(status, kind, len(body))
        self.wfile.write(body)

    def _send_file(self, path: Path, kind: str) -> None:
        """Send a file, or the range that a player requests."""
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                first, last = 0, size - 1
                asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                part = asked is not None and int(asked[1]) < size
                if asked is not None and part:
                    first = int(asked[1])
                    last = min(int(asked[2] or last), last)
                status = HTTPStatus.PARTIAL_CONTENT if part else HTTPStatus.OK
                extra = {"Content-Range": f"bytes {first}-{last}/{size}"} if part else {}
                left = max(last - first + 1, 0)
                self._begin(status, kind, left, {"Accept-Ranges": "bytes", **extra})
                file.seek(first)
                while left and (piece := file.read(min(left, _PIECE))):
                    self.wfile.write(piece)
                    left -= len(piece)
        except FileNotFoundError:
            self._refuse(HTTPStatus.GONE, f"{path} is no longer there")

    def _begin(
        self, status: HTTPStatus, kind: str, length: int, extra: dict[str, str] | None = None
    ) -> None:
        headers = {
            "Content-Type": kind,
            "Content-Length": str(length),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Content-Security-Policy": "default-src 'self' blob: 'unsafe-inline'",
            **(extra or {}),
        }
        if self.close_connection:
            headers["Connection"] = "close"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
