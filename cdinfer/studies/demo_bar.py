"""A progress bar of one line on the terminal, for people who have never trained anything."""

from typing import Literal

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

#: What is trained -> metrics of its last validation, and how to say them.
METRICS = {
    "codec": {"val/bpp": "{:.3f} bits a pixel", "val/psnr": "{:.1f} dB"},
    "cls": {"val/top1": "{:.0%} of validation pictures right"},
}


class DemoBar(Callback):
    """Show how far a training is, and its last validation.

    Args:
        kind: what is trained.
    """

    def __init__(self, kind: Literal["codec", "cls"]) -> None:
        self.metrics = METRICS[kind]
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
        values = trainer.callback_metrics
        said = [text.format(float(values[k])) for k, text in self.metrics.items() if k in values]
        self.progress.update(self.task, completed=trainer.global_step, description=", ".join(said))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.progress.stop()

    def on_exception(self, *args: object) -> None:
        self.progress.stop()
