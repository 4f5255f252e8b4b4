from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torchvision.models import MobileNet_V3_Small_Weights, mobilenet_v3_small

from cdinfer.data.module import DataModule
from cdinfer.models import CResNet, ResNet, TorchvisionNet
from cdinfer.tasks import ClassificationTask
from tests.conftest import draw

CLASSES = tuple("abcdefg")
NETS = (partial(CResNet, width=0.125), partial(ResNet, width=0.125))


def make_task(**options: Any) -> ClassificationTask:
    torch.manual_seed(0)
    return ClassificationTask(*NETS, input="original", classes=CLASSES, **options)


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 32 x 40 in seven classes: 1 to train with, 3 to test on in each."""
    root = tmp_path_factory.mktemp("seven")
    seed = 0
    for split, count in {"train": 1, "val": 1, "test": 3}.items():
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                seed += 1
                Image.fromarray(draw(32, 40, seed)).save(root / split / name / f"{number}.png")
    return root


def test_scores_are_what_counting_by_hand_gives(seven: Path) -> None:
    task = make_task()
    data = DataModule(str(seven), batch_size=4, input="original")
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    (scores,) = trainer.test(task, datamodule=data, verbose=False)
    task.eval()
    with torch.no_grad():
        batches = list(data.test_dataloader())
        logits = np.concatenate([task(batch).numpy() for batch in batches])
    labels = np.concatenate([batch["label"].numpy() for batch in batches])
    order = np.argsort(-logits, 1)
    assert len(labels) == 21
    assert scores["test/top1"] == pytest.approx(np.mean(order[:, 0] == labels))
    assert scores["test/top5"] == pytest.approx(np.mean((order[:, :5] == labels[:, None]).any(1)))
    assert scores["test/top5"] < 1
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    assert scores["test/loss"] == pytest.approx(-np.log(p[range(21), labels]).mean(), rel=1e-4)
    confusion = np.zeros((7, 7), int)
    np.add.at(confusion, (labels, order[:, 0]), 1)
    assert task.confusion.compute().tolist() == confusion.tolist()
    trainer.test(task, datamodule=data, verbose=False)
    assert task.confusion.compute().tolist() == confusion.tolist()  # each test counts anew


def test_labels_are_smoothed_in_training_only() -> None:
    task = make_task(label_smoothing=0.2)
    task.log = lambda *args, **options: None  # type: ignore[method-assign]  # no trainer here
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    batch = {"image": x, "label": torch.tensor([0, 3, 6])}
    log_p = torch.log_softmax(task(batch), 1)
    plain = -log_p[range(3), batch["label"]].mean()
    torch.testing.assert_close(task.step(batch, "val"), plain)
    torch.testing.assert_close(task.step(batch, "test"), plain)
    smooth = 0.8 * plain - 0.2 * log_p.mean()
    torch.testing.assert_close(task.step(batch, "train"), smooth)


def test_five_classes_have_no_top5() -> None:
    task = ClassificationTask(*NETS, input="original", classes=CLASSES[:5])
    assert set(task.scores) == {"val_top1", "test_top1"}
    assert "val_top5" in make_task().scores


@pytest.mark.parametrize("classes", [(), ("only",)])
def test_fewer_than_two_classes_are_refused(classes: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"at least two classes.*--data must hold a folder"):
        ClassificationTask(*NETS, input="original", classes=classes)


def test_the_paper_s_rate_falls_to_a_tenth_every_few_epochs() -> None:
    plan: Any = make_task(lr=0.025, decay_every=2, nesterov=False).configure_optimizers()
    (optimizer,), (schedule,) = plan  # Lightning steps those once an epoch
    rates = []
    for _ in range(4):
        rates += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.025, 0.025, 0.0025, 0.0025])
    assert optimizer.param_groups[0]["nesterov"] is False


def test_a_decay_of_no_epochs_is_refused() -> None:
    with pytest.raises(ValueError, match="decay_every of at least 1 epoch, got 0; try 8"):
        make_task(decay_every=0)


def test_weights_of_torchvision_are_taken_when_training_starts(
    seven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / MobileNet_V3_Small_Weights.DEFAULT.url.split("/")[-1]
    file.parent.mkdir(parents=True)
    theirs = mobilenet_v3_small().state_dict()
    torch.save(theirs, file)
    net = partial(TorchvisionNet, name="mobilenet_v3_small", weights="DEFAULT")
    data = DataModule(str(seven), batch_size=4, input="original")
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    options |= {"enable_model_summary": False, "enable_checkpointing": False, "max_epochs": 1}
    for stage, equal in (("test", False), ("fit", True)):
        task = ClassificationTask(NETS[0], net, input="original", classes=CLASSES, lr=0)
        getattr(pl.Trainer(**options), stage)(task, datamodule=data)
        mine = task.net.trunk.features[0][0].weight
        assert torch.equal(mine, theirs["features.0.0.weight"]) == equal
