"""What a bench answers with: rows of seven fields.

field   meaning
bench   the bench
case    what is measured, and against what
ours    a time, a rate, a size, ...: the median over the rounds
peer    the same of the peer; null without one
unit    of both; rates end in ``/s``
ratio   how many times as good ours is: peer/ours, of rates ours/peer; of what is timed the median
        over the rounds of the ratio within a round; null without a peer
ideal   the least ours could be (of rates the most): what the case itself needs, whoever does it
"""

from collections.abc import Sequence
from statistics import median

from cdinfer.studies.records import Row
from cdinfer.studies.report import Columns, markdown

FIELDS = ("bench", "case", "ours", "peer", "unit", "ratio", "ideal")

#: What a case says of a peer that is not there.
NOT_INSTALLED = "not installed: pip install 'cdinfer[bench]'"

Seconds = Sequence[float]

#: Unit -> what a second is in it.
SCALES = {"us/picture": 1e6, "ms/picture": 1e3, "s": 1.0}


def timed(
    bench: str,
    case: str,
    unit: str,
    ours: Seconds,
    peer: Seconds | None = None,
    ideal: Seconds | None = None,
) -> Row:
    """Return a row of times, round by round, shown as times or as rates.

    Args:
        bench: as in the row.
        case: as in the row.
        unit: one of ``SCALES``, or ``pictures/s``.
        ours: seconds for one picture in each round.
        peer: the same of the peer.
        ideal: the same of what bounds ours.

    Example:
        >>> timed("b", "c", "pictures/s", [0.1, 0.5, 0.2], [0.4, 1.5, 0.4])
        {'bench': 'b', 'case': 'c', 'ours': 5.0, 'peer': 2.5, 'unit': 'pictures/s', 'ratio': 3.0, \
'ideal': None}
    """
    rate = unit.endswith("/s")

    def show(times: Seconds | None) -> float | None:
        if times is None:
            return None
        return 1 / median(times) if rate else SCALES[unit] * median(times)

    ratio = None
    if peer is not None:
        ratio = median([theirs / mine for theirs, mine in zip(peer, ours, strict=True)])
    return _row(bench, case, show(ours), show(peer), unit, ratio, show(ideal))


def counted(
    bench: str, case: str, unit: str, ours: float, peer: float | None, ideal: float | None
) -> Row:
    """Return a row of what is counted and not timed; less is better."""
    ratio = None if peer is None or not ours else peer / ours
    return _row(bench, case, ours, peer, unit, ratio, ideal)


def against(case: str, peer: str, there: bool) -> str:
    """Return the text of a case with a peer, and say so if it is not installed.

    Example:
        >>> against("decode", "zstd", there=True)
        'decode vs zstd'
    """
    return f"{case} vs {peer}" + ("" if there else f" ({NOT_INSTALLED})")


def table(rows: Sequence[Row]) -> str:
    """Return rows of one bench as a Markdown table."""
    columns: Columns = [
        ("case", lambda row: str(row["case"])),
        ("ours", lambda row: _figure(row["ours"])),
        ("peer", lambda row: _figure(row["peer"])),
        ("unit", lambda row: str(row["unit"])),
        ("ratio", lambda row: None if row["ratio"] is None else f"{row['ratio']:.3g}x"),
        ("ideal", lambda row: _figure(row["ideal"])),
    ]
    return markdown(rows, columns)


def _row(*values: object) -> Row:
    return dict(zip(FIELDS, values, strict=True))


def _figure(value: float | None) -> str | None:
    """Return a number in four digits or so.

    Example:
        >>> [_figure(v) for v in (12345.6, 12.346, 0.0123)]
        ['12,346', '12.35', '0.0123']
    """
    if value is None:
        return None
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
