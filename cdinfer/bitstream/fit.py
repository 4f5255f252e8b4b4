"""Fitting a context model to numbers: taps by least squares, edges by quantiles, tables by counts.

    numbers k of training pictures, (C, h, w) each --fit_model--> ContextModel

Channel by channel: the mean sum is the linear prediction of k from its neighbours, the activity
sum that of its absolute error from theirs; few taps carry nearly all of it. Edges are quantiles
weighted by what a symbol costs without context, so that bins are fine where bits are spent. How
many bins a channel gets is decided on pictures its tables were not counted on.

    constant        value  meaning
    FAR_TAPS            8  taps in earlier channels, at most, for each of the two sums
    GRIDS         1 x 1 to numbers of mean and activity bins to choose from
                    48 x 8
    MARGIN              2  symbols kept beyond the smallest and largest number seen
    NEARLY          0.2 %  a smaller grid is taken if it costs no more than this above the best
    REACHES      90, 98 %  shares of places whose activity the weights' scale covers, to choose from
    SAMPLE        150,000  places that least squares looks at, about
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdinfer.bitstream.context import (
    AROUND,
    LEFT_LIMIT,
    MAX_ENTRIES,
    MAX_WEIGHT,
    MEAN_LIMIT,
    NEAR,
    OTHERS_LIMIT,
    STEP,
    ContextModel,
)
from cdinfer.bitstream.tables import SCALE, build_tables

Numbers = NDArray[np.int16]
Whole = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Channel, dy and dx of a neighbour; the same and its weight.
Place = tuple[int, int, int]
Tap = tuple[int, int, int, int]

FAR_TAPS = 8
GRIDS = ((1, 1), (1, 4), (4, 3), (6, 6), (12, 6), (16, 8), (24, 8), (32, 10), (48, 8))
MARGIN = 2
NEARLY = 1.002
REACHES = (0.9, 0.98)
SAMPLE = 150_000


class _Channel(NamedTuple):
    """The fit of one channel."""

    mean_taps: list[Tap]
    activity_taps: list[Tap]
    mean_edges: list[int]
    activity_edges: list[int]
    frequencies: NDArray[np.uint16]


def fit_model(numbers: Sequence[Numbers], limits: tuple[int, int] = (-127, 128)) -> ContextModel:
    """Return the model that codes ``numbers``, and others like them, in few bits.

    Args:
        numbers: k of each picture, integers ``(C, h, w)`` within -126..126; sizes may differ.
        limits: no symbol is kept for numbers beyond.
    """
    padded = [np.pad(k.astype(np.int16), ((0, 0), (1, 1), (1, 1))) for k in numbers]
    channels = len(padded[0])
    low = np.maximum(np.min([k.min((1, 2)) for k in padded], axis=0) - MARGIN, limits[0])
    high = np.minimum(np.max([k.max((1, 2)) for k in padded], axis=0) + MARGIN, limits[1])
    fits = [_fit_channel(padded, c, int(low[c]), int(high[c])) for c in range(channels)]
    sizes = high - low + 1
    tables = [np.pad(f.frequencies, ((0, 0), (0, sizes.max() - sizes[c]))) for c, f in
              enumerate(fits)]  # fmt: skip
    return ContextModel(
        sizes,
        -low,
        _rows([(c, *tap) for c, fit in enumerate(fits) for tap in fit.mean_taps], 5),
        _rows([(c, *tap) for c, fit in enumerate(fits) for tap in fit.activity_taps], 5),
        _rows([(c, edge) for c, fit in enumerate(fits) for edge in fit.mean_edges], 2),
        _rows([(c, edge) for c, fit in enumerate(fits) for edge in fit.activity_edges], 2),
        np.concatenate(tables),
    )


def _rows(rows: Sequence[tuple[int, ...]], width: int) -> Numbers:
    return np.array(sorted(rows), np.int16).reshape(-1, width)


def _fit_channel(padded: Sequence[Numbers], c: int, low: int, high: int) -> _Channel:
    places: list[Place] = [(c, dy, dx) for dy, dx in NEAR]
    places += [(of, dy, dx) for of in range(c) for dy, dx in AROUND]
    total = sum(k[0].size for k in padded)
    some = padded[:: max(1, total // SAMPLE)]
    k = _gather(some, [(c, 0, 0)])[:, 0].astype(np.float64)
    around = _gather(some, places).astype(np.float32)

    weights = _fit_taps(around, k, places, nonnegative=False)
    mean = _sums(around, places, weights)
    reach = max(np.quantile(abs(mean), 0.995), 1e-3)
    mean_taps = _whole(weights, STEP * min(MEAN_LIMIT / reach, 64.0))
    error = abs(k - mean)
    weights = _fit_taps(abs(around), error, places, nonnegative=True)
    activity = _sums(abs(around), places, weights)

    symbols = _gather(padded, [(c, 0, 0)])[:, 0].astype(np.int64) - low
    picture = np.repeat(np.arange(len(padded)), [k[0, 1:-1, 1:-1].size for k in padded])
    mean_part = _means(padded, c, mean_taps)
    fits = []
    for share in REACHES:
        reach = max(np.quantile(activity, share), 1e-3)
        taps = _whole(weights, STEP * min(OTHERS_LIMIT / reach, 256.0))
        fits.append(_fit_bins(
            symbols, high - low + 1, mean_part, _activities(padded, c, taps), picture % 2 == 0,
            mean_taps, taps, MAX_ENTRIES // len(padded[0]),
        ))  # fmt: skip
    return min(fits, key=lambda fit: fit[0])[1]


def _gather(padded: Sequence[Numbers], places: Sequence[Place]) -> Numbers:
    """Return the numbers at ``places`` around every place of every picture: ``(n, places)``."""
    parts = []
    for k in padded:
        h, w = k.shape[1] - 2, k.shape[2] - 2
        columns = [k[of, 1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w].ravel() for of, dy, dx in places]
        parts.append(np.stack(columns, axis=1))
    return np.concatenate(parts)


def _fit_taps(
    around: NDArray[np.float32], target: Floats, places: Sequence[Place], nonnegative: bool
) -> dict[Place, float]:
    """Return place -> weight of the near places and the far ones that matter most."""
    gram = (around.T @ around).astype(np.float64)
    gram[np.diag_indices_from(gram)] += 1e-3 * len(target)
    moment = around.T.astype(np.float64) @ target
    weights = np.linalg.solve(gram, moment)
    gain = abs(weights) * np.sqrt(gram.diagonal())
    if nonnegative:
        gain[weights < 0] = 0
    gain[: len(NEAR)] = np.inf
    chosen = np.sort(np.argsort(-gain, kind="stable")[: len(NEAR) + FAR_TAPS])
    while True:
        weights = np.linalg.solve(gram[np.ix_(chosen, chosen)], moment[chosen])
        if not nonnegative or (weights >= 0).all() or len(chosen) == 1:
            break
        chosen = chosen[weights >= 0] if (weights >= 0).any() else chosen[:1]
    return {places[i]: max(w, 0.0) if nonnegative else w for i, w in
            zip(chosen, weights.tolist(), strict=True)}  # fmt: skip


def _sums(around: NDArray[np.float32], places: Sequence[Place], taps: dict[Place, float]) -> Floats:
    columns = [places.index(place) for place in taps]
    return np.asarray(around[:, columns] @ np.array([*taps.values()]), np.float64)


def _whole(taps: dict[Place, float], scale: float) -> list[Tap]:
    """Round weights times ``scale`` to whole numbers; what becomes 0 goes."""
    rounded = {place: round(weight * scale) for place, weight in taps.items()}
    return [
        (*place, max(-MAX_WEIGHT, min(MAX_WEIGHT, weight)))
        for place, weight in rounded.items() if weight != 0
    ]  # fmt: skip


def _means(padded: Sequence[Numbers], c: int, taps: Sequence[Tap]) -> Whole:
    """Return ``mean`` at every place, as the coder forms it."""
    left, others = _split(padded, c, taps, absolute=False)
    limits = (-MEAN_LIMIT, MEAN_LIMIT)
    return np.clip(others // STEP, *limits) + np.clip(left // STEP, *limits)


def _activities(padded: Sequence[Numbers], c: int, taps: Sequence[Tap]) -> Whole:
    """Return ``activity`` at every place, as the coder forms it."""
    left, others = _split(padded, c, taps, absolute=True)
    return np.minimum(others // STEP, OTHERS_LIMIT) + np.minimum(left // STEP, LEFT_LIMIT)


def _split(
    padded: Sequence[Numbers], c: int, taps: Sequence[Tap], absolute: bool
) -> tuple[Whole, Whole]:
    """Return what the left tap of channel c adds to the sum at every place, and what the others."""
    parts = []
    for k in padded:
        h, w = k.shape[1] - 2, k.shape[2] - 2
        sums = np.zeros((2, h, w), np.int64)
        for of, dy, dx, weight in taps:
            part = k[of, 1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w].astype(np.int64)
            term = 0 if (of, dy, dx) == (c, *NEAR[0]) else 1
            sums[term] += weight * (abs(part) if absolute else part)
        parts.append(sums.reshape(2, -1))
    left, others = np.concatenate(parts, axis=1)
    return left, others


def _fit_bins(
    symbols: Whole,
    size: int,
    mean: Whole,
    activity: Whole,
    half: NDArray[np.bool_],
    mean_taps: list[Tap],
    activity_taps: list[Tap],
    entries: int,
) -> tuple[float, _Channel]:
    """Choose a grid of bins on the pictures outside ``half``, then count on all.

    Returns:
        The cost in bits of the pictures outside ``half``, and the fit.
    """
    counts = np.bincount(symbols, minlength=size) + 0.5
    worth = -np.log2(counts / counts.sum())[symbols]
    trials: list[tuple[float, int, list[int], list[int], Whole]] = []
    for means, activities in GRIDS:
        mean_edges = _quantiles(mean, worth, means, 1 - 2 * MEAN_LIMIT)
        activity_edges = _quantiles(activity, worth, activities, 1)
        bins = (len(mean_edges) + 1, len(activity_edges) + 1)
        if bins[0] * bins[1] * size > entries and trials:
            continue
        rows = np.searchsorted(mean_edges, mean, side="right") * bins[1]
        rows += np.searchsorted(activity_edges, activity, side="right")
        seen = _smooth(_count(rows[half], symbols[half], bins, size), bins)
        p = np.maximum(seen / seen.sum(-1, keepdims=True), 1 / SCALE)
        cost = float(-np.log2(p[rows[~half], symbols[~half]]).sum())
        trials.append((cost, bins[0] * bins[1], mean_edges, activity_edges, rows))
    best = min(trial[0] for trial in trials)
    cost, _, mean_edges, activity_edges, rows = min(
        (trial for trial in trials if trial[0] <= best * NEARLY + 1), key=lambda trial: trial[1]
    )
    bins = (len(mean_edges) + 1, len(activity_edges) + 1)
    seen = _smooth(_count(rows, symbols, bins, size), bins)
    tables = build_tables((seen * 64).round().astype(np.int64))
    return cost, _Channel(mean_taps, activity_taps, mean_edges, activity_edges, tables)


def _quantiles(floors: Whole, worth: Floats, bins: int, least: int) -> list[int]:
    """Return up to ``bins - 1`` edges that part what the symbols are worth evenly."""
    offset = floors.min()
    cumulative = np.cumsum(np.bincount(floors - offset, weights=worth))
    wanted = cumulative[-1] * np.arange(1, bins) / bins
    edges = np.searchsorted(cumulative, wanted) + offset + 1
    return sorted({int(edge) for edge in edges if least <= edge <= floors.max()})


def _count(rows: Whole, symbols: Whole, bins: tuple[int, int], size: int) -> Floats:
    flat = np.bincount(rows * size + symbols, minlength=bins[0] * bins[1] * size)
    return flat.reshape(-1, size).astype(np.float64)


def _smooth(counts: Floats, bins: tuple[int, int]) -> Floats:
    """Lend rows with few counts some of their neighbours' and of the channel's."""
    grid = counts.reshape(*bins, -1)
    near = np.zeros_like(grid)
    near[1:] += grid[:-1]
    near[:-1] += grid[1:]
    near[:, 1:] += grid[:, :-1]
    near[:, :-1] += grid[:, 1:]
    share = near / np.maximum(near.sum(-1, keepdims=True), 1)
    whole = counts.sum(0) + 0.01
    return np.asarray((grid + 4 * share + whole / whole.sum()).reshape(counts.shape), np.float64)
