import subprocess
import sys
import time

import pytest
import torch

from cdinfer.studies.bench.timing import Work, interleave
from cdinfer.studies.clock import cpu_clock, one_thread


def test_what_is_compared_runs_in_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []
    works = {name: Work(1, lambda n=name: order.append(n)) for name in "ab"}
    times = interleave(works, 3)
    assert order == ["a", "b"] * 4
    assert {name: (len(t.cpu), len(t.wall)) for name, t in times.items()} == {
        "a": (3, 3), "b": (3, 3),
    }  # fmt: skip


def test_times_are_of_one_picture_and_sleeping_takes_no_cpu() -> None:
    (sleep,) = interleave({"sleep": Work(10, lambda: time.sleep(0.1))}, 1).values()
    assert sleep.wall[0] == pytest.approx(0.01, rel=0.9)
    assert sleep.cpu[0] < sleep.wall[0] / 2


def test_the_cpu_time_of_children_counts() -> None:
    before = cpu_clock()
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    child = cpu_clock() - before
    assert child > 0.01


def test_progress_says_what_runs() -> None:
    said: list[str] = []
    interleave({"a": Work(1, int)}, 1, said.append)
    assert said == ["a, round 0 of 1", "a, round 1 of 1"]


def test_torch_gets_its_threads_back() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
