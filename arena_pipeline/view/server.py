"""The server behind arena_review: this computer alone, a random token in every address, and nothing but the pages of known cases.

GET  /TOKEN/                    the list of all cases
GET  /TOKEN/CASE/               the page of one
GET  /TOKEN/CASE/ct             its volumes, as gzipped NIfTI: ct, labels, disagreement
POST /TOKEN/CASE/labels         the corrected labels; structure=NAME ... and changed=true or false in the query string
"""

from __future__ import annotations

import json
import secrets
import tempfile
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote

from arena_pipeline.errors import ArenaError, DatasetError
from arena_pipeline.view.reviewing import Review
from arena_pipeline.view.writing import PageContent

ADDRESS = "127.0.0.1"
TOKEN_BYTES = 32
VOLUMES = ("ct", "labels", "disagreement")
SPARE_BYTES = 2**20  # what gzip may add to voxels that it can't make smaller
BLOCK_BYTES = 2**20
LONGEST_NUMBER = 12  # digits; Python refuses to read thousands of them
SECONDS_OF_SILENCE = 60
HEADERS = {
    "Cache-Control": "no-store",  # patients' images stay out of the browser's cache
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class ReviewServer(ThreadingHTTPServer):
    """Listens at once; `address` is what a person opens. One case's volumes are kept, those of the page opened last."""

    daemon_threads = True

    def __init__(self, review: Review, port: int = 0) -> None:
        """`port`: 0 for any that is free.

        Raises:
            DatasetError: the port is taken, or there is none of this number.
        """
        try:
            super().__init__((ADDRESS, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "ports have numbers from 0 to 65535"
            raise DatasetError(f"port {port} can't be used ({reason})", advice="choose another one, or leave --port out") from None
        self.review, self.token, self.lock = review, secrets.token_urlsafe(TOKEN_BYTES), threading.Lock()
        self.opened: tuple[str, PageContent] | None = None

    @property
    def host(self) -> str:
        return f"{ADDRESS}:{self.server_address[1]}"

    @property
    def address(self) -> str:
        return f"http://{self.host}/{self.token}/"

    def volumes(self, case: str) -> Mapping[str, bytes]:
        """Of the page that is open; read anew where another case was opened since."""
        if self.opened is None or self.opened[0] != case:
            self.opened = (case, self.review.show(case))
        return self.opened[1].volumes


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    timeout = SECONDS_OF_SILENCE
    server_version, sys_version = "arena_review", ""

    def do_GET(self) -> None:
        """Answers what a browser asks for."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Takes a correction."""
        self._answer(self._post)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the line of a request has the token."""

    def _answer(self, work: Callable[[list[str]], None]) -> None:
        """Refuses requests that do not come from a page of this server, before anything is read. One request at a time is worked on."""
        places = [unquote(place) for place in self.path.partition("?")[0].split("/")[1:]]
        own_host = self.headers.get("Host") == self.server.host  # another name that leads here is a page from elsewhere
        own_origin = self.headers.get("Origin", f"http://{self.server.host}") == f"http://{self.server.host}"
        token = places[0].encode() if places else b""
        if not (own_host and own_origin and secrets.compare_digest(token, self.server.token.encode())):
            self._send(HTTPStatus.FORBIDDEN, b"", "text/plain")
            return
        try:
            with self.server.lock:
                work(places[1:])
        except ArenaError as error:
            self._send_json(HTTPStatus.BAD_REQUEST, {"message": str(error)})
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _get(self, places: list[str]) -> None:
        review = self.server.review
        if places == [""]:
            self._send(HTTPStatus.OK, review.index().encode(), "text/html; charset=utf-8")
        elif len(places) == 2 and places[0] in review.cases() and places[1] == "":
            self.server.opened = (places[0], review.show(places[0]))
            self._send(HTTPStatus.OK, review.page(*self.server.opened).encode(), "text/html; charset=utf-8")
        elif len(places) == 2 and places[0] in review.cases() and places[1] in VOLUMES and places[1] in self.server.volumes(places[0]):
            self._send(HTTPStatus.OK, self.server.volumes(places[0])[places[1]], "application/octet-stream")
        else:
            self._send(HTTPStatus.NOT_FOUND, b"", "text/plain")

    def _post(self, places: list[str]) -> None:
        voxels = self.server.review.cases().get(places[0]) if len(places) == 2 and places[1] == "labels" else None
        if voxels is None:
            self._send(HTTPStatus.NOT_FOUND, b"", "text/plain")
            return
        length, kind = self.headers.get("Content-Length", ""), self.headers.get("Content-Type")
        bounded = length.isdecimal() and len(length) < LONGEST_NUMBER and int(length) <= voxels + SPARE_BYTES
        if not bounded or kind != "application/octet-stream":
            self.close_connection = True  # what comes is not read
            self._send(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, b"", "text/plain")
            return
        question = parse_qs(self.path.partition("?")[2])
        with tempfile.NamedTemporaryFile(suffix=".nii.gz") as upload:
            left = int(length)
            while left:
                block = self.rfile.read(min(BLOCK_BYTES, left))
                if not block:
                    raise ConnectionError("the browser stopped sending")
                upload.write(block)
                left -= len(block)
            upload.flush()
            saved = self.server.review.save(places[0], Path(upload.name), question.get("structure", []), question.get("changed") == ["true"])
        self.server.opened = None
        self._send_json(HTTPStatus.OK, {"message": saved.message, "command": saved.command})

    def _send_json(self, status: HTTPStatus, content: Mapping[str, str]) -> None:
        self._send(status, json.dumps(content).encode(), "application/json")

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
