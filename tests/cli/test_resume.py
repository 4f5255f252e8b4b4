"""Real trainings in real processes: killed, stopped, resumed; two of them over gloo."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from cdinfer.data.export import Plan, export
from cdinfer.data.layout import find_pictures
from tests.cli.test_lightning import finish, load, start

pytestmark = pytest.mark.slow

#: 3 steps an epoch, so that most checkpoints fall into the middle of one.
EPOCHS, EVERY = 12, 5


def train(shards: Path, processes: int, workers: int) -> list[str]:
    """Return the arguments of 36 steps on 4 samples each."""
    options = ["--model.net.width", "0.125", "--data.crop", "32", "--data.workers", str(workers)]
    options += ["--data.batch_size", str(4 // processes), "--trainer.accelerator", "cpu"]
    options += ["--trainer.max_epochs", str(EPOCHS), "--last.every_n_train_steps", str(EVERY)]
    options += ["--trainer.check_val_every_n_epoch", "3", "--trainer.log_every_n_steps", "1"]
    if processes > 1:
        options += ["--trainer.devices", str(processes), "--trainer.strategy", "ddp"]
    return ["train", "--task", "cls", "--data", str(shards), *options]


def last_checkpoint(place: Path, version: int = 0) -> Path:
    return place / "runs" / "cls" / f"version_{version}" / "checkpoints" / "last.ckpt"


def complete(args: list[str], place: Path, version: int = 0) -> dict[str, Any]:
    """Train to the end; return the last checkpoint."""
    place.mkdir(exist_ok=True)
    with (place / f"log_{version}").open("w") as output:
        status = finish(start(args, place, output), 300)
    assert status == 0, (place / f"log_{version}").read_text()
    return load(last_checkpoint(place, version))


def stop(args: list[str], place: Path, number: signal.Signals) -> int:
    """Train until there is a checkpoint, of step 5 or 10, say, then send a signal."""
    place.mkdir()
    with (place / "log").open("w") as output:
        process = start(args, place, output)
        try:
            deadline = time.monotonic() + 300
            while not last_checkpoint(place).exists():
                assert process.poll() is None, (place / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            if number == signal.SIGKILL:
                os.killpg(process.pid, number)  # every process at once
            else:
                process.send_signal(number)  # the first process alone; it tells the others
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return finish(process, 300)


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Check that weights, statistics, momenta and learning rates are equal bit for bit."""
    assert a["global_step"] == b["global_step"] == 3 * EPOCHS
    assert a["state_dict"].keys() == b["state_dict"].keys()
    assert all(torch.equal(x, b["state_dict"][name]) for name, x in a["state_dict"].items())
    (first,), (second,) = a["optimizer_states"], b["optimizer_states"]
    for number, state in first["state"].items():
        assert torch.equal(state["momentum_buffer"], second["state"][number]["momentum_buffer"])
    assert first["param_groups"] == second["param_groups"]
    assert a["lr_schedulers"] == b["lr_schedulers"]


@pytest.mark.parametrize(
    ("processes", "workers"), [(1, 0), (1, 2), (2, 0), (2, 2)], ids=lambda n: str(n)
)
def test_a_killed_training_ends_with_the_weights_of_one_that_was_not(
    processes: int, workers: int, shards: Path, tmp_path: Path
) -> None:
    args = train(shards, processes, workers)
    whole = complete(args, tmp_path / "whole")
    killed = tmp_path / "killed"
    assert stop(args, killed, signal.SIGKILL) == -signal.SIGKILL
    step = load(last_checkpoint(killed))["global_step"]
    assert step % EVERY == 0
    assert step < whole["global_step"]
    resumed = complete([*args, "--ckpt_path", str(last_checkpoint(killed))], killed, 1)
    assert_same(whole, resumed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_stops_all_processes_and_training_goes_on(
    processes: int, number: signal.Signals, shards: Path, tmp_path: Path
) -> None:
    args = train(shards, processes, 0)
    place = tmp_path / "stopped"
    assert stop(args, place, number) == 128 + number
    lines = (place / "log").read_text().splitlines()
    step = load(last_checkpoint(place))["global_step"]
    assert lines[-1].startswith(f"cdinfer train: stopped after {step} steps; to go on, add")
    assert sum(line.startswith("cdinfer train:") for line in lines) == 1  # one process speaks
    assert "Traceback" not in "".join(lines)
    checkpoint = lines[-1].rpartition("--ckpt_path ")[2]
    assert_same(
        complete(args, tmp_path / "whole"), complete([*args, "--ckpt_path", checkpoint], place, 1)
    )


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_training_goes_on_on_another_number_of_processes(
    before: int, after: int, shards: Path, tmp_path: Path
) -> None:
    place = tmp_path / "stopped"
    stop(train(shards, before, 0), place, signal.SIGINT)
    flags = ["--ckpt_path", str(last_checkpoint(place))]
    # the flags of before, but for the number of processes
    args = [*train(shards, before, 0), "--trainer.devices", str(after), "--trainer.strategy"]
    resumed = complete([*args, "ddp" if after > 1 else "auto", *flags], place, 1)
    assert resumed["global_step"] == 3 * EPOCHS
    assert resumed["DataModule"]["batch_size"] * after == 4
    log = (place / "log_1").read_text()
    assert f"resuming on {after} processes with batches of {4 // after} samples" in log


#: Trains on the data of argv[1] and writes what each process was given.
WATCH = """
import json, sys
import torch
from pytorch_lightning import LightningModule, Trainer
from torchmetrics import MeanMetric
from cdinfer.data.module import DataModule

class Watch(LightningModule):
    def __init__(self):
        super().__init__()
        norm, flat, linear = torch.nn.BatchNorm1d(1), torch.nn.Flatten(), torch.nn.Linear(2, 1)
        self.net = torch.nn.Sequential(norm, flat, linear)
        self.mean, self.told = MeanMetric(), []

    def step(self, batch, stage):
        numbers = batch["index"].float()
        self.told.append([stage, self.current_epoch, batch["index"].tolist()])
        loss = self.net(numbers[:, None, None].expand(-1, 1, 2)).square().mean()
        if stage != "train":
            self.mean(numbers)
            size = float(len(numbers))
            self.log(f"{stage}/number", numbers.mean(), batch_size=size, sync_dist=True)
            self.log(f"{stage}/metric", self.mean, batch_size=len(numbers))
        return loss

    def training_step(self, batch, batch_idx):
        return self.step(batch, "train")

    def validation_step(self, batch, batch_idx):
        self.step(batch, "val")

    def test_step(self, batch, batch_idx):
        self.step(batch, "test")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-6)

data = DataModule(sys.argv[1], batch_size=int(sys.argv[3]), workers=int(sys.argv[4]))
trainer = Trainer(
    accelerator="cpu", devices=2, strategy="ddp", max_epochs=3, use_distributed_sampler=False,
    logger=False, enable_checkpointing=False, enable_progress_bar=False, num_sanity_val_steps=0,
)
model = Watch()
trainer.fit(model, datamodule=data)
metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
(tested,) = trainer.test(model, datamodule=data, verbose=False)
with open(f"{sys.argv[2]}/{trainer.global_rank}.json", "w") as file:
    json.dump([model.told, {**metrics, **tested}], file)
"""


@pytest.mark.parametrize("workers", [0, 3], ids=["no workers", "more workers than shards"])
def test_two_processes_share_every_sample_exactly(
    workers: int, tiny_codec: Path, labelled: Path, tmp_path: Path
) -> None:
    for split, count in {"train": 1, "val": 1, "test": 1}.items():  # odd numbers everywhere
        for path in sorted((labelled / split).rglob("*.png"))[count:]:
            copy = tmp_path / "source" / path.relative_to(labelled)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    export(
        find_pictures(tmp_path / "source"), tmp_path / "set", tiny_codec, Plan(block=2, per_shard=8)
    )
    assert len(list((tmp_path / "set").glob("train-*[0-9].tar"))) == 2  # 8 and 3 samples
    assert len(list((tmp_path / "set").glob("val-*[0-9].tar"))) == 1  # 3 samples
    (tmp_path / "watch.py").write_text(WATCH)
    command = [sys.executable, "watch.py", str(tmp_path / "set"), str(tmp_path), "1", str(workers)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr.decode()
    told, metrics = zip(
        *(json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)), strict=True
    )
    for stage, count in (("val", 3), ("test", 5)):
        for epoch in range(3) if stage == "val" else [3]:
            batches = [b for rank in told for s, e, b in rank if (s, e) == (stage, epoch)]
            given = [number for batch in batches for number in batch]
            assert sorted(given) == list(range(count))
        for rank in metrics:  # the mean over all samples, each once
            assert rank[f"{stage}/number"] == rank[f"{stage}/metric"] == (count - 1) / 2
    for epoch in range(3):
        steps = [[batch for s, e, batch in rank if s == "train" and e == epoch] for rank in told]
        assert len(steps[0]) == len(steps[1]) == 6
        times = Counter(n for rank in steps for batch in rank for n in batch)
        assert set(times) == set(range(11))
        assert times.total() - 11 < 2
