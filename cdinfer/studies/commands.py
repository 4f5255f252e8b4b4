"""Commands in processes of their own: what they said, how long they took, and stopping them all."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

#: What a command ends with that was asked to stop.
STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)


class Ended(NamedTuple):
    """A command that did its work: its output, and seconds by the clock and of all processors."""

    said: str
    seconds: float
    cpu_seconds: float


class Commands:
    """Commands of several threads, until :meth:`stop`."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._running: set[int] = set()

    def run(self, words: Sequence[str], log: Path, lock: int) -> Ended:
        """Run a command, which holds the lock as well; its output goes to the log, too.

        Args:
            words: arguments of ``cdinfer``, or ``python`` and its own.
            log: file to append to.
            lock: descriptor that the process gets.

        Raises:
            KeyboardInterrupt: if it was asked to stop.
            ValueError: if it fails.
        """
        ours = words[0] != "python"
        line = [sys.executable, *(["-m", "cdinfer", *words] if ours else words[1:])]
        start = time.monotonic()
        with log.open("ab") as file:
            process = self._start(line, file.fileno(), lock)
            assert process.stdout is not None
            with process.stdout:
                said = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            with self._lock:
                self._running.discard(process.pid)
            process.returncode = os.waitstatus_to_exitcode(status)
            file.write(said)
        if process.returncode in STOPPED:
            raise KeyboardInterrupt
        if process.returncode:
            lines = log.read_text("utf-8", "replace").splitlines()
            raise ValueError(
                f"{'cdinfer ' if ours else ''}{words[0]} ended with status {process.returncode}: "
                f"{lines[-1] if lines else 'no output'} (all of it: {log})"
            )
        seconds = time.monotonic() - start
        return Ended(said.decode("utf-8", "replace"), seconds, usage.ru_utime + usage.ru_stime)

    def stop(self) -> None:
        """Ask all commands to stop, and start no more."""
        with self._lock:
            self.stopped.set()
            for process in self._running:
                os.kill(process, signal.SIGTERM)

    def _start(self, line: list[str], log: int, lock: int) -> subprocess.Popen[bytes]:
        with self._lock:
            if self.stopped.is_set():
                raise KeyboardInterrupt
            process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=log, pass_fds=(lock,))
            self._running.add(process.pid)
        return process
