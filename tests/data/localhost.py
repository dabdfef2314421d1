"""A server on localhost for the tests of downloads."""

from __future__ import annotations

import http.server
import threading


class Server:
    """Serves `files` on localhost and misbehaves as told.

    Attributes:
        files: Path -> bytes.
        cut: Bytes after which the connection is closed, one entry for each answer.
        status: Answers instead of the file, one entry for each request.
        ranges: Whether parts are served.
        etag: Sent with every file.
        hold: Waited for after an answer, its connection open.
        headers: Of the requests so far.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: list[int | None] = []
        self.status: list[tuple[int, dict[str, str]]] = []
        self.ranges, self.length, self.shift = True, True, 0
        self.etag: str | None = '"one"'
        self.hold: threading.Event | None = None
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                outer.answer(self)

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        # A client that hangs up is part of the game
        self.http.handle_error = lambda request, client_address: None
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, h: http.server.BaseHTTPRequestHandler) -> None:
        self.headers.append({**dict(h.headers.items()), "path": h.path})
        if self.status:
            code, headers = self.status.pop(0)
            h.send_response(code)
            for k, v in {"Content-Length": "0", **headers}.items():
                h.send_header(k, v)
            h.end_headers()
            return
        body = self.files.get(h.path)
        if body is None:
            h.send_error(404, "Not Found")
            return
        start = 0
        span = h.headers.get("Range", "")
        if span and self.ranges and h.headers.get("If-Range", self.etag) == self.etag:
            start = int(span.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                h.send_error(416)
                return
            h.send_response(206)
            h.send_header("Content-Range", f"bytes {start + self.shift}-{len(body) - 1}/{len(body)}")
        else:
            h.send_response(200)
        if self.length:
            h.send_header("Content-Length", str(len(body) - start))
        if self.etag:
            h.send_header("ETag", self.etag)
        h.end_headers()
        stop = self.cut.pop(0) if self.cut else None
        h.wfile.write(body[start:] if stop is None else body[start : start + stop])
        if self.hold is not None:
            h.wfile.flush()
            self.hold.wait(20)
        h.close_connection = True

    def spans(self) -> list[str]:
        return [h.get("Range", "") for h in self.headers]
