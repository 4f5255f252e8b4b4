"""What accuracy costs: records of trainings -> accuracy, multiply-accumulates, bytes of each arm.

Records are those of `cells`, in a folder or as a list in one file. A training is a record whose
``about`` has an ``arm``. Of it are read ``table``, ``preset``, ``bpp`` (null for original pictures)
and ``data``, the name of the record that made its data (null for originals), and of its ``metrics``
the ``macs`` of the network and a score. Data called ``as-decoded-X`` are what the decoder made of
the set ``set-X``: who reads them stores that set and runs the decoder.

field          of a row
table          accuracy
data           table and preset of the records
arm, bpp
score          mean over the seeds, of ``metric``
metric         top1 or miou
seeds          how many
gmac           thousand million multiply-accumulates for one training crop, decoder and all
bytes          of a picture as it is stored, mean over the set; null if no record tells
best_by_gmac   whether no arm of the same data is as good for less, or better for as much
best_by_bytes  likewise; false without bytes
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from cdinfer.studies.records import Row

#: Names of scores in records -> in rows; higher is better.
SCORES = {"test/top1": "top1", "test/miou": "miou"}

#: Start of the names of data that were decoded, and of the sets they were decoded from.
DECODED, SET = "as-decoded-", "set-"


def run(places: Sequence[Path]) -> list[Row]:
    """Return a row for each arm and rate, those of the same data together.

    Args:
        places: files and folders of records.

    Raises:
        ValueError: if a record is damaged, or none is of a training.
    """
    rows: list[Row] = []
    for place in places:
        try:
            rows += _rows(read(place))
        except (LookupError, TypeError) as error:
            raise ValueError(f"{place}: a record lacks what trainings have: {error!r}") from error
    if not rows:
        raise ValueError(f"{places[0]}: expected records of trainings, with an arm; got none")
    for name in dict.fromkeys(row["data"] for row in rows):
        same = [row for row in rows if row["data"] == name]
        for cost in ("gmac", "bytes"):
            for row, best in zip(same, front([(r[cost], r["score"]) for r in same]), strict=True):
                row[f"best_by_{cost}"] = best
    return rows


def read(place: Path) -> list[Row]:
    """Return the records of a folder, one a file, or of a file with a list of them.

    Raises:
        ValueError: if one is damaged, or there is no such place.
    """
    if not place.exists():
        raise ValueError(f"{place}: expected a file or folder of records; check the path")
    records: list[Row] = []
    for path in sorted(place.glob("*.json")) if place.is_dir() else [place]:
        try:
            said = json.loads(path.read_bytes())
            found = said if isinstance(said, list) else [said]
            for record in found:
                if not all(isinstance(record[part], dict) for part in ("about", "metrics")):
                    raise TypeError("about or metrics is no object")
            records += found
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise ValueError(f"{path}: expected records of cells, got {error!r}") from error
    return records


def front(points: Sequence[tuple[float | None, float]]) -> list[bool]:
    """Return which of ``(cost, score)`` nothing beats: Pareto's front; ``None`` is not on it.

    Example:
        >>> front([(1.0, 0.5), (2.0, 0.4), (2.0, 0.6), (None, 0.9)])
        [True, False, True, False]
    """
    known = [(cost, score) for cost, score in points if cost is not None]

    def beaten(cost: float, score: float) -> bool:
        return any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in known)

    return [cost is not None and not beaten(cost, score) for cost, score in points]


def stored_bytes(training: Row, data: Mapping[str, Row]) -> float | None:
    """Return what a picture takes as it is stored for a training, if a record tells.

    Args:
        training: a record.
        data: records of data, by their names.
    """
    name = training["about"]["data"]
    if name is None:  # any set was made of the originals
        sets = [found for key, found in data.items() if key.startswith(SET)]
        if not sets:
            return None
        metrics = sets[0]["metrics"]
        return float(metrics["bytes_before"] / metrics["pictures"])
    name = name.replace(DECODED, SET)
    if name not in data:
        return None
    metrics = data[name]["metrics"]
    total = metrics["bytes_after"] if name.startswith(SET) else metrics["bytes"]
    return float(total / metrics["pictures"])


def _rows(records: Sequence[Row]) -> list[Row]:
    data = {record["name"]: record for record in records if "arm" not in record["about"]}
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for record in records:
        about = record["about"]
        if "arm" in about:
            key = f"{about['table']}, {about['preset']}", about["arm"], about["bpp"]
            groups.setdefault(key, []).append(record)
    return [_row(key, group, data) for key, group in groups.items()]


def _row(key: tuple[Any, ...], group: Sequence[Row], data: Mapping[str, Row]) -> Row:
    first = group[0]
    score = next((name for name in SCORES if name in first["metrics"]), None)
    if score is None:
        raise ValueError(f"the record of {first['name']} has no score, {' or '.join(SCORES)}")
    return {
        "table": "accuracy",
        "data": key[0],
        "arm": key[1],
        "bpp": key[2],
        "score": fmean(record["metrics"][score] for record in group),
        "metric": SCORES[score],
        "seeds": len(group),
        "gmac": (first["metrics"]["macs"] + _decoder_macs(first)) / 1e9,
        "bytes": stored_bytes(first, data),
    }


def _decoder_macs(training: Row) -> int:
    """Return what the decoder adds for one training crop."""
    about = training["about"]
    if about["data"] is None or not about["data"].startswith(DECODED):
        return 0
    from cdinfer.codecs.stored import read_codec  # torch: who only asks for bytes need not wait
    from cdinfer.codecs.zoo import find_codec
    from cdinfer.models import count_macs

    words = [word for line in training["commands"] for word in line]
    codec = read_codec(find_codec("cae", about["bpp"]))
    side = int(words[words.index("--data.crop") + 1]) // codec.stride
    return count_macs(codec.g_s, (1, codec.channels, side, side))
