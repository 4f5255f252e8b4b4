"""Segmentation from latents, decoded pictures or originals.

    batch --network_input--> (B, C, h, w) --trunk, head--> logits --enlarge--> (B, K, H, W)

The loss is cross-entropy over all pixels of a batch that have a class. The learning rate falls as
(1 - step / steps)^0.9, as DeepLab's; trunk, head weights and head biases have rates of their own.

Reference:
    Chen et al., DeepLab, 2016, https://arxiv.org/abs/1606.00915 (poly learning rate).
    Torfason et al., ICLR 2018, https://arxiv.org/abs/1803.06131, section 5.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix

from cdinfer.metrics import segmentation_scores
from cdinfer.models import HeadRecipe, NetRecipe, Segmenter
from cdinfer.tasks.base import Batch, Input, LatentTask, Stage

#: Power of the learning rate's fall.
POWER = 0.9


class SegmentationTask(LatentTask):
    """Choose one of K classes for every pixel; scored by one confusion matrix over the set.

    Batches add ``mask (B, H, W)`` uint8, classes and ``ignore_index``, aligned with the top left
    corner of the network's input; its size is that of the picture or the crop.

    Args:
        net: recipe of the trunk on latents.
        pixel_net: recipe of the trunk on pixels.
        head: recipe of the head on ``net``.
        pixel_head: recipe of the head on ``pixel_net``.
        codec: name or folder of a trained codec.
        bpp: nominal rate of a codec given by name.
        input: what the network reads.
        lr: learning rate of the trunk, at the start (SGD, momentum 0.9).
        head_rate, bias_rate: those of the head's weights and biases, in units of ``lr``.
        nesterov: look ahead along the momentum.
        weight_decay: of all weights.
        classes: class names; they come from the data.
        ignore_index: value of pixels without a class; comes from the data.
        palette: colour (red, green, blue) of each class; comes from the data.
        preprocessing: comes from the data.
    """

    reads_masks = True

    def __init__(
        self,
        net: NetRecipe,
        pixel_net: NetRecipe,
        head: HeadRecipe,
        pixel_head: HeadRecipe,
        codec: str = "cae",
        bpp: float | None = None,
        input: Input = "latents",
        lr: float = 0.05,
        head_rate: float = 1.0,
        bias_rate: float = 2.0,
        nesterov: bool = True,
        weight_decay: float = 5e-4,
        classes: Sequence[str] = (),
        ignore_index: int = 255,
        palette: Sequence[Sequence[int]] = (),
        preprocessing: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(codec, bpp, input, preprocessing)
        if len(classes) < 2:
            raise ValueError(
                f"expected at least two classes, got {list(classes)}: --data must hold masks, as "
                "SegmentationClass/*.png, and classes.txt"
            )
        self.classes, self.ignore_index = list(classes), ignore_index
        self.palette = [list(colour) for colour in palette]
        self.lr, self.head_rate, self.bias_rate = lr, head_rate, bias_rate
        self.nesterov, self.weight_decay = nesterov, weight_decay
        trunk = self.build_trunk(net, pixel_net)
        channels, stride = self.input_shape()
        recipe = head if input == "latents" else pixel_head
        self.net = Segmenter(trunk, recipe, channels, stride, len(classes))
        self.net.to(memory_format=torch.channels_last)
        self.val_confusion = MulticlassConfusionMatrix(
            len(classes), ignore_index=ignore_index, validate_args=False
        )
        self.test_confusion = self.val_confusion.clone()

    def forward(self, batch: Batch) -> Tensor:
        """Return logits of the size of the batch's masks, ``(B, K, H, W)``."""
        x = self.network_input(batch).contiguous(memory_format=torch.channels_last)
        height, width = batch["mask"].shape[-2:]
        logits: Tensor = self.net.enlarge(self.net(x).float(), (height, width))
        return logits

    def step(self, batch: Batch, stage: Stage) -> Tensor:
        mask, logits = batch["mask"].long(), self(batch)
        total = F.cross_entropy(logits, mask, ignore_index=self.ignore_index, reduction="sum")
        loss: Tensor = total / (mask != self.ignore_index).sum().clamp(min=1)
        # a float: Lightning averages numbers of samples over processes, whole ones to a whole one
        options: dict[str, Any] = {"prog_bar": True, "batch_size": float(len(mask))}
        self.log(f"{stage}/loss", loss, sync_dist=stage != "train", **options)
        if stage != "train":
            self._confusion(stage).update(logits.argmax(1), mask)
        return loss

    def on_validation_epoch_end(self) -> None:
        """Score the whole validation set."""
        self._score("val")

    def on_test_epoch_end(self) -> None:
        """Score the whole test set."""
        self._score("test")

    def _confusion(self, stage: Stage) -> Metric:
        return self.val_confusion if stage == "val" else self.test_confusion

    def _score(self, stage: Stage) -> None:
        confusion = self._confusion(stage)
        scores = segmentation_scores(confusion.compute())  # summed over processes
        confusion.reset()
        values = {"miou": scores.miou, "macc": scores.macc, "pixel": scores.pixel}
        pairs = zip(self.classes, scores.iou, strict=True)
        for name, value in (values | {f"iou/{name}": iou for name, iou in pairs}).items():
            # all processes have the same, of which Lightning takes the mean
            self.log(f"{stage}/{name}", value, prog_bar=name == "miou", sync_dist=True)

    def describe(self) -> dict[str, Any]:
        return {
            "task": "seg",
            "classes": self.classes,
            "palette": self.palette,
            "ignore_index": self.ignore_index,
            "stream": None if self.codec is None else f"{self.codec.stream:08x}",
            "preprocessing": {**self.preprocessing, "input": self.input},
        }

    def configure_optimizers(self) -> OptimizerLRScheduler:
        head = dict(self.net.head.named_parameters())
        biases = [p for name, p in head.items() if name.endswith("bias")]
        weights = [p for name, p in head.items() if not name.endswith("bias")]
        groups = [
            {"params": list(self.net.trunk.parameters()), "lr": self.lr},
            {"params": weights, "lr": self.lr * self.head_rate},
            {"params": biases, "lr": self.lr * self.bias_rate, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.SGD(
            groups, self.lr, 0.9, weight_decay=self.weight_decay, nesterov=self.nesterov
        )
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, POWER)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
