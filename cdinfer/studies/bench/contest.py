"""Bytes -> answers, ours against peers', in one engine after the other.

    files --read--> latents or pixels --decoder--> pixels --network--> logits --finish--> answers

Decoders and networks of both sides run in the same engine with the same precision; what is between
them, and JPEG and entropy decoding, is the same for all engines. A case tells how many times the
multiply-accumulates of ours the peer needs. The ideal is the peer's time over that number: what
ours would take if time went by them alone.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cdinfer.models import count_macs
from cdinfer.runs.engines import Engine, Precision, installed, prepare
from cdinfer.studies.bench.fronts import Front
from cdinfer.studies.bench.rows import NOT_INSTALLED, timed
from cdinfer.studies.bench.timing import Progress, Work, interleave
from cdinfer.studies.records import Row

#: Calls of one picture in a round.
SINGLES = 4

Call = Callable[[Tensor], Tensor]


class Entry(NamedTuple):
    """A way from files to answers.

    Attributes:
        front: from files to what the network reads.
        network: its name.
        net: pixels or latents -> logits.
        macs: multiply-accumulates for one picture, all in all.
        finish: logits -> answers.
    """

    front: Front
    network: str
    net: nn.Module
    macs: int
    finish: Callable[[Tensor], object]

    @property
    def name(self) -> str:
        """What rows call it."""
        return f"{self.network} on {self.front.name}"


def enter(front: Front, network: str, net: nn.Module, finish: Callable[[Tensor], object]) -> Entry:
    """Return an entry, its work counted."""
    return Entry(front, network, net, front.macs + count_macs(net, (1, *front.sees)), finish)


def compare(
    bench: str,
    what: str,
    ours: Sequence[Entry],
    peers: dict[str, Entry | None],
    batches: Sequence[int],
    rounds: int,
    progress: Progress,
    engines: Sequence[Engine] | None = None,
) -> list[Row]:
    """Return the time of each of ours against each peer.

    Args:
        bench: of the rows.
        what: is answered, for their cases.
        ours: entries.
        peers: by name; ``None`` for one that is not installed.
        batches: pictures a call.
        rounds: how often each runs.
        progress: called with what is being done.
        engines: which; default: all that are installed.
    """
    rows = []
    there = [entry for entry in (*ours, *peers.values()) if entry is not None]
    sizes = list(dict.fromkeys(min(batch, len(ours[0].front.files)) for batch in batches))
    for engine, precision in plans(engines):
        progress(f"{bench}: preparing networks for {engine}, {precision}")
        calls = prepare_all(there, engine, precision)
        works = {
            f"{name}, {batch} at once": _work(call, entry.front.files, batch)
            for (name, call), entry in zip(calls.items(), there, strict=True)
            for batch in sizes
        }
        times = interleave(works, rounds, lambda title: progress(f"{bench}: {title}"))
        cpu = {name: clock.cpu for name, clock in times.items()}
        for batch in sizes:
            start = f"{engine} {precision}, batch {batch}, {what}, "
            for mine in ours:
                for name, peer in peers.items():
                    seconds = cpu[f"{mine.name}, {batch} at once"]
                    case = f"{start}{mine.name} vs "
                    if peer is None:
                        case += f"{name} ({NOT_INSTALLED})"
                        rows.append(timed(bench, case, "ms/picture", seconds))
                        continue
                    theirs, macs = cpu[f"{peer.name}, {batch} at once"], peer.macs / mine.macs
                    case += f"{peer.name} ({macs:.2f}x the MACs)"
                    ideal = [time / macs for time in theirs]
                    rows.append(timed(bench, case, "ms/picture", seconds, theirs, ideal))
    return rows


def plans(engines: Sequence[Engine] | None = None) -> list[tuple[Engine, Precision]]:
    """Return engines with the precisions they have.

    Example:
        >>> plans(["torch", "onnx"])
        [('torch', 'fp32'), ('torch', 'bf16'), ('onnx', 'fp32')]
    """
    both: tuple[Precision, ...] = ("fp32", "bf16")
    chosen = installed() if engines is None else engines
    return [(engine, p) for engine in chosen for p in both if (engine, p) != ("onnx", "bf16")]


def prepare_all(
    entries: Sequence[Entry], engine: Engine, precision: Precision
) -> dict[str, Callable[[Sequence[Any]], object]]:
    """Return what answers files, by the names of the entries; networks are shared as theirs are."""
    ready: dict[nn.Module, Call] = {}

    def get(net: nn.Module, channels: int) -> Call:
        if net not in ready:
            ready[net] = prepare(net, channels, engine, precision)
        return ready[net]

    calls = {}
    for entry in entries:
        decoder, channels = entry.front.decoder, entry.front.shape[0]
        decode = None if decoder is None else get(decoder, channels)
        net = get(entry.net, channels if decoder is None else 3)
        calls[entry.name] = _join(entry, decode, net)
    return calls


def _join(entry: Entry, decode: Call | None, net: Call) -> Callable[[Sequence[Any]], object]:
    @torch.inference_mode()
    def answer(files: Sequence[Any]) -> object:
        x = entry.front.read(files)
        return entry.finish(net(x if decode is None else decode(x)))

    return answer


def _work(answer: Callable[[Sequence[Any]], object], files: Sequence[Any], batch: int) -> Work:
    starts = range(SINGLES) if batch == 1 else (0,)
    parts = [files[start : start + batch] for start in starts if start < len(files)]

    def work() -> None:
        for part in parts:
            answer(part)

    return Work(batch * len(parts), work)
