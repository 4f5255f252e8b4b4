"""Pieces of work in turns: what is compared shares the machine's good and bad minutes.

One round runs every piece once; a first round warms up and does not count. Both clocks are kept:
the CPU time of this process and its children, which other programs on the machine hardly move, and
the wall clock.
"""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from cdinfer.studies.clock import cpu_clock

#: Called with what is being done.
Progress = Callable[[str], None]


class Work(NamedTuple):
    """Something to time, and how many pictures one call of it deals with."""

    pictures: int
    call: Callable[[], object]


class Times(NamedTuple):
    """Seconds for one picture, round by round."""

    cpu: list[float]
    wall: list[float]


def interleave(
    works: Mapping[str, Work], rounds: int, progress: Progress = lambda title: None
) -> dict[str, Times]:
    """Return the times of every piece of work.

    Args:
        works: what to time, by name.
        rounds: how often; the first round comes on top.
        progress: called before each call.
    """
    times = {name: Times([], []) for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            progress(f"{name}, round {number} of {rounds}")
            cpu, wall = cpu_clock(), time.perf_counter()
            work.call()
            if number:
                times[name].wall.append((time.perf_counter() - wall) / work.pictures)
                times[name].cpu.append((cpu_clock() - cpu) / work.pictures)
    return times
