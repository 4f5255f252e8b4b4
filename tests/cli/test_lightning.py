import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from PIL import Image

from cdinfer.__main__ import main
from cdinfer.cli import lightning
from cdinfer.cli.configs import find_config
from cdinfer.codecs import read_codec
from tests.conftest import draw

ROOT = Path(__file__).parents[2]
CPU = ["--trainer.accelerator", "cpu"]


def fit_codec(labelled: Path, place: Path, *options: str) -> list[str]:
    """Return the arguments of a small codec training that validates every 5 steps."""
    config = ["--config", str(find_config("codec")), "--data.path", str(labelled)]
    small = ["--model.codec.width", "0.125", "--data.crop", "16", "--data.batch_size", "2"]
    trainer = ["--trainer.val_check_interval", "5", "--trainer.logger.save_dir", str(place)]
    return ["fit", *config, *small, *trainer, *CPU, *options]


def start(args: list[str], folder: Path, output: IO[str]) -> subprocess.Popen[str]:
    """Start ``cdinfer ARGS`` as a user does, in ``folder``."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "cdinfer", *args]
    return subprocess.Popen(
        command, cwd=folder, env=env, stdout=output, stderr=output, text=True,
        start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], seconds: float) -> int:
    """Return the exit status; after ``seconds``, end it and all it started."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def wait_for_rows(path: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until ``process`` has logged ``count`` rows."""
    for _ in range(1200):
        if path.is_file() and path.read_text().count("\n") > count:
            return
        assert process.poll() is None, "it has ended"
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    raise AssertionError(f"no {count} rows in {path} after two minutes")


def load(path: Path) -> dict[str, Any]:
    return dict(torch.load(path, weights_only=True))


def stop_and_resume(
    labelled: Path, place: Path, signal_number: int, *options: str
) -> subprocess.Popen[str]:
    """Stop a training by a signal; check that it can go on."""
    options += ("--trainer.max_steps", "100000", "--trainer.log_every_n_steps", "1")
    options += ("--trainer.logger.flush_logs_every_n_steps", "1")
    args = fit_codec(labelled, place, *options)
    last = place / "codec" / "version_0" / "checkpoints" / "last.ckpt"
    with (place / "log").open("w") as output:
        process = start(args, place, output)
        wait_for_rows(place / "codec" / "version_0" / "metrics.csv", 20, process)
        process.send_signal(signal_number)
        finish(process, 120)
    checkpoint = load(last)
    step = checkpoint["global_step"]
    assert step >= 10
    assert not (place / "codec" / "version_0" / "codec").exists()
    # No step is left: the training is over at once, with everything as it was, and freezes.
    final = ["--trainer.max_steps", str(step), "--ckpt_path", str(last)]
    cli = lightning.run(fit_codec(labelled, place, *final))
    assert cli.trainer.global_step == step
    target = checkpoint["state_dict"]["entropy_target"]
    assert torch.equal(cli.model.entropy_target, target)
    assert not torch.isclose(target, torch.tensor(64 * 0.33 / 16))
    (optimizer,) = cli.trainer.optimizers
    moments = [state["exp_avg"] for state in optimizer.state_dict()["state"].values()]
    saved_moments = checkpoint["optimizer_states"][0]["state"].values()
    assert all(map(torch.equal, moments, (state["exp_avg"] for state in saved_moments)))
    assert any(moment.any() for moment in moments)
    read_codec(place / "codec" / "version_1" / "codec")
    more = ["--trainer.max_steps", str(step + 3), "--ckpt_path", str(last)]
    cli = lightning.run(fit_codec(labelled, place, *more, "--trainer.log_every_n_steps", "1"))
    with (place / "codec" / "version_2" / "metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["train/D"]]
    assert cli.trainer.global_step == step + 3
    assert len(steps) == 3
    assert steps[0] == step
    return process


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(labelled: Path, tmp_path: Path) -> None:
    process = stop_and_resume(labelled, tmp_path, signal.SIGINT)
    assert process.returncode == 130
    log = (tmp_path / "log").read_text()
    last = tmp_path / "codec" / "version_0" / "checkpoints" / "last.ckpt"
    step = load(last)["global_step"]
    assert log.splitlines()[-1] == (
        f"cdinfer fit: stopped after {step} steps; to go on, add to the same command: "
        f"--ckpt_path {last}"
    )
    assert "Traceback" not in log
    assert "KeyboardInterrupt" not in log
    assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.slow
def test_a_killed_training_goes_on_from_its_last_checkpoint(labelled: Path, tmp_path: Path) -> None:
    every = ("--last.every_n_train_steps", "5")
    process = stop_and_resume(labelled, tmp_path, signal.SIGKILL, *every)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("task", ["codec", "cls"])
def test_two_processes_train_together(
    task: str, labelled: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(labelled, tmp_path / "source"))
    Image.fromarray(draw(48, 64, 9)).save(source / "val" / "bark" / "9.png")  # 3 and 2 a process
    small = {
        "codec": ["--model.codec.width", "0.125", "--trainer.max_steps", "6",
                  "--trainer.val_check_interval", "3"],
        "cls": ["--codec", str(tiny_codec), "--model.net.width", "0.125",
                "--trainer.max_epochs", "1"],
    }[task]  # fmt: skip
    data = ["--data", str(source), "--data.crop", "32", "--data.batch_size", "2"]
    ddp = ["--trainer.devices", "2", "--trainer.strategy", "ddp", *CPU]
    ddp += ["--trainer.log_every_n_steps", "1"]
    with (tmp_path / "log").open("w") as output:
        process = start(["train", "--task", task, *data, *small, *ddp], tmp_path, output)
        status = finish(process, 300)
    log = (tmp_path / "log").read_text()
    assert status == 0, log
    assert "distributed_backend=gloo" in log
    run = tmp_path / "runs" / task / "version_0"
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps = 6 if task == "codec" else 3  # 12 pictures, 2 processes, batches of 2
    assert max(int(row["step"]) for row in rows) == steps - 1
    if task == "codec":
        read_codec(run / "codec")
    else:
        (top1,) = [float(row["val/top1"]) for row in rows if row["val/top1"]]
        assert round(top1 * 5, 4) in range(6)  # of 5 pictures, each seen once


def test_checkpoints_hold_plain_types_alone(codec_run: Path, classifier_run: Path) -> None:
    for run in (codec_run, classifier_run):
        checkpoint = load(run / "checkpoints" / "last.ckpt")
        assert checkpoint["global_step"] > 0
        assert "hyper_parameters" not in checkpoint  # config.yaml is their only record


def refusal(capsys: pytest.CaptureFixture[str], args: list[str]) -> str:
    """Return the last line of what ``cdinfer ARGS`` says, ending with status 2."""
    capsys.readouterr()
    assert main(args) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 2  # Lightning names the seed
    return err.splitlines()[-1]


@pytest.mark.parametrize(
    ("option", "answer"),
    [
        (["--trainer.max_epoch", "3"], "--trainer.max_epoch"),
        (["--trainer.max_epochs", "many"], "many"),
        (["--model.lr", "x"], "Expected a <class 'float'>. Got value: x"),
        (["--model.codec.width", "9"], "expected width in (0, 4], got 9"),
        (["--model.codec.bpp", "0.3"], "use --bpp 0.33"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--trainer.devices", "0"], "devices"),
        (["--ckpt_path", "nowhere.ckpt"], "nowhere.ckpt"),
    ],
)
def test_an_impossible_option_is_one_line(
    option: list[str], answer: str, labelled: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    line = refusal(capsys, fit_codec(labelled, tmp_path, *option))
    assert line.startswith("cdinfer fit: ")
    assert answer in line
    assert "Subtypes" not in line


class Hostile:
    """Runs a command when it is unpickled without care."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def test_what_is_no_checkpoint_of_this_training_is_refused(
    labelled: Path, codec_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = codec_run / "checkpoints" / "last.ckpt"
    whole = load(last)
    parts = {name: part for name, part in whole.items() if name != "optimizer_states"}
    for name, content in {
        "hostile": {"state_dict": Hostile(f"touch {tmp_path}/hacked")},
        "tensor": torch.zeros(3),
        "weights": whole["state_dict"],
        "no_weights": {"pytorch-lightning_version": "2.6.6"},
        "no_optimizer": parts,
    }.items():
        torch.save(content, tmp_path / f"{name}.ckpt")
    (tmp_path / "empty.ckpt").touch()
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    (tmp_path / "cut.ckpt").write_bytes(last.read_bytes()[:-1000])
    (tmp_path / "config.yaml").write_text(f"ckpt_path: {tmp_path / 'empty.ckpt'}\n")
    options = [["--ckpt_path", str(path)] for path in sorted(tmp_path.glob("*.ckpt"))]
    options += [[f"--ckpt_path={tmp_path / 'tensor.ckpt'}"]]
    options += [["--config", str(tmp_path / "config.yaml")]]
    options += [["--ckpt_path", str(last), "--model.codec.bpp", "0.0983"]]
    assert len(options) == 11
    for option in options:
        capsys.readouterr()
        assert main(fit_codec(labelled, tmp_path, *option)) == 2
        err = capsys.readouterr().err
        assert err.splitlines()[-1].startswith("cdinfer fit: this checkpoint cannot be used here")
        assert "Traceback" not in err
    assert not (tmp_path / "hacked").exists()


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_a_description_that_cannot_be_written_leaves_the_one_before(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "codec" / "version_7"
    (folder / ".run.json.partial").mkdir(parents=True)  # in the way
    (folder / "run.json").write_text("before")
    args = fit_codec(labelled, tmp_path, "--trainer.logger.version", "7")
    assert "run.json" in refusal(capsys, args)
    assert (folder / "run.json").read_text() == "before"
