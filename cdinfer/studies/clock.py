"""Clocks, and quiet for them: what is measured runs in one thread."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def cpu_clock() -> float:
    """Return the CPU time of this process and of its finished children, in seconds."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread for a while; all else that is measured has one anyway."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
