"""Context models of every kind, and what `context` says about them again, slowly."""

import numpy as np

from cdinfer.bitstream import ContextModel, build_tables
from cdinfer.bitstream.context import AROUND, NEAR


def random_model(seed, channels=3, largest=9, contexts=True, skew=3) -> ContextModel:
    """A model with sizes, taps, edges and tables drawn by lot; weights of every magnitude."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, largest + 1, channels)
    edges, taps = [], []
    for top, bottom in ((62, -61), (62, 1)):
        chosen = {
            (c, int(edge))
            for c in range(channels)
            for edge in rng.integers(bottom, top + 1, rng.integers(0, 5))
            if contexts
        }
        edges.append(np.array(sorted(chosen), int).reshape(-1, 2))
    for least in (-1, 0):
        rows = []
        for c in range(channels):
            places = [(c, *place) for place in NEAR]
            places += [(of, *place) for of in range(c) for place in AROUND]
            for place in sorted(places):
                if contexts and rng.random() < 0.6:
                    weight = int(4096 ** rng.random()) * (-1 if rng.random() < 0.4 else 1)
                    rows.append((c, *place, abs(weight) if least == 0 else weight))
        taps.append(np.array(rows, int).reshape(-1, 5))
    bins = [np.bincount(e[:, 0], minlength=channels) + 1 for e in edges]
    lengths = np.repeat(sizes, bins[0] * bins[1])
    tables = []
    for length in lengths:
        counts = rng.integers(0, 10, (1, length)) ** skew
        tables.append(np.pad(build_tables(counts)[0], (0, sizes.max() - length)))
    return ContextModel(sizes, rng.integers(0, sizes), *taps, *edges, np.array(tables))


def random_symbols(model: ContextModel, shape, seed=0, calm=False) -> np.ndarray:
    """Symbols ``(B, C, h, w)`` within a model's sizes; ``calm``: most of them stand for 0."""
    rng = np.random.default_rng(seed)
    batch, height, width = shape
    sizes = model.sizes.astype(int)[:, None, None]
    symbols = rng.integers(0, sizes, (batch, len(model.sizes), height, width))
    if calm:
        quiet = rng.random(symbols.shape) < 0.8
        symbols = np.where(quiet, model.zeros[:, None, None], symbols)
    return symbols.astype(np.uint8)


def context_slowly(model: ContextModel, k: list, c: int, y: int, x: int) -> int:
    """The row of the tables for channel ``c`` at ``(y, x)``; ``k[c][y][x]`` are plain integers."""

    def at(of, dy, dx):
        inside = 0 <= y + dy < len(k[0]) and 0 <= x + dx < len(k[0][0])
        return k[of][y + dy][x + dx] if inside else 0

    o = left = p = q = 0
    for channel, of, dy, dx, weight in model.mean_taps.tolist():
        if channel == c:
            if (of, dy, dx) == (c, 0, -1):
                left += weight * at(of, dy, dx)
            else:
                o += weight * at(of, dy, dx)
    for channel, of, dy, dx, weight in model.activity_taps.tolist():
        if channel == c:
            if (of, dy, dx) == (c, 0, -1):
                q += weight * abs(at(of, dy, dx))
            else:
                p += weight * abs(at(of, dy, dx))
    mean = min(max(o // 16, -31), 31) + min(max(left // 16, -31), 31)
    activity = min(p // 16, 47) + min(q // 16, 15)
    means = [edge for channel, edge in model.mean_edges.tolist() if channel == c]
    activities = [edge for channel, edge in model.activity_edges.tolist() if channel == c]
    row = sum(edge <= mean for edge in means) * (len(activities) + 1)
    row += sum(edge <= activity for edge in activities)
    for earlier in range(c):
        row += (model.mean_edges[:, 0].tolist().count(earlier) + 1) * (
            model.activity_edges[:, 0].tolist().count(earlier) + 1
        )
    return row


def contexts_slowly(model: ContextModel, symbols: np.ndarray) -> list:
    """The rows that code ``symbols (C, h, w)``, as nested lists."""
    k = (symbols.astype(int) - model.zeros[: len(symbols), None, None]).tolist()
    channels, height, width = symbols.shape
    return [
        [[context_slowly(model, k, c, y, x) for x in range(width)] for y in range(height)]
        for c in range(channels)
    ]


def decode_slowly(model: ContextModel, payload: bytes, shape) -> np.ndarray:
    """Symbols ``(C, h, w)`` of a payload, from the description of `rans` alone."""
    words = [int.from_bytes(payload[i : i + 2], "little") for i in range(0, len(payload), 2)]
    state, used = words[0] + words[1] * 65536, 2
    channels, height, width = shape
    k = [[[0] * width for _ in range(height)] for _ in range(channels)]
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                row = model.frequencies[context_slowly(model, k, c, y, x)].tolist()
                rest, slot = divmod(state, 4096)
                s = 0
                while slot >= row[s]:
                    slot -= row[s]
                    s += 1
                state = row[s] * rest + slot
                if state < 65536:
                    state = state * 65536 + words[used]
                    used += 1
                k[c][y][x] = s - int(model.zeros[c])
    assert state == 65536
    assert used == len(words)
    return np.array(k) + model.zeros[:channels, None, None]
