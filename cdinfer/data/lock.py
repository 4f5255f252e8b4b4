"""One writer at a time in a folder: ``.lock``, held by the kernel until its holder ends."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Stays in the folder: removing it would let two writers hold two files of one name.
LOCK = ".lock"


class HeldError(ValueError):
    """Another process, or another part of this one, writes in a folder."""


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold ``folder``, which is made if it is missing, for one writer.

    A killed process lets go of it: nothing has to be cleaned up. The value is the lock's file
    descriptor: a child that gets it holds the folder, too, until it ends.

    Raises:
        HeldError: if another process, or another part of this one, holds it.
        OSError: if the lock cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HeldError(
                f"another cdinfer is writing '{folder}': wait for it or choose another folder"
            ) from None
        yield file.fileno()
