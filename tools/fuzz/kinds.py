"""What is fuzzed: a kind makes inputs and says what their outcome is.

An input is *refused* if reading it raises an error that the entry point documents, in one line that
names the file; *accepted* if it reads and nothing read is wrong. Everything else is a finding.
"""

import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

#: What public entry points promise to raise; `BitstreamError` is a ValueError.
DOCUMENTED = (ValueError, OSError)


@dataclass
class Case:
    """One input.

    Attributes:
        files: name below the kind's folder -> content, or just one where nothing is on disk.
        about: what was done to make it.
        truth: whatever the kind needs to judge the outcome.
    """

    files: Mapping[str, bytes]
    about: str
    truth: Any = field(default=None, repr=False)


class Wrong(Exception):  # noqa: N818
    """Reading went on without an error, but what was read is wrong."""


class Kind(ABC):
    """Inputs of one kind, and the entry points that read them.

    Attributes:
        name: what ``--kind`` calls it.
        errors: those that are no finding.
    """

    name: str
    errors: tuple[type[Exception], ...] = DOCUMENTED

    @abstractmethod
    def whole_case(self) -> Case:
        """Return an input that is not damaged; it has to be accepted."""

    @abstractmethod
    def make(self, rng: Random) -> Case:
        """Return an input; the same for the same state of ``rng``."""

    @abstractmethod
    def read(self, case: Case) -> None:
        """Read an input everywhere it may be met.

        Raises:
            Exception: one of ``errors`` if it is refused, another if there is a bug.
            Wrong: if it is accepted and should not have been.
        """

    def named(self) -> str:
        """Return what every error has to mention."""
        return ""

    def judge(self, case: Case) -> tuple[bool, str]:
        """Return whether an input was accepted, and what is found: empty, or a text."""
        try:
            self.read(case)
        except self.errors as error:
            message = str(error)
            if "\n" in message or not message:
                return False, f"an error of {len(message.splitlines())} lines: {message!r}"
            if self.named() not in message:
                return False, f"an error that does not name the file: {message}{where(error)}"
            return False, ""
        except Wrong as wrong:
            return True, f"silently wrong: {wrong}"
        except BaseException as error:
            return False, f"{type(error).__name__}: {str(error)[:300]}{where(error)}"
        return True, ""


class Several(Kind):
    """Inputs of several kinds of one name, by lot.

    Args:
        kinds: at least one.
    """

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self.kinds, self.name = kinds, kinds[0].name

    def whole_case(self) -> Case:
        return self._wrapped(len(self.kinds) - 1, self.kinds[-1].whole_case())

    def make(self, rng: Random) -> Case:
        number = rng.randrange(len(self.kinds))
        return self._wrapped(number, self.kinds[number].make(rng))

    def read(self, case: Case) -> None:
        number, inner = case.truth
        self.kinds[number].read(inner)

    def judge(self, case: Case) -> tuple[bool, str]:
        number, inner = case.truth
        return self.kinds[number].judge(inner)

    @staticmethod
    def _wrapped(number: int, case: Case) -> Case:
        return Case(case.files, case.about, (number, case))


class FolderKind(Kind):
    """Inputs that are files in a folder; those not in a case are as they should be.

    Attributes:
        first: name of the file to start with.
    """

    first: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.whole = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    def named(self) -> str:
        return str(self.folder)

    def whole_case(self) -> Case:
        return Case({self.first: self.whole[self.first]}, "whole")

    def judge(self, case: Case) -> tuple[bool, str]:
        for name, content in case.files.items():
            self._write(name, content)
        try:
            return super().judge(case)
        finally:
            for name in case.files:
                self._write(name, self.whole[name])

    def _write(self, name: str, content: bytes) -> None:
        """Replace a file: what has mapped the old one keeps it."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        path.write_bytes(content)


def where(error: BaseException) -> str:
    """Return the places an error came through, innermost last."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return "".join(f"\n    {frame.filename}:{frame.lineno} {frame.name}" for frame in frames)
