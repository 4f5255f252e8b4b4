"""A progress bar of one line on stderr, for people who have never trained anything."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class DemoBar(Callback):
    """Show how far a training is, and the last validation.

    Args:
        title: what is trained.
        metrics: ``val/...`` name -> how to say its value, as in ``{"val/bpp": "{:.3f} bpp"}``.
        disable: show nothing.
    """

    def __init__(self, title: str, metrics: dict[str, str], disable: bool = False) -> None:
        self.title, self.metrics = title, metrics
        columns = (TextColumn("     {task.description}"), BarColumn(28), TimeRemainingColumn())
        console = Console(stderr=True)
        self.progress = Progress(*columns, console=console, transient=True, disable=disable)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.progress.start()
        self.progress.add_task(self.title, total=trainer.estimated_stepping_batches)

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **options: Any) -> None:
        values = trainer.callback_metrics
        said = [text.format(float(values[k])) for k, text in self.metrics.items() if k in values]
        description = ", ".join([self.title, *said])
        for task in self.progress.task_ids:
            self.progress.update(task, completed=trainer.global_step, description=description)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.progress.stop()

    def on_exception(self, *args: Any) -> None:
        self.progress.stop()
