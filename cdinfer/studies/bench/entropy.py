"""Entropy coding: 28 x 28 symbols of every channel, the crop that a 224-pixel network reads.

All static coders use tables that fit the very symbols. Each coder decodes what it encoded, which is
compared before anything is timed. The ideal of a time is a copy of the symbols; that of a size is
what our tables cost, without headers or rounding to words.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from cdinfer.bitstream import rans
from cdinfer.codecs import CAE
from cdinfer.codecs.stored import read_codec
from cdinfer.studies.bench import coders
from cdinfer.studies.bench.pictures import Pictures
from cdinfer.studies.bench.rows import against, counted, timed
from cdinfer.studies.bench.timing import Progress, Work, interleave
from cdinfer.studies.records import Row

BENCH = "entropy"
PICTURES = 64
CODECS = (("cae-lite", 0.33),)

SIDE = 28
COPY = "copying the symbols"


def run(pictures: Pictures, codecs: Sequence[Path], rounds: int, progress: Progress) -> list[Row]:
    """Return speed and bytes of every coder, each of ours against each peer.

    Args:
        pictures: whose symbols are coded.
        codecs: folders of the codecs that make them.
        rounds: each runs once in a round.
        progress: called with what is being done.
    """
    return [row for folder in codecs for row in _bench(folder, pictures, rounds, progress)]


def _bench(folder: Path, pictures: Pictures, rounds: int, progress: Progress) -> list[Row]:
    codec = read_codec(folder)
    progress(f"{BENCH}: encoding pictures")
    symbols = _symbols(codec, pictures)
    assert codec.model is not None
    static, shape, count = coders.fit_static(symbols), symbols.shape[1:], len(symbols)
    models = {"static": static, "context": codec.model}
    all_coders = {name: coders.ours(model, shape) for name, model in models.items()}
    for name in coders.PEERS:
        if coder := coders.make_peer(name, static, shape):
            all_coders[name] = coder
    payloads = {name: coder.encode(symbols) for name, coder in all_coders.items()}
    works = {COPY: Work(count, symbols.copy)}
    for name, (encode, decode) in all_coders.items():
        same = np.asarray(decode(payloads[name])) == symbols
        assert same.all(), f"{name} decodes other symbols than it encoded"
        works |= {
            f"decode {name}": Work(count, partial(decode, payloads[name])),
            f"decode {name} alone": Work(count, partial(_alone, decode, payloads[name])),
            f"encode {name}": Work(count, partial(encode, symbols)),
        }
    times = interleave(works, rounds, lambda title: progress(f"{BENCH}: {title}"))
    sizes = {n: sum(len(bytes(p)) for p in some) / count for n, some in payloads.items()}
    rows, what = [], f"{codec.name} {codec.bpp:g}"
    cpu = {name: clock.cpu for name, clock in times.items()}
    for name, model in models.items():
        for peer in coders.PEERS:
            there = peer in all_coders
            for verb, text in (("decode {}", ""), ("decode {} alone", ", one stream at a time"),
                               ("encode {}", "")):  # fmt: skip
                case = against(f"{verb.split()[0]} {name}{text}, {what}", peer, there)
                mine, theirs = cpu[verb.format(name)], cpu.get(verb.format(peer))
                rows.append(timed(BENCH, case, "us/picture", mine, theirs, cpu[COPY]))
            ideal = float(rans.ideal_bits(symbols, model).mean() / 8)
            case = against(f"bytes {name}, {what}", peer, there)
            rows.append(counted(BENCH, case, "bytes/picture", sizes[name], sizes.get(peer), ideal))
    return rows


def _symbols(codec: CAE, pictures: Pictures) -> coders.Symbols:
    """Return ``(B, C, 28, 28)``, less of smaller pictures."""
    planes = [codec.symbols(x).numpy() for x in pictures.batches()]
    return np.ascontiguousarray(np.concatenate(planes)[..., :SIDE, :SIDE])


def _alone(decode: coders.Decode, payloads: Sequence[object]) -> None:
    for payload in payloads:
        decode([payload])
