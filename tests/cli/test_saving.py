"""Training goes on from ``last.ckpt`` bit for bit, wherever it was written."""

import os
import shutil
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn

from cdinfer.cli.saving import SaveBest, SaveLast, Stopped
from cdinfer.data.module import DataModule

pytestmark = [
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


#: What validation says of each epoch.
SCORES = (0.5, 0.75, 0.25, 0.125, 1.0, 0.0)


class Steered(LightningModule):
    """A network with dropout and batch statistics, whose target moves in validation."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 5, 4), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.LazyLinear(1)
        )
        self.net(torch.zeros(2, 3, 16, 16))
        self.register_buffer("target", torch.ones(()))
        self.told: list[Any] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.told.append(batch["index"].tolist())
        return (self.net(batch["image"]) - self.target).square().mean()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.error = self.net(batch["image"]).mean() - self.target

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.told.append("validated")
            self.target += 0.1 * self.error.tanh()
            self.log("score", SCORES[self.current_epoch])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.01, 0.9)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Copying(SaveLast):
    """Keeps every checkpoint, under the number of its step."""

    def _save(self, trainer: Trainer) -> None:
        super()._save(trainer)
        path = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        shutil.copy(path, path.with_name(f"{trainer.global_step}.ckpt"))


def fit(
    source: Path,
    folder: Path,
    saver: SaveLast,
    ckpt_path: Path | None = None,
    others: Sequence[Callback] = (),
    **options: Any,
) -> Steered:
    """Train on 12 pictures in batches of 5; return the model."""
    seed_everything(0, verbose=False)
    trainer = Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False,
        callbacks=[*others, saver], enable_progress_bar=False, enable_model_summary=False,
        **options,
    )  # fmt: skip
    data, model = DataModule(str(source), batch_size=5, crop=16), Steered()
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return model


PLANS: dict[str, dict[str, Any]] = {
    "epochs": {"max_epochs": 3, "num_sanity_val_steps": 0},
    "steps, validated within epochs": {
        "max_steps": 8, "val_check_interval": 2, "check_val_every_n_epoch": None,
    },
    "sums of gradients": {"max_epochs": 3, "accumulate_grad_batches": 2, "num_sanity_val_steps": 0},
    "no validation": {"max_epochs": 2, "limit_val_batches": 0},
}  # fmt: skip


@pytest.mark.parametrize("plan", PLANS)
def test_training_goes_on_from_every_step_as_if_it_had_not_stopped(
    plan: str, labelled: Path, tmp_path: Path
) -> None:
    options = PLANS[plan]
    saver = Copying(every_n_train_steps=1)
    whole = fit(labelled, tmp_path / "whole", saver, **options)
    steps = whole.trainer.global_step
    paths = [tmp_path / "whole" / "checkpoints" / f"{step}.ckpt" for step in range(1, steps + 1)]
    for path in paths:
        rest = fit(labelled, tmp_path / "rest", SaveLast(), path, **options)
        assert rest.told == whole.told[len(whole.told) - len(rest.told) :]
        expected = whole.state_dict()
        assert all(torch.equal(x, expected[name]) for name, x in rest.state_dict().items())
        assert rest.trainer.global_step == steps
        moments = [trainer.optimizers[0].state_dict() for trainer in (whole.trainer, rest.trainer)]
        assert str(moments[0]["param_groups"]) == str(moments[1]["param_groups"])


class Signals(SaveLast):
    """Gets a signal in the middle of a step."""

    def __init__(self, number: int, step: int, times: int = 1) -> None:
        super().__init__()
        self.number, self.step, self.times = number, step, times

    def on_before_zero_grad(self, trainer: Trainer, *args: object) -> None:
        if trainer.global_step == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_training_after_its_step(
    number: signal.Signals, labelled: Path, tmp_path: Path
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stop:
        fit(labelled, tmp_path / "first", Signals(number, 4), max_epochs=3)
    stopped = stop.value.__context__
    assert isinstance(stopped, Stopped)
    assert (stopped.number, stopped.steps, stopped.first) == (number, 5, True)
    assert stopped.checkpoint == tmp_path / "first" / "checkpoints" / "last.ckpt"
    assert [path.name for path in stopped.checkpoint.parent.iterdir()] == ["last.ckpt"]
    assert signal.getsignal(number) == before
    rest = fit(labelled, tmp_path / "rest", SaveLast(), stopped.checkpoint, max_epochs=3)
    whole = fit(labelled, tmp_path / "whole", SaveLast(), max_epochs=3)
    expected = whole.state_dict()
    assert all(torch.equal(x, expected[name]) for name, x in rest.state_dict().items())


def test_a_second_signal_stops_at_once(labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        fit(labelled, tmp_path, Signals(signal.SIGINT, 4, times=2), max_epochs=3)
    assert type(stop.value.__context__) is KeyboardInterrupt
    assert not (tmp_path / "checkpoints").exists()  # nothing half done is kept


def test_checkpoints_come_by_the_clock_and_at_the_end(labelled: Path, tmp_path: Path) -> None:
    fit(labelled, tmp_path / "often", Copying(minutes=0), max_epochs=2)
    fit(labelled, tmp_path / "rarely", Copying(minutes=60), max_epochs=2)
    often, rarely = (
        {path.stem for path in (tmp_path / name / "checkpoints").iterdir()}
        for name in ("often", "rarely")
    )
    assert often == {"last", *map(str, range(1, 7))}
    assert rarely == {"last", "6"}


class Unseen(SaveLast):
    """A process on another machine than the first, which does not see what that one wrote."""

    def __init__(self) -> None:
        super().__init__(minutes=0)
        self.steps: list[int] = []

    def _save(self, trainer: Trainer) -> None:
        super()._save(trainer)
        path = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        if path.exists():
            self.steps.append(trainer.global_step)
            path.unlink()


def test_all_processes_save_together_whatever_each_sees_on_its_disk(
    labelled: Path, tmp_path: Path
) -> None:
    saver = Unseen()
    fit(labelled, tmp_path, saver, max_epochs=2)
    assert saver.steps == [1, 2, 3, 4, 5, 6]  # the end asks once more, which is no save


def test_a_checkpoint_knows_which_epoch_was_the_best(labelled: Path, tmp_path: Path) -> None:
    seed_everything(0, verbose=False)
    best = ModelCheckpoint(tmp_path, "best", monitor="epoch", mode="max")
    trainer = Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, callbacks=[best, SaveLast()],
        enable_progress_bar=False, enable_model_summary=False, max_epochs=2,
    )  # fmt: skip
    trainer.fit(Steered(), datamodule=DataModule(str(labelled), batch_size=5, crop=16))
    (state,) = (
        state
        for name, state in torch.load(tmp_path / "last.ckpt", weights_only=True)[
            "callbacks"
        ].items()
        if name.startswith("ModelCheckpoint")
    )
    assert state["best_model_score"] == 1


def test_the_best_so_far_comes_along_into_a_new_folder(labelled: Path, tmp_path: Path) -> None:
    def train(name: str, saver: SaveLast, start: Path | None = None) -> SaveBest:
        best = SaveBest(tmp_path / name, "best", monitor="score", mode="max")
        with suppress(SystemExit):
            fit(labelled, tmp_path / name, saver, start, others=[best], max_epochs=5)
        return best

    first = train("first", Signals(signal.SIGTERM, 7))  # in the third epoch
    rest = train("rest", Signals(signal.SIGTERM, 10), tmp_path / "first" / "last.ckpt")
    assert first.best_model_score == rest.best_model_score == SCORES[1]
    places = [tmp_path / name / "best.ckpt" for name in ("first", "rest")]
    assert rest.best_model_path == str(places[1])
    assert places[0].read_bytes() == places[1].read_bytes()
    last = train("last", SaveLast(), tmp_path / "rest" / "last.ckpt")
    assert last.best_model_score == SCORES[4]
    assert Path(last.best_model_path).read_bytes() != places[0].read_bytes()


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    labelled: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "last.ckpt").write_bytes(b"before")
    (folder / ".last.ckpt.partial").mkdir()  # in the way
    with pytest.raises(OSError, match=r"last\.ckpt\.partial"):
        fit(labelled, tmp_path, SaveLast(), max_epochs=1)
    assert (folder / "last.ckpt").read_bytes() == b"before"


@pytest.mark.parametrize("options", [{"minutes": -1}, {"every_n_train_steps": 0}])
def test_impossible_times_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"--last\.minutes of at least 0"):
        SaveLast(**options)
