"""URL -> bytes: the files of a set that lies elsewhere, and a cache for the small ones.

    URL                                 opened by
    http://HOST/SET, https://...        the standard library: it asks for the bytes it still needs
    pipe:COMMAND                        webdataset's gopen: what the command writes, from its start
    s3://BUCKET/SET, file:///SET, ...   fsspec, with each protocol's own settings and credentials

The file NAME of a set lies at URL/NAME; in ``pipe:aws s3 cp s3://bucket/set/{} -`` it takes the
place of ``{}``. A connection that breaks is taken up again at the byte where it broke, with
growing pauses; what trying again cannot mend (404, another length) ends at once.
"""

import hashlib
import http.client
import os
import re
import shlex
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from cdinfer.bitstream.atomic import write_atomically

#: Seconds to wait before each new try of a connection that broke; then it is given up.
DELAYS = (0.2, 0.5, 1.0, 2.0, 4.0)

#: Bytes after which a connection counts as sound again.
SOUND = 2**22

#: Seconds of silence after which a connection counts as broken.
TIMEOUT = 30.0

#: Most bytes asked of a library at once.
CHUNK = 2**20

#: HTTP errors that may pass: the server's own, "timeout" and "too many requests".
_PASSING = re.compile("5..|408|429")


class RemoteError(ValueError):
    """What trying again cannot mend; one line."""


def is_url(path: str) -> bool:
    """Tell whether ``path`` is to be opened by this module.

    Example:
        >>> is_url("s3://bucket/set"), is_url("pipe:cat set/{}"), is_url("data/set")
        (True, True, False)
    """
    return path.startswith(("pipe:", "file:")) or "://" in path


def locate(url: str, name: str) -> str:
    """Return the URL of the file ``name`` of the set at ``url``.

    Example:
        >>> locate("https://host/set?key=1", "index.json")
        'https://host/set/index.json?key=1'
    """
    if url.startswith("pipe:"):
        place = shlex.quote(name)
        return url.replace("{}", place) if "{}" in url else f"{url.rstrip('/')}/{place}"
    if _is_http(url):
        parts = urlsplit(url)
        path = f"{parts.path.rstrip('/')}/{quote(name)}"
        return urlunsplit(parts._replace(path=path, fragment=""))
    return f"{url.rstrip('/')}/{name}"


def shown(url: str) -> str:
    """Return ``url`` for messages: what follows ``?`` may be a signature."""
    return url.partition("?")[0] if _is_http(url) else url


class Remote:
    """A file of known length that is read forwards.

    Args:
        url: of the file.
        size: its length in bytes; another one is refused.
        start, stop: the bytes that will be read.
        delays: seconds to wait before each new try.

    Attributes:
        at: number of the byte that comes next.
    """

    def __init__(
        self, url: str, size: int, start: int, stop: int, delays: Sequence[float] = DELAYS
    ) -> None:
        self.url, self.size, self.at, self.stop = url, size, start, stop
        self._tries = _Tries(url, delays)
        self._file: IO[bytes] | None = None

    def read(self, count: int) -> bytes:
        """Return the next ``count`` bytes.

        Raises:
            ValueError: naming the URL and the byte, if they cannot be had.
        """
        parts = []
        while count:
            parts.append(self._read(min(count, CHUNK)))
            count -= len(parts[-1])
        return b"".join(parts)

    def skip_to(self, at: int) -> None:
        """Pass over what comes before byte ``at``.

        Raises:
            ValueError: as :meth:`read` does.
        """
        while self.at < at:
            self._read(min(at - self.at, CHUNK))

    def close(self) -> None:
        """Let go of the connection."""
        file, self._file = self._file, None
        if file is not None:
            _close(file)

    def _read(self, count: int) -> bytes:
        """Return some bytes, at least one; connect where needed, and as often as allowed."""
        while True:
            try:
                if self._file is None:
                    self._file = self._connect()
                chunk = _some(self._file, count)
            except RemoteError:
                self.close()
                raise
            except Exception as error:  # every protocol's library has errors of its own
                self.close()
                self._tries.failed(error, self.at)
            else:
                self.at += len(chunk)
                self._tries.went_well(len(chunk))
                return chunk

    def _connect(self) -> IO[bytes]:
        file, at, size = _open(self.url, self.at, self.stop)
        try:
            if size is not None and size != self.size:
                raise RemoteError(
                    f"damaged {shown(self.url)}: expected {self.size} bytes, got {size}; copy the "
                    "set again, with its index"
                )
            while at < self.at:  # a server or command that only begins at the start
                at += len(_some(file, min(self.at - at, CHUNK)))
        except BaseException:
            _close(file)
            raise
        return file


def fetch(url: str, most: int, delays: Sequence[float] = DELAYS) -> bytes:
    """Return a whole file.

    Args:
        url: of the file.
        most: bytes that it may have.
        delays: seconds to wait before each new try.

    Raises:
        ValueError: naming the URL, if it is missing, larger or cannot be had.
    """
    tries = _Tries(url, delays)
    while True:
        data = bytearray()
        try:
            file, _, size = _open(url, 0, None)
            try:
                while len(data) <= most and (chunk := file.read(CHUNK)):
                    data += chunk
                if len(data) <= most:
                    _check_end(file)
                    if size is not None and len(data) != size:
                        raise OSError(f"only {len(data)} of {size} bytes came")
                    if not data:  # the end of a shell's pipeline hides that its start failed
                        raise OSError("nothing came")
            finally:
                _close(file)
        except RemoteError:
            raise
        except Exception as error:  # every protocol's library has errors of its own
            tries.failed(error, len(data))
            continue
        if len(data) > most:
            raise RemoteError(f"{shown(url)} is larger than {most} bytes: is it the file meant?")
        return bytes(data)


def cache_folder() -> Path:
    """Return ``$CDINFER_CACHE``, or ``cdinfer`` in the user's folder of caches."""
    if own := os.environ.get("CDINFER_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "cdinfer"


def keep(path: Path, data: bytes) -> None:
    """Write a file of the cache, whole or not at all; others may write the same at once.

    Raises:
        ValueError: if it cannot be written; the message says how to choose another folder.
    """
    partial = path.with_name(f"{uuid.uuid4().hex}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(partial, data)
        partial.replace(path)
    except OSError as error:
        raise ValueError(
            f"cannot write to the cache '{path.parent}': {error.strerror or error}; set "
            "CDINFER_CACHE to a folder that can be written"
        ) from error


def sha256_of(path: Path) -> str:
    """Return the digest of a file, or nothing where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


class _Tries:
    """How often one file is tried again."""

    def __init__(self, url: str, delays: Sequence[float]) -> None:
        self.url, self.delays = url, delays
        self.failures = self.fresh = 0

    def went_well(self, count: int) -> None:
        self.fresh += count
        if self.fresh >= SOUND:
            self.failures = 0

    def failed(self, error: Exception, at: int) -> None:
        """Wait, or give up."""
        if self.failures == len(self.delays):
            raise RemoteError(
                f"{shown(self.url)} broke off at byte {at}, {self.failures + 1} times in a row "
                f"({_say(error)}): check the connection and start again"
            ) from error
        time.sleep(self.delays[self.failures])
        self.failures += 1
        self.fresh = 0


def _open(url: str, start: int, stop: int | None) -> tuple[IO[bytes], int, int | None]:
    """Return an open file, the byte it is at (``start`` or 0) and its length where known."""
    if _is_http(url):
        return _open_http(url, start, stop)
    if url.startswith("pipe:"):
        from webdataset.gopen import gopen

        pipe = gopen(url)
        pipe.ignore_errors = True  # closing it early is none; its end is looked at
        return pipe, 0, None
    import fsspec

    try:
        system, path = fsspec.url_to_fs(url)
        file = system.open(path, "rb", block_size=4 * CHUNK)
    except ImportError as error:
        raise RemoteError(f"{shown(url)}: {error}; pip install 'cdinfer[remote]'") from error
    except (FileNotFoundError, PermissionError, IsADirectoryError, ValueError) as error:
        raise RemoteError(f"cannot read {shown(url)}: {_say(error)}; check the URL") from error
    file.seek(start)
    return file, start, getattr(file, "size", None)


def _open_http(url: str, start: int, stop: int | None) -> tuple[IO[bytes], int, int | None]:
    headers = {} if stop is None else {"Range": f"bytes={start}-{stop - 1}"}
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        if _PASSING.fullmatch(str(error.code)):
            raise
        if error.code == 416:
            size = error.headers.get("Content-Range", "").rpartition("/")[2] or "fewer"
            raise RemoteError(
                f"damaged {shown(url)}: expected more than {start} bytes, got {size}; copy the "
                "set again, with its index"
            ) from error
        raise RemoteError(
            f"cannot read {shown(url)}: HTTP {error.code} {error.reason}; check the URL"
        ) from error
    except (ValueError, http.client.InvalidURL) as error:
        raise RemoteError(f"cannot read {shown(url)}: {error}; check the URL") from error
    if response.status == 206:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if span is None or int(span[1]) != start:
            response.close()
            raise OSError("the server answers with other bytes than it was asked for")
        return response, start, None if span[2] == "*" else int(span[2])
    size = response.headers.get("Content-Length", "")
    return response, 0, int(size) if size.isdecimal() else None


def _some(file: IO[bytes], count: int) -> bytes:
    """Return what has come, at most ``count`` bytes; wait for one at least."""
    chunk: bytes = getattr(file, "read1", file.read)(count)
    if not chunk:
        _check_end(file)
        raise OSError("it ended early")
    return chunk


def _check_end(file: Any) -> None:  # noqa: ANN401
    """Refuse the output of a command that failed."""
    process = getattr(file, "proc", None)
    if process is not None and (status := process.wait()):
        raise OSError(f"the command ended with status {status}")


def _close(file: IO[bytes]) -> None:
    with suppress(Exception):  # a broken connection cannot be closed properly
        file.close()


def _is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _say(error: Exception) -> str:
    """Return what an error says, in one line."""
    if isinstance(error, URLError) and not isinstance(error, HTTPError):
        return _say(error.reason) if isinstance(error.reason, Exception) else str(error.reason)
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
