"""Records of a table -> what its arms reached, differ by and cost. Shares become percent."""

import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cdinfer.studies.paired import Difference, paired_difference
from cdinfer.studies.records import Row
from cdinfer.studies.tradeoff import stored_bytes
from tools.experiments.arms import ARMS, TABLES

#: Arm and rate; ``None`` is that of the originals.
Key = tuple[str, float | None]


class Spread(NamedTuple):
    """Mean and standard deviation (0 of one value) over seeds."""

    mean: float
    deviation: float
    seeds: int


class Cost(NamedTuple):
    """What a cell of an arm cost; seconds are a mean over all, the rest is the first's."""

    macs: int
    parameters: int
    steps: int
    batch: int
    cpu_seconds: float


class Summary(NamedTuple):
    """Numbers of a table; keys are in the order of ``ARMS``, and by rate.

    Attributes:
        scores: per cent.
        differences: ours, theirs -> points, paired by seed.
        bytes: of a picture, mean over the set; without codecs.
        costs: of each arm.
    """

    scores: dict[Key, Spread]
    differences: dict[tuple[Key, Key], Difference]
    bytes: dict[Key, float]
    costs: dict[str, Cost]


def spread(values: Iterable[float]) -> Spread:
    """Return mean and deviation.

    Example:
        >>> spread([1.0, 2.0, 3.0])
        Spread(mean=2.0, deviation=1.0, seeds=3)
    """
    found = list(values)
    deviation = statistics.stdev(found) if len(found) > 1 else 0.0
    return Spread(statistics.fmean(found), deviation, len(found))


def summarise(records: Sequence[Row]) -> Summary:
    """Return the numbers of the records of one table and preset.

    Arms are compared with ``decoded`` at their rate and with ``original``; latents with every
    other arm of their rate, too.
    """
    data = {record["name"]: record for record in records if "kind" in record["about"]}
    order, by_key, by_arm = list(ARMS), dict[Key, list[Row]](), dict[str, list[Row]]()
    for record in records:
        if name := record["about"].get("arm"):
            by_key.setdefault((name, record["about"]["bpp"]), []).append(record)
            by_arm.setdefault(name, []).append(record)
    keys = sorted(by_key, key=lambda key: (order.index(key[0]), key[1] or 0.0))
    trainings = {key: by_key[key] for key in keys}
    values = {key: _values(found) for key, found in trainings.items()}
    pairs = [(ours, theirs) for ours in keys for theirs in keys if _compared(ours, theirs)]
    pairs = [(a, b) for a, b in pairs if values[a].keys() & values[b].keys()]
    sizes = {key: stored_bytes(found[0], data) for key, found in trainings.items()}
    return Summary(
        {key: spread(found.values()) for key, found in values.items()},
        {(a, b): paired_difference(values[a], values[b]) for a, b in pairs},
        {key: size for key, size in sizes.items() if size is not None},
        {name: _cost(by_arm[name]) for name in ARMS if name in by_arm},
    )


def _cost(records: Sequence[Row]) -> Cost:
    seconds = statistics.fmean(record["cpu_seconds"] for record in records)
    fields = {name: records[0]["metrics"][name] for name in Cost._fields if name != "cpu_seconds"}
    return Cost(**fields, cpu_seconds=seconds)


def _values(records: Sequence[Row]) -> dict[int, float]:
    metric = TABLES[records[0]["about"]["table"]].metric
    return {record["about"]["seed"]: 100 * record["metrics"][metric] for record in records}


def _compared(ours: Key, theirs: Key) -> bool:
    if ours == theirs:
        return False
    if theirs == ("original", None):
        return True
    same_rate = ours[1] is not None and ours[1] == theirs[1]
    return same_rate and (
        theirs[0] == "decoded" or (ours[0] == "latents" and theirs[0] != "latents")
    )
