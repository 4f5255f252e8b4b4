"""Inputs in child processes, so that a crash, a hang or gigabytes are findings, too.

A child reads many inputs, one after the other, under limits: of processor time an input, of
address space, and of resident memory over what it started with. It tells which input it is at, so
what kills it has a number. The next child goes on behind that one.
"""

import gc
import multiprocessing
import resource
import signal
import time
from collections.abc import Iterator, MutableSequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from random import Random

import torch

from tools.fuzz.kinds import Case, Kind

#: Limits of an input: seconds of processor time, and of any time; bytes over the baseline.
SECONDS, PATIENCE, MEMORY = 2, 60, 200 * 10**6
#: Address space a child may add, so that a mistake here harms no one else.
ADDRESS_SPACE = 2**31
#: Inputs of a child.
BATCH = 5000
#: Inputs after which garbage is collected.
COLLECT = 50

_fork = multiprocessing.get_context("fork")


@dataclass
class Count:
    """What became of inputs: their number, how many were accepted, seconds, peak in bytes."""

    inputs: int = 0
    accepted: int = 0
    seconds: float = 0.0
    peak: int = 0


@dataclass
class Finding:
    """An input that should have been refused in one line, or read right."""

    kind: str
    number: int
    case: Case
    text: str


def case_of(kind: Kind, seed: int, number: int) -> Case:
    """Return one input, by its number."""
    return kind.make(Random(f"{seed} {kind.name} {number}"))


def hunt(kind: Kind, seed: int, count: int, deadline: float, total: Count) -> Iterator[Finding]:
    """Try inputs 0 to ``count - 1``, or until ``deadline`` of `time.monotonic`; yield findings.

    ``total`` is brought up to date as they come.
    """
    for _ in range(2):  # imports and compiles what children then need not
        outcome = kind.judge(kind.whole_case())
        assert outcome == (True, ""), outcome
    start = time.monotonic()
    while total.inputs < count and time.monotonic() < deadline:
        for number, text in _batch(kind, seed, min(count, total.inputs + BATCH), deadline, total):
            yield Finding(kind.name, number, case_of(kind, seed, number), text)
        total.seconds = time.monotonic() - start


def _batch(
    kind: Kind, seed: int, stop: int, deadline: float, total: Count
) -> Iterator[tuple[int, str]]:
    """Run one child from ``total.inputs`` on; yield number and text of what it finds."""
    first = total.inputs
    at = _fork.RawArray("q", [first, 0, 0])  # the input it is at, how many accepted, peak
    ours, theirs = _fork.Pipe(duplex=False)
    child = _fork.Process(target=_work, args=(kind, seed, first, stop, at, theirs), daemon=True)
    child.start()
    theirs.close()
    seen, since, killed, late = first, time.monotonic(), "", False
    try:
        while True:
            if not ours.poll(1):
                now = time.monotonic()
                if at[0] != seen:
                    seen, since = at[0], now
                if now - since > PATIENCE:
                    killed = f"it waits for something for {PATIENCE} s"
                late = late or now > deadline
                if killed or late:
                    child.kill()
                continue
            try:
                yield ours.recv()
            except EOFError:
                break
        child.join()
    finally:
        late = late or child.exitcode is None  # whoever asked for findings wants no more
        child.kill()
        child.join()
        total.accepted += at[1]
        total.peak = max(total.peak, at[2])
    total.inputs = at[0]
    if child.exitcode and (killed or not late):  # a machine out of memory kills, too
        yield total.inputs, killed or _cause(child.exitcode)
        total.inputs += 1


def _work(
    kind: Kind, seed: int, first: int, stop: int, at: MutableSequence[int], out: Connection
) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    base = _peak()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + ADDRESS_SPACE, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    gc.freeze()
    for number in range(first, stop):
        if number % COLLECT == 0:
            gc.collect()  # what errors hold on to is no leak
        at[0] = number
        case = case_of(kind, seed, number)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        accepted, text = kind.judge(case)
        signal.setitimer(signal.ITIMER_PROF, 0)
        at[1] += accepted
        at[2] = max(at[2], _peak() - base)
        if text:
            out.send((number, text))
        if _peak() - base > MEMORY:
            out.send((number, f"it takes {(_peak() - base) / 1e6:.0f} MB"))
            break  # a peak stays: the next child starts anew
    at[0] = number + 1


def _cause(status: int) -> str:
    if status == -signal.SIGPROF:
        return f"it takes more than {SECONDS} s"
    if status < 0:
        return f"the process dies of {signal.Signals(-status).name}"
    return f"the process exits with {status}"


def _peak() -> int:
    """Return the most resident bytes so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
