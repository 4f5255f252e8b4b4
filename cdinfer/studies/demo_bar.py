"""A progress bar of one line on the terminal, for people who have never trained anything."""

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class DemoBar(Callback):
    """Show how far the training of a classifier is, and its last validation."""

    def __init__(self) -> None:
        columns = (
            TextColumn("    "),
            BarColumn(28),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        console = Console(stderr=True)
        hidden = not console.is_terminal
        self.progress = Progress(*columns, console=console, transient=True, disable=hidden)
        self.task = self.progress.add_task("")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.progress.update(self.task, total=trainer.estimated_stepping_batches)
        self.progress.start()

    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        top1 = trainer.callback_metrics.get("val/top1")
        said = "" if top1 is None else f"{float(top1):.0%} of validation pictures right"
        self.progress.update(self.task, completed=trainer.global_step, description=said)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.progress.stop()

    def on_exception(self, *args: object) -> None:
        self.progress.stop()
