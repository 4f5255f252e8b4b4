from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cdinfer.models import ASPP, CResNet, LightDecoder, ResNet
from cdinfer.tasks import SegmentationTask

CLASSES = ("road", "sky", "tree")
NETS = (
    partial(CResNet, width=0.125, output_stride=16),
    partial(ResNet, width=0.125, output_stride=16),
    partial(LightDecoder, width=0.125),
    ASPP,
)


def make_task(**options: Any) -> SegmentationTask:
    torch.manual_seed(0)
    return SegmentationTask(*NETS, classes=CLASSES, **{"input": "original", **options})


def make_batch(height: int, width: int, seed: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    mask = torch.randint(0, 4, (1, height, width), generator=rng)
    mask[mask == 3] = 255
    return {"image": torch.rand(1, 3, height, width, generator=rng), "mask": mask.to(torch.uint8)}


def silent(task: SegmentationTask) -> SegmentationTask:
    task.log = lambda *args, **options: None  # type: ignore[method-assign]  # no trainer here
    return task


def test_the_loss_is_the_mean_over_pixels_that_have_a_class() -> None:
    task = silent(make_task())
    batch = make_batch(40, 24, 0)
    log_p, mask = torch.log_softmax(task(batch), 1), batch["mask"].long()
    known = mask != 255
    expected = -log_p.permute(0, 2, 3, 1)[known].gather(1, mask[known][:, None]).mean()
    torch.testing.assert_close(task.step(batch, "train"), expected)


def test_a_batch_without_any_class_has_loss_zero() -> None:
    task = silent(make_task())
    batch = make_batch(40, 24, 0) | {"mask": torch.full((1, 40, 24), 255, dtype=torch.uint8)}
    loss = task.step(batch, "train")
    loss.backward()
    assert loss.item() == 0


def test_scores_are_those_of_one_count_over_pictures_of_any_size() -> None:
    task = make_task()
    batches = [make_batch(*size, seed) for seed, size in enumerate([(40, 24), (33, 57), (16, 16)])]
    loader = DataLoader(batches, batch_size=None)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    (scores,) = trainer.test(task, loader, verbose=False)
    task.eval()
    with torch.no_grad():
        said = np.concatenate([task(b).argmax(1).numpy().ravel() for b in batches])
    true = np.concatenate([b["mask"].numpy().ravel() for b in batches])
    said, true = said[true != 255], true[true != 255]
    iou = [((true == k) & (said == k)).sum() / ((true == k) | (said == k)).sum() for k in range(3)]
    assert [scores[f"test/iou/{name}"] for name in CLASSES] == pytest.approx(iou, nan_ok=True)
    assert scores["test/miou"] == pytest.approx(np.nanmean(iou))
    assert scores["test/pixel"] == pytest.approx((true == said).mean())
    assert trainer.test(task, loader, verbose=False) == [scores]  # each test counts anew


@pytest.mark.parametrize("reads", ["latents", "decoded"])
def test_latents_and_reconstructions_get_a_class_for_every_pixel(
    reads: str, tiny_codec: Path
) -> None:
    task = make_task(codec=str(tiny_codec), input=reads).eval()
    assert task(make_batch(41, 23, 0)).shape == (1, 3, 41, 23)


def test_trunk_head_and_biases_have_their_own_rates() -> None:
    task = make_task(lr=0.01, head_rate=10, bias_rate=20)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        max_epochs=2,
        log_every_n_steps=1,
    )
    loader = DataLoader([make_batch(40, 24, seed) for seed in range(4)], batch_size=None)
    trainer.fit(task, loader, loader)
    groups = trainer.optimizers[0].param_groups
    assert [group["initial_lr"] for group in groups] == pytest.approx([0.01, 0.1, 0.2])
    assert groups[2]["weight_decay"] == 0
    assert sum(len(g["params"]) for g in groups) == len(list(task.net.parameters()))
    assert groups[0]["lr"] == pytest.approx(0, abs=1e-9)  # all 8 steps are done


def test_the_rate_falls_as_in_deeplab() -> None:
    task = make_task(lr=0.01)
    task.trainer = type("Trainer", (), {"estimated_stepping_batches": 10})()  # type: ignore[assignment]
    plan: Any = task.configure_optimizers()
    schedule = plan["lr_scheduler"]["scheduler"]
    for _ in range(5):
        plan["optimizer"].step()
        schedule.step()
    assert schedule.get_last_lr()[0] == pytest.approx(0.01 * (1 - 5 / 10) ** 0.9)


def test_fewer_than_two_classes_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"at least two classes.*SegmentationClass/\*\.png"):
        SegmentationTask(*NETS, classes=(), input="original")
