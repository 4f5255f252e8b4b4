"""Bytes -> disk, whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` under a hidden name beside ``path``, flush it to disk, then rename it.

    A killed process or a full disk leaves the old file, or none, never half of a new one. The
    new name is on the disk, too, before anything that is done next.

    Raises:
        OSError: naming ``path``, if it cannot be written; the hidden file is removed.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:  # a full disk does not say which file it was about
        partial.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # a file system may refuse that; the file is there all the same
        _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
