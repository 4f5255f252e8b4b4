import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from cdinfer.data.ahead import read_ahead


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("cdinfer-read-ahead")]


def broken() -> Iterator[int]:
    yield from range(3)
    raise OSError("the disk is gone")


@pytest.mark.parametrize("depth", [1, 2, 9])
def test_items_come_in_order_and_then_the_error(depth: int) -> None:
    items = read_ahead(broken(), depth)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)
    assert not threads()


def test_a_thread_ends_with_what_it_reads() -> None:
    assert list(read_ahead(iter(range(5)), 3)) == list(range(5))
    assert list(read_ahead(iter(range(0)), 3)) == []
    assert not threads()


ENDLESS = """
import itertools, os, signal, sys, time
from cdinfer.data.ahead import read_ahead

def slow():
    for number in itertools.count():
        time.sleep(0.05)
        yield number

batches = read_ahead(slow(), 2)
assert next(batches) == 0
if sys.argv[1] == "exit":
    sys.exit(3)
elif sys.argv[1] == "interrupt":
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
elif sys.argv[1] == "while waiting":
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    for _ in batches:
        pass
raise RuntimeError("by its consumer")
"""


@pytest.mark.parametrize(
    ("how", "status"), [("exit", 3), ("interrupt", -2), ("while waiting", -2), ("error", 1)]
)
def test_python_ends_while_a_thread_reads(how: str, status: int) -> None:
    command = [sys.executable, "-c", ENDLESS, how]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == status
