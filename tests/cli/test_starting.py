import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from cdinfer.__main__ import main
from cdinfer.cli.starting import InitFrom
from cdinfer.models import ASPP, CResNet, LightDecoder, ResNet
from cdinfer.runs import read_trunk
from cdinfer.tasks import SegmentationTask
from tests.runs.make import CLASSES, make_segmenter_run


def make_task(codec: Path, width: float = 0.125, **options: Any) -> SegmentationTask:
    nets = (partial(net, width=width, output_stride=16) for net in (CResNet, ResNet))
    heads = partial(LightDecoder, width=0.125), ASPP
    return SegmentationTask(*nets, *heads, codec=str(codec), classes=CLASSES, **options)


def trainer() -> Any:
    strategy = SimpleNamespace(barrier=lambda: None)
    return SimpleNamespace(is_global_zero=True, strategy=strategy)


def start(task: SegmentationTask, run: Path) -> None:
    callback = InitFrom(str(run))
    callback.setup(trainer(), task, "fit")
    callback.on_fit_start(trainer(), task)


def spoil(run: Path, edit: Callable[[dict[str, Tensor]], None]) -> None:
    """Edit the checkpoint."""
    path = run / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    edit(checkpoint["state_dict"])
    torch.save(checkpoint, path)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "cdinfer")
    return caplog


def test_a_segmenter_takes_the_whole_trunk_of_a_classifier(
    classifier_run: Path, tiny_codec: Path, said: pytest.LogCaptureFixture
) -> None:
    task = make_task(tiny_codec)
    start(task, classifier_run.parent)
    trunk = read_trunk(classifier_run)
    tensors = {k: v for k, v in task.net.trunk.state_dict().items() if v.dim()}
    assert all(torch.equal(tensor, trunk.weights[name]) for name, tensor in tensors.items())
    assert said.messages == [
        f"took {len(tensors)} of {len(tensors)} tensors of {classifier_run} (CResNet, depth 39, "
        "width 0.125, v1 False, output_stride 32)"
    ]


def test_what_does_not_fit_is_named_and_starts_as_it_would_have(
    tiny_codec: Path, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    run = make_segmenter_run(tmp_path / "run", tiny_codec)
    name = "net.trunk.layer2.0.conv1.weight"

    def edit(state: dict[str, Tensor]) -> None:
        state[name] = state[name][:, :8].clone()
        del state["net.trunk.layer4.2.bn3.bias"]

    spoil(run, edit)
    task = make_task(tiny_codec)
    before = {k: v.clone() for k, v in task.net.state_dict().items()}
    start(task, run)
    after, trunk = task.net.state_dict(), read_trunk(run)
    for key, value in after.items():
        theirs = trunk.weights.get(key.removeprefix("trunk."))
        left = theirs is None or theirs.shape != value.shape or value.dim() == 0
        expected = before[key] if left else theirs
        assert expected is not None
        assert torch.equal(value, expected), key
    (line,) = said.messages
    count = sum(v.dim() > 0 for v in task.net.trunk.state_dict().values())
    assert line.startswith(f"took {count - 2} of {count} tensors of {run} (CResNet, width 0.125")
    assert line.endswith(
        f"; left: {name} (16, 8, 1, 1) against (16, 16, 1, 1), net.trunk.layer4.2.bn3.bias (256,), "
        "which is not there"
    )


def test_a_network_that_learnt_from_another_stream_is_a_warning(
    tiny_codec: Path, other_codec: Path, segmenter_run: Path, said: pytest.LogCaptureFixture
) -> None:
    start(make_task(other_codec), segmenter_run)
    (record,) = [r for r in said.records if r.levelno == logging.WARNING]
    assert "has learnt from latents of stream" in record.getMessage()
    said.clear()
    start(make_task(tiny_codec), segmenter_run)
    assert len(said.records) == 1


def test_a_network_that_nothing_fits_is_refused(tiny_codec: Path, segmenter_run: Path) -> None:
    with pytest.raises(ValueError, match=r"no tensor of .* fits the network to train: .* against"):
        start(make_task(tiny_codec, width=0.25), segmenter_run)


def test_without_a_run_or_a_training_nothing_is_taken(
    tiny_codec: Path, segmenter_run: Path
) -> None:
    task = make_task(tiny_codec)
    before = [p.clone() for p in task.net.parameters()]
    missing = "not/there"  # of runs that have been moved, the others can still be tested
    for run, stage in ((None, "fit"), (missing, "test"), (missing, "validate")):
        callback = InitFrom(run)
        callback.setup(trainer(), task, stage)
        callback.on_fit_start(trainer(), task)
    assert all(map(torch.equal, before, task.net.parameters()))
    with pytest.raises(ValueError, match="no run in 'not/there'"):
        InitFrom(missing).setup(trainer(), task, "fit")


def test_a_codec_starts_from_no_network(
    classifier_run: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--task", "codec", "--data", str(labelled), "--data.crop", "32"]
    fast = ["--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu"]
    assert main(["train", *flags, "--init_from.run", str(classifier_run), *fast]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "is for networks that have a trunk: leave it out for --task codec" in line
