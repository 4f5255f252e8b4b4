"""Shards made by several processes, each a whole one at a time.

    parent --jobs--> workers --shards, in any order--> parent, which alone writes to the disk

A worker that loses its parent ends, at the latest after the pictures it is encoding; Ctrl-C is the
parent's business. The cores are shared: N workers get an Nth of the threads each.
"""

import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import cast

import torch

from cdinfer.codecs import CAE
from cdinfer.codecs.stored import read_codec
from cdinfer.data.encoding import Job, Work, make_shard, prepare
from cdinfer.data.writer import Made


def make_shards(
    work: Work,
    codec: CAE,
    jobs: Iterable[Job],
    workers: int,
    progress: Callable[[str, int], None],
) -> Generator[Made, None, None]:
    """Yield the shards of ``jobs`` as they are ready; those of one worker in order.

    Args:
        work: what all shards share.
        codec: as it was read; processes read their own.
        jobs: the shards to make.
        workers: processes; 1 makes the shards in this one. No more are started than shards.
        progress: called with a split and the number of pictures just encoded.

    Raises:
        ValueError: if a picture cannot be read, or a process was killed.
    """
    queue = deque(jobs)
    if min(workers, len(queue)) <= 1:
        codec = prepare(codec, work)
        for job in queue:
            yield make_shard(codec, work, job, partial(progress, job.split))
        return
    with _started(work, min(workers, len(queue))) as processes:
        busy: dict[Connection, Job] = {}
        for connection, process in processes.items():
            busy[connection] = queue.popleft()
            _send(connection, process, busy[connection])
        while busy:
            for connection in cast(list[Connection], wait(list(busy))):
                message = _receive(connection, processes[connection])
                if isinstance(message, int):
                    progress(busy[connection].split, message)
                    continue
                del busy[connection]
                if queue:
                    busy[connection] = queue.popleft()
                    _send(connection, processes[connection], busy[connection])
                yield message


@contextmanager
def _started(work: Work, count: int) -> Iterator[dict[Connection, BaseProcess]]:
    """Start processes; end them, wherever they are, when the block is left."""
    context = get_context("spawn")
    threads = max(1, torch.get_num_threads() // count)
    processes: dict[Connection, BaseProcess] = {}
    resource_tracker.ensure_running()  # its start lets Ctrl-C through again
    with ExitStack() as stack:
        for _ in range(count):
            ours, theirs = context.Pipe()
            stack.enter_context(closing(ours))
            process = context.Process(target=_serve, args=(theirs, work, threads), daemon=True)
            with closing(theirs), _deaf():
                process.start()
            stack.callback(process.join)
            stack.callback(process.terminate)  # they write nothing, so there is nothing to finish
            processes[ours] = process
        yield processes


@contextmanager
def _deaf() -> Iterator[None]:
    """Start processes that never hear Ctrl-C; this one hears it when the block is left."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _send(connection: Connection, process: BaseProcess, job: Job) -> None:
    try:
        connection.send(job)
    except OSError as error:
        raise _lost(process) from error


def _receive(connection: Connection, process: BaseProcess) -> Made | int:
    try:
        message = connection.recv()
    except (EOFError, OSError) as error:
        raise _lost(process) from error
    if isinstance(message, Exception):
        raise message
    assert isinstance(message, Made | int)
    return message


def _lost(process: BaseProcess) -> ValueError:
    process.join()
    code = process.exitcode or 0
    how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
    return ValueError(
        f"a worker process {how}, perhaps for want of memory: give fewer --workers; the same "
        "command goes on where this one stopped"
    )


def _serve(connection: Connection, work: Work, threads: int) -> None:
    """Make shards until there is no one left to make them for."""
    torch.set_num_threads(threads)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            codec = prepare(read_codec(work.codec), work)
            while True:
                connection.send(make_shard(codec, work, connection.recv(), connection.send))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:
            connection.send(ValueError(str(error)) if isinstance(error, ValueError) else error)
