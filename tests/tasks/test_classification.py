from functools import partial
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from cdinfer.data.module import DataModule
from cdinfer.models import CResNet, ResNet
from cdinfer.tasks import ClassificationTask
from tests.conftest import draw

CLASSES = tuple("abcdefg")
NETS = (partial(CResNet, width=0.125), partial(ResNet, width=0.125))


def make_task(**options: float) -> ClassificationTask:
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
