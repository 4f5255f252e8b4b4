"""``checkpoints/last.ckpt``: where training goes on, exactly; ``best.ckpt`` goes along.

``last.ckpt`` is written every few minutes, when training ends, and when SIGINT (Ctrl-C) or SIGTERM
asks to stop; always between two steps, and where a validation follows a step, after that:
validation may steer training, and Lightning does not make up for one that was missed. Everything
random in a step (dropout) follows from (seed, epoch, batch, process), so that nothing else need be
kept.
"""

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn

from cdinfer.bitstream.atomic import write_atomically

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal has ended training, and a checkpoint is there to go on from.

    Args:
        number: of the signal.
        checkpoint: to go on from.
        steps: that training has made.
        first: whether this is the first of several processes, which speaks for all.
    """

    def __init__(self, number: int, checkpoint: Path, steps: int, first: bool) -> None:
        super().__init__(number, checkpoint, steps, first)
        self.number, self.checkpoint, self.steps, self.first = number, checkpoint, steps, first


class SaveBest(ModelCheckpoint):
    """Write ``best.ckpt``; a training that goes on in a new folder takes the best so far along.

    Takes what ``ModelCheckpoint`` takes, which forgets the best when its folder is another.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._trainer = trainer  # which does not know yet what it resumes from

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        name = Path(state_dict["best_model_path"]).name
        old = Path(self._trainer.ckpt_path or "").parent
        path = Path(self.dirpath or "", name)
        if name and (old / name).is_file() and (old / name).resolve() != path.resolve():
            if self._trainer.is_global_zero:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, (old / name).read_bytes())
            place, score = str(path), state_dict["best_model_score"]
            state_dict = {
                **state_dict,
                "dirpath": self.dirpath,
                "best_model_path": place,
                "best_k_models": {place: score},
                "kth_best_model_path": place,
                "kth_value": score,
                "last_model_path": "",
            }
        super().load_state_dict(state_dict)


class SaveLast(Checkpoint):
    """Write ``last.ckpt`` now and then, and when training is told to stop.

    Args:
        minutes: between two checkpoints.
        every_n_train_steps: steps between two checkpoints; by time alone if not given.
    """

    def __init__(self, minutes: float = 5.0, every_n_train_steps: int | None = None) -> None:
        if minutes < 0 or (every_n_train_steps is not None and every_n_train_steps < 1):
            raise ValueError(
                "expected --last.minutes of at least 0 and --last.every_n_train_steps of at "
                f"least 1, got {minutes} and {every_n_train_steps}"
            )
        self.minutes, self.every_n_train_steps = minutes, every_n_train_steps
        self._heard, self._stop, self._due = 0, 0, False
        self._step, self._saved, self._time = 0, 0, 0.0
        self._handlers: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to signals from now on: there is something to keep."""
        self._seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        self._speaks = trainer.is_global_zero
        self._step, self._saved = trainer.global_step, -1  # this run has saved nothing yet
        self._time = time.monotonic()
        if threading.current_thread() is threading.main_thread():  # no other may listen
            self._handlers = {number: signal.signal(number, self._hear) for number in SIGNALS}

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Make what is random in this step independent of all that came before."""
        place = (self._seed, trainer.current_epoch, batch_idx, trainer.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        if trainer.global_step == self._step:  # gradients of several batches are being summed up
            return
        self._step = trainer.global_step
        last_epoch = trainer.current_epoch + 1 == trainer.max_epochs
        if (
            self._agreed(trainer)
            or (self.every_n_train_steps and self._step % self.every_n_train_steps == 0)
            or self._step == trainer.max_steps
            or (last_epoch and trainer.is_last_batch)
        ):
            self._due = True
        batches = trainer.fit_loop._data_fetcher
        assert batches is not None
        if not trainer.fit_loop.epoch_loop._should_check_val_fx(batches):
            self._save_within_epoch(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._due |= self._agreed(trainer)
            self._save_within_epoch(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after others, which may have found that this epoch was the best so far."""
        if _ends_epoch(trainer) and (self._agreed(trainer) or self._due):
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what something else has stopped."""
        if self._agreed(trainer) or trainer.global_step != self._saved:
            self._save(trainer)
        self._stop_listening()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop_listening()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._stop_listening()

    def _stop_listening(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._handlers.clear()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        """Stop when this step is over; at the second signal, at once."""
        if self._heard:
            raise KeyboardInterrupt
        self._heard = number
        if self._speaks:  # print is not for signal handlers
            os.write(2, b"\nstopping after this step; once more stops at once, without saving it\n")

    def _agreed(self, trainer: Trainer) -> bool:
        """Return whether to save now: a process got a signal, or the first says that it is time."""
        wish = self._heard
        if not wish and trainer.is_global_zero:
            wish = int(time.monotonic() - self._time >= 60 * self.minutes)
        if trainer.world_size > 1:
            device = trainer.strategy.root_device
            wish = int(trainer.strategy.reduce(torch.tensor(wish, device=device), reduce_op="max"))
        self._stop = wish if wish in SIGNALS else 0
        return bool(wish)

    def _save_within_epoch(self, trainer: Trainer) -> None:
        if self._due and not _ends_epoch(trainer):
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        """Write the checkpoint; raise `Stopped` if a signal asked for that.

        Raises:
            OSError: if it cannot be written; the one before stays.
        """
        saver, self._due = trainer.checkpoint_callback, False
        folder = saver.dirpath if isinstance(saver, ModelCheckpoint) else None
        folder = Path(folder or Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints")
        path, partial = folder / "last.ckpt", folder / ".last.ckpt.partial"
        known = self._saved == trainer.global_step  # all processes say the same, whatever they see
        if not known and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            try:
                trainer.save_checkpoint(partial, weights_only=False)
                if trainer.is_global_zero:
                    with partial.open("rb") as file:
                        os.fsync(file.fileno())
                    partial.replace(path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
        self._saved, self._time = trainer.global_step, time.monotonic()
        if self._stop:
            raise Stopped(self._stop, path, trainer.global_step, self._speaks)


def _ends_epoch(trainer: Trainer) -> bool:
    """Return whether an epoch ends with this step; Lightning counts in steps or in epochs."""
    return trainer.is_last_batch and trainer.max_steps == -1
