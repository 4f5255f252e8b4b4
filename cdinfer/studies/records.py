"""Measurements that are made once and found again: one JSON object a line.

    FOLDER/TITLE-FINGERPRINT.jsonl    {"settings": {...}}, then {"key": ..., "row": {...}} a line

The fingerprint covers all settings that determine a row, so that other settings are another
file; the key says what was measured. Lines are appended whole and flushed: a killed process
leaves at most one line without an end, which is passed over as any other damaged line is.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

Row = dict[str, Any]

#: Raised when the meaning of a row changes, so that old ones are not found any more.
FORMAT = 1


class Records:
    """The rows of one file.

    Args:
        folder: made if missing.
        title: for people: what the rows are about.
        settings: plain JSON values, all that determines a row besides its key.
    """

    def __init__(self, folder: Path, title: str, settings: dict[str, Any]) -> None:
        name = re.sub(r"[^a-z0-9.]+", "-", title.lower())[-60:].strip("-.")
        self.path = folder / f"{name}-{fingerprint(settings)}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self._rows: dict[str, Row] = {}
        self._torn = False
        if self.path.exists():
            data = self.path.read_bytes()
            self._torn = not data.endswith(b"\n")
            for line in data.split(b"\n"):
                self._take(line)
        else:
            self._append({"settings": settings})

    def get(self, key: str) -> Row | None:
        """Return the row recorded under ``key``, if there is one."""
        return self._rows.get(key)

    def add(self, key: str, row: Row) -> None:
        """Record a row of plain, finite JSON values; it is on its way to the disk on return.

        Raises:
            OSError: naming the file, if it cannot be written.
        """
        self._append({"key": key, "row": row})
        self._rows[key] = row

    def _take(self, line: bytes) -> None:
        try:
            said = json.loads(line)
            self._rows[str(said["key"])] = dict(said["row"])
        except (ValueError, TypeError, KeyError, RecursionError):
            pass

    def _append(self, said: dict[str, Any]) -> None:
        line = json.dumps(said, allow_nan=False).encode() + b"\n"
        try:
            with self.path.open("ab") as file:
                file.write(b"\n" * self._torn + line)
        except OSError as error:  # a full disk does not say which file it was about
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self._torn = False


def fingerprint(settings: dict[str, Any]) -> str:
    """Return 12 hexadecimal digits that change with any of the settings.

    Example:
        >>> fingerprint({"quality": 30}) == fingerprint({"quality": 31})
        False
    """
    text = json.dumps([FORMAT, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
