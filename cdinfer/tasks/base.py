"""What every task shares, and what every task on the latents of a frozen codec shares.

The batch and ``input`` decide where a network's input comes from:

    input      from shards (planes)                      from pictures (image)
    latents    dequantize -> y                           encode -> y
    decoded    dequantize -> decode -> crop in pixels    encode -> decode
    original   -                                         image
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from cdinfer.codecs import LatentCodec
from cdinfer.codecs.stored import read_codec
from cdinfer.codecs.zoo import find_codec
from cdinfer.metrics import round_to_8_bits
from cdinfer.models import NetRecipe, TorchvisionNet, Trunk

Batch = Mapping[str, Any]
Stage = Literal["train", "val", "test"]
Input = Literal["latents", "decoded", "original"]


class BaseTask(LightningModule, ABC):
    """Something ``cdinfer fit`` can train."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what ``run.json`` must hold for ``predict``: plain JSON values."""


class LatentTask(BaseTask, ABC):
    """A network that reads the latents of a frozen codec, or pixels to compare with.

    Subclasses are final and implement :meth:`step`, the only place where a loss is computed
    and metrics are logged.

    Attributes:
        reads_masks: whether classes are of pixels, not of whole pictures.

    Args:
        codec: name or folder of a trained codec, as ``load_codec`` takes it; not read when
            ``input`` is ``original``.
        bpp: nominal rate of a codec given by name.
        input: what the network reads.
        preprocessing: resize and crop in pixels, for ``run.json``; comes from the data.

    Raises:
        ValueError: if there is no such trained codec.
    """

    reads_masks: bool

    def __init__(
        self,
        codec: str,
        bpp: float | None,
        input: Input,
        preprocessing: dict[str, Any] | None,
    ) -> None:
        super().__init__()
        self.input = input
        self.preprocessing = preprocessing or {}
        self.codec: LatentCodec | None = None
        self.codec_folder: Path | None = None
        if input != "original":
            self.codec_folder = find_codec(codec, bpp)
            self.codec = read_codec(self.codec_folder)

    def build_trunk(self, net: NetRecipe, pixel_net: NetRecipe) -> Trunk:
        """Return a trunk that reads ``input``: ``net`` on latents, ``pixel_net`` on pixels."""
        channels, stride = self.input_shape()
        recipe = net if self.input == "latents" else pixel_net
        return recipe(channels=channels, stride=stride, sigma=False)

    def input_shape(self) -> tuple[int, int]:
        """Return channels and stride (pixels per step) of what the network reads."""
        if self.codec is None or self.input != "latents":
            return 3, 1
        return self.codec.channels, self.codec.stride

    @abstractmethod
    def step(self, batch: Batch, stage: Stage) -> Tensor:
        """Return the loss of one batch and log ``{stage}/...`` metrics."""

    def setup(self, stage: str) -> None:
        """Refuse data of another codec or task; take weights that training starts from."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        masked = getattr(data, "masks", None) is not None
        if data is not None and masked != self.reads_masks:
            holds, task = ("masks", "seg") if masked else ("a class for each picture", "cls")
            raise ValueError(f"'{data.root}' holds {holds}: use --task {task}, or other --data")
        stream = getattr(data, "stream", None)
        if stream is not None and (self.codec is None or self.codec.stream != stream):
            mine = "none" if self.codec is None else f"{self.codec.stream:08x}"
            raise ValueError(
                f"the shards in {data.root} hold stream {stream:08x}, the model's codec is "
                f"{mine}: give --model.codec {data.root}"
            )
        if stage == "fit":
            for module in self.modules():
                if isinstance(module, TorchvisionNet):
                    module.load_weights()

    def network_input(self, batch: Batch) -> Tensor:
        """Return what the network reads, ``(B, C, h, w)`` latents or ``(B, 3, H, W)`` pixels."""
        if self.codec is None:
            image: Tensor = batch["image"]
            return image
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            if "planes" in batch:
                y = self.codec.dequantize(batch["planes"]).y
            else:
                y = self.codec.encode(batch["image"]).y
            if self.input == "latents":
                return y
            x_hat = round_to_8_bits(self.codec.decode(y))
            return _crop(x_hat, batch)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.step(batch, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.step(batch, "test")

    def train(self, mode: bool = True) -> "LatentTask":
        """Set the mode of the network; the codec stays in eval mode."""
        super().train(mode)
        if self.codec is not None:
            self.codec.eval()
        return self


def _crop(x_hat: Tensor, batch: Batch) -> Tensor:
    """Cut the boxes ``crop (B, 4)`` (top, left, height, width), or back to the image's size."""
    if "crop" not in batch:
        height, width = batch["image"].shape[-2:]
        return x_hat[..., :height, :width]
    boxes: Sequence[Sequence[int]] = batch["crop"].tolist()
    cuts = [x[:, t : t + h, a : a + w] for x, (t, a, h, w) in zip(x_hat, boxes, strict=True)]
    return torch.stack(cuts)
