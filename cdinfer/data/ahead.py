"""A thread that makes the next few items while the last one is used.

Decoding runs without Python's global lock (numba, Pillow), so a thread does what worker processes
would do, without copies between processes and without their start.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def read_ahead(items: Iterator[T], depth: int) -> Iterator[T]:
    """Yield ``items``, of which a thread makes the next ``depth`` at any time.

    An error of the thread is raised where its item would have come. When the consumer stops
    early, or Python ends, the item in the making is finished and the thread ends with it.

    Example:
        >>> list(read_ahead(iter("abc"), 2))
        ['a', 'b', 'c']
    """
    end: Any = object()
    with ThreadPoolExecutor(1, "cdinfer-read-ahead") as thread:
        ahead = deque(thread.submit(next, items, end) for _ in range(depth))
        try:
            while (item := ahead.popleft().result()) is not end:
                ahead.append(thread.submit(next, items, end))
                yield item
        finally:
            thread.shutdown(cancel_futures=True)
