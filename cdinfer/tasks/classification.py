"""Classification from latents, decoded pictures or originals.

    batch --network_input--> (B, C, h, w) --trunk, pool, fc--> logits (B, K)

The default recipe (SGD with momentum, one-cycle learning rate, label smoothing) is one for
small sets; ``configs/paper/cls.yaml`` has the paper's.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from cdinfer.models import Classifier, NetRecipe
from cdinfer.tasks.base import Batch, Input, LatentTask, Stage


class ClassificationTask(LatentTask):
    """Choose one of K classes; scored by top-1, top-5 and a confusion matrix.

    Batches add ``label (B,)``.

    Args:
        net: recipe of the trunk on latents.
        pixel_net: recipe of the trunk on pixels.
        codec: name or folder of a trained codec.
        bpp: nominal rate of a codec given by name.
        input: what the network reads.
        lr: peak learning rate of SGD (momentum 0.9), reached after 30 % of the steps.
        decay_every: epochs after which the rate falls to a tenth, again and again, starting at
            ``lr``, as in the paper; ``None`` for the one cycle.
        nesterov: look ahead along the momentum.
        weight_decay: of all weights.
        label_smoothing: share of the target spread over all classes.
        classes: class names; they come from the data.
        preprocessing: comes from the data.
    """

    reads_masks = False

    def __init__(
        self,
        net: NetRecipe,
        pixel_net: NetRecipe,
        codec: str = "cae",
        bpp: float | None = None,
        input: Input = "latents",
        lr: float = 0.05,
        decay_every: int | None = None,
        nesterov: bool = True,
        weight_decay: float = 5e-4,
        label_smoothing: float = 0.1,
        classes: Sequence[str] = (),
        preprocessing: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(codec, bpp, input, preprocessing)
        if len(classes) < 2:
            raise ValueError(
                f"expected at least two classes, got {list(classes)}: --data must hold a folder "
                "for each class"
            )
        self.classes = list(classes)
        if decay_every is not None and decay_every < 1:
            raise ValueError(f"expected decay_every of at least 1 epoch, got {decay_every}; try 8")
        self.lr, self.decay_every, self.nesterov = lr, decay_every, nesterov
        self.weight_decay, self.label_smoothing = weight_decay, label_smoothing
        self.net = Classifier(self.build_trunk(net, pixel_net), len(classes))
        self.net.to(memory_format=torch.channels_last)
        scores = {"top1": MulticlassAccuracy(len(classes), average="micro")}
        if len(classes) > 5:
            scores["top5"] = MulticlassAccuracy(len(classes), top_k=5, average="micro")
        self.scores = nn.ModuleDict(
            {f"{s}_{name}": m.clone() for s in ("val", "test") for name, m in scores.items()}
        )
        self.confusion = MulticlassConfusionMatrix(len(classes))

    def forward(self, batch: Batch) -> Tensor:
        x = self.network_input(batch).contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.net(x)
        return logits.float()

    def step(self, batch: Batch, stage: Stage) -> Tensor:
        label = batch["label"]
        logits = self(batch)
        smoothing = self.label_smoothing if stage == "train" else 0.0
        loss = F.cross_entropy(logits, label, label_smoothing=smoothing)
        # a float: Lightning averages numbers of samples over processes, whole ones to a whole one
        options: dict[str, Any] = {"prog_bar": True, "batch_size": float(len(label))}
        self.log(f"{stage}/loss", loss, sync_dist=stage != "train", **options)
        if stage == "train":
            return loss
        for name, metric in self.scores.items():
            if name.startswith(stage):
                assert isinstance(metric, Metric)
                metric(logits, label)
                key = name.replace("_", "/")
                self.log(key, metric, **options)
        if stage == "test":
            self.confusion.update(logits, label)
        return loss

    def on_test_epoch_start(self) -> None:
        """Start the confusion matrix anew."""
        self.confusion.reset()

    def describe(self) -> dict[str, Any]:
        return {
            "task": "cls",
            "classes": self.classes,
            "stream": None if self.codec is None else f"{self.codec.stream:08x}",
            "preprocessing": {**self.preprocessing, "input": self.input},
        }

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.SGD(
            self.net.parameters(),
            self.lr,
            0.9,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
        )
        if self.decay_every is not None:
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, self.decay_every)]
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.lr, int(self.trainer.estimated_stepping_batches), cycle_momentum=False
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
