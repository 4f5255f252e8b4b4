"""How far long work is: one line on a terminal's stderr, nothing elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


class Advance(Protocol):
    """Goes on by ``count``, from now on under ``title`` if there is one."""

    def __call__(self, count: int = 1, title: str | None = None) -> None: ...


@contextmanager
def bar(title: str, total: int, quiet: bool = False) -> Iterator[Advance]:
    """Show how much of ``total`` is done and how long the rest will take."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),  # names of files are no markup
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with _line(columns, quiet) as progress:
        task = progress.add_task(title, total=total)

        def advance(count: int = 1, title: str | None = None) -> None:
            progress.update(task, advance=count, description=title)

        yield advance


@contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """Show what is being done, and for how long already."""
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    # Two pictures a second: drawing takes time from what is measured.
    with _line(columns, quiet=False, refresh=2) as progress:
        task = progress.add_task("")

        def say(title: str) -> None:
            progress.update(task, description=title)

        yield say


@contextmanager
def _line(
    columns: "tuple[ProgressColumn, ...]", quiet: bool, refresh: float = 10
) -> "Iterator[Progress]":
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    hidden = quiet or not console.is_terminal
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=hidden,
        refresh_per_second=refresh,
    ) as progress:
        yield progress
