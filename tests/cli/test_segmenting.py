"""Segmentation from the command line: trained, tested, resumed, in two processes."""

import csv
import json
import signal
import time
from pathlib import Path

import pytest
import torch

from cdinfer.__main__ import main
from cdinfer.models import LightDecoder, ResNet
from cdinfer.runs import load_run, read_about
from tests.cli.test_lightning import CPU, finish, load, start
from tests.data.masked import CLASSES, write_voc

SIZES = ((48, 64), (45, 61), (33, 40))

#: What makes networks small, and trains 3 steps an epoch.
SMALL = [*CPU, "--data.crop", "32", "--data.batch_size", "4"]
SMALL += ["--model.net.width", "0.125", "--model.head.width", "0.125"]
SMALL += ["--model.pixel_net.width", "0.125", "--model.pixel_head.width", "0.125"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three sizes with masks: 12, 5 and 4."""
    return write_voc(tmp_path_factory.mktemp("voc"), {"train": 12, "val": 5, "test": 4}, SIZES)


@pytest.fixture(scope="module")
def stored(scenes: Path, tiny_codec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as latents."""
    folder = tmp_path_factory.mktemp("latents") / "set"
    assert main(["export", str(scenes), str(folder), "--codec", str(tiny_codec)]) == 0
    return folder


def scores(run: Path) -> list[dict[str, float]]:
    """Return what each validation of a run logged."""
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/miou")]
    return [{k: float(v) for k, v in row.items() if k.startswith("val/")} for row in rows]


def run_in(folder: Path, args: list[str], until: Path | None = None) -> int:
    """Run ``cdinfer ARGS``, or tell it to stop once there is a file; return the exit status."""
    folder.mkdir(exist_ok=True)
    with (folder / "log").open("a") as output:
        process = start(args, folder, output)
        while until is not None and not until.exists() and process.poll() is None:
            time.sleep(0.05)
        if until is not None:
            process.send_signal(signal.SIGTERM)
        return finish(process, 300)


def test_a_run_on_shards_says_what_prediction_needs(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--trainer.max_epochs", "1", "--trainer.logger.save_dir", str(tmp_path)]
    assert main(["train", "--task", "seg", "--data", str(stored), *SMALL, *options]) == 0
    run = tmp_path / "seg" / "version_0"
    about = read_about(run)
    assert about["classes"] == list(CLASSES)
    assert len(about["palette"]) == 3
    assert about["ignore_index"] == 255
    assert about["preprocessing"] == {"resize": None, "crop": 32, "input": "latents"}
    assert about["net"]["class_path"] == "cdinfer.models.CResNet"
    assert about["net"]["init_args"]["output_stride"] == 16
    assert about["head"]["class_path"] == "cdinfer.models.LightDecoder"
    assert about["head"]["init_args"]["width"] == 0.125
    (val,) = scores(run)
    assert 0 <= val["val/miou"] <= 1
    assert sum(name.startswith("val/iou/") for name in val) == 3
    capsys.readouterr()
    assert main(["eval", str(run), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"miou", "macc", "pixel"} <= {name.rpartition("/")[2] for name in result}
    assert isinstance(load_run(run).net.head, LightDecoder)


def test_a_run_on_pixels_says_which_network_that_was(scenes: Path, tmp_path: Path) -> None:
    options = ["--trainer.max_epochs", "1", "--trainer.logger.save_dir", str(tmp_path)]
    baseline = ["--config", "baselines/original", "--data", str(scenes)]
    assert main(["train", "--task", "seg", *baseline, *SMALL, *options]) == 0
    run = tmp_path / "seg" / "version_0"
    about = read_about(run)
    assert about["net"]["class_path"] == "cdinfer.models.ResNet"
    assert about["head"]["init_args"]["width"] == 0.125
    assert isinstance(load_run(run).net.trunk, ResNet)


def test_a_classifier_s_trunk_starts_a_segmenter(
    classifier_run: Path, tiny_codec: Path, scenes: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    flags = ["--data", str(scenes), "--codec", str(tiny_codec), *SMALL]
    options = ["--init_from.run", str(classifier_run), "--model.lr", "0"]
    options += ["--trainer.max_epochs", "1", "--trainer.logger.save_dir", str(tmp_path)]
    assert main(["train", "--task", "seg", *flags, *options]) == 0
    theirs = load(classifier_run / "checkpoints" / "best.ckpt")["state_dict"]
    mine = load(tmp_path / "seg" / "version_0" / "checkpoints" / "last.ckpt")["state_dict"]
    weights = [name for name in mine if name.startswith("net.trunk.") and "conv" in name]
    assert len(weights) == 39
    assert all(torch.equal(mine[name], theirs[name]) for name in weights)


def test_a_resumed_training_takes_its_weights_from_the_checkpoint_alone(
    classifier_run: Path, tiny_codec: Path, scenes: Path, tmp_path: Path
) -> None:
    flags = ["--data", str(scenes), "--codec", str(tiny_codec), *SMALL]
    flags += ["--trainer.logger.save_dir", str(tmp_path), "--model.lr", "0"]
    assert main(["train", "--task", "seg", *flags, "--trainer.max_epochs", "1"]) == 0
    first = tmp_path / "seg" / "version_0" / "checkpoints" / "last.ckpt"
    again = ["--ckpt_path", str(first), "--init_from.run", str(classifier_run)]
    assert main(["train", "--task", "seg", *flags, *again, "--trainer.max_epochs", "2"]) == 0
    before, after = (
        load(path)["state_dict"]
        for path in (first, tmp_path / "seg" / "version_1" / "checkpoints" / "last.ckpt")
    )
    weights = [name for name in after if name.startswith("net.trunk.") and "conv" in name]
    assert all(torch.equal(before[name], after[name]) for name in weights)


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        ("seg", "holds a class for each picture: use --task cls, or other --data"),
        ("cls", "holds masks: use --task seg, or other --data"),
    ],
)
def test_data_of_another_task_is_refused(
    task: str, answer: str, scenes: Path, labelled: Path, tiny_codec: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data = labelled if task == "seg" else scenes
    flags = ["--task", task, "--data", str(data), "--codec", str(tiny_codec)]
    small = ["--model.net.width", "0.125", "--data.crop", "32", *CPU]
    assert main(["train", *flags, *small]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"cdinfer train: '{data}' {answer}"


def test_without_data_mosaics_are_trained_on(tiny_codec: Path, tmp_path: Path) -> None:
    trainer = ["--trainer.fast_dev_run", "true", "--codec", str(tiny_codec)]
    assert main(["train", "--task", "seg", *SMALL, *trainer]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("data", ["scenes", "stored"])
def test_two_processes_validate_as_one(
    data: str, tiny_codec: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source: Path = request.getfixturevalue(data)
    codec = ["--codec", str(tiny_codec)] if data == "scenes" else []
    train = ["train", "--task", "seg", "--data", str(source), *codec, *SMALL]
    options = ["--trainer.max_epochs", "1", "--trainer.logger.save_dir", str(tmp_path)]
    assert main([*train, *options]) == 0
    run = tmp_path / "seg" / "version_0"
    found = []
    for devices in "12":
        place = tmp_path / devices
        validate = ["validate", "--config", str(run / "config.yaml"), "--ckpt_path"]
        validate += [str(run / "checkpoints" / "last.ckpt"), *CPU, "--trainer.devices", devices]
        validate += ["--trainer.strategy", "auto" if devices == "1" else "ddp"]
        validate += ["--trainer.logger.save_dir", str(place)]
        status = run_in(place, validate)
        log = (place / "log").read_text()
        assert status == 0, log
        assert ("distributed_backend=gloo" in log) == (devices == "2")
        assert "sync_dist" not in log
        found += scores(place / "seg" / "version_0")
    one, two = found  # 5 pictures: 3 and 2 a process
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert two[name] == pytest.approx(value, abs=1e-6, nan_ok=True), name


@pytest.mark.slow
def test_a_training_that_was_stopped_scores_as_one_that_was_not(
    stored: Path, tmp_path: Path
) -> None:
    train = ["train", "--task", "seg", "--data", str(stored), *SMALL]
    train += ["--trainer.max_epochs", "12", "--last.every_n_train_steps", "5"]
    train += ["--trainer.check_val_every_n_epoch", "3", "--trainer.log_every_n_steps", "1"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    last = stopped / "runs" / "seg" / "version_0" / "checkpoints" / "last.ckpt"
    assert run_in(whole, train) == 0
    assert run_in(stopped, train, until=last) == 143
    assert run_in(stopped, [*train, "--ckpt_path", str(last)]) == 0
    expected = scores(whole / "runs" / "seg" / "version_0")
    runs = [stopped / "runs" / "seg" / f"version_{number}" for number in (0, 1)]
    found = [scores(run) for run in runs]
    assert len(expected) == 4
    assert len(found[0]) < 4
    for mine, other in zip(found[0] + found[1], expected, strict=True):
        assert mine == pytest.approx(other, nan_ok=True)
