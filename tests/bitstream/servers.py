"""A web server of one folder that can be told to fail."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Site:
    """What a server does.

    Attributes:
        root: the folder.
        url: of the folder.
        ranges: whether it knows ``Range``; otherwise it always begins at the start.
        cuts: path -> the byte before which the connection is cut, and how often.
        stalls: whether a cut leaves the connection open, silent, until the server ends.
        errors: path -> HTTP status, and how often.
        asked: path and first byte of every request.
    """

    root: Path
    url: str = ""
    ranges: bool = True
    cuts: dict[str, tuple[int, int]] = field(default_factory=dict)
    stalls: bool = False
    ended: threading.Event = field(default_factory=threading.Event)
    errors: dict[str, tuple[int, int]] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)

    def take(self, plan: dict[str, tuple[int, int]], path: str) -> int | None:
        """Return what is planned for ``path``, once less from now on."""
        value, times = plan.get(path, (0, 0))
        if not times:
            return None
        plan[path] = (value, times - 1)
        return value


class Handler(BaseHTTPRequestHandler):
    def __init__(self, site: Site, *args: object) -> None:
        self.site = site
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted and self.site.ranges else 0
        self.site.asked.append((path, start))
        status = self.site.take(self.site.errors, path)
        file = self.site.root / path
        if status is None and not file.is_file():
            status = 404
        if status is not None:
            self.send_error(status)
            return
        data = file.read_bytes()
        stop = min(int(wanted[2]) + 1, len(data)) if wanted and self.site.ranges else len(data)
        if wanted and self.site.ranges and start >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.end_headers()
            return
        self.send_response(206 if wanted and self.site.ranges else 200)
        if wanted and self.site.ranges:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        cut = self.site.take(self.site.cuts, path)
        self.wfile.write(data[start : stop if cut is None else max(start, min(stop, cut))])
        if cut is not None and self.site.stalls:
            self.wfile.flush()
            self.site.ended.wait()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serve(root: Path) -> Iterator[Site]:
    """Serve ``root`` on a free port of this machine."""
    site = Site(root)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, site)) as server:
        site.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield site
        finally:
            site.ended.set()
            server.shutdown()
            thread.join()
