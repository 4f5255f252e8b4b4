r"""Training a codec: distortion plus rate above a target, steered on real bytes.

    crop --encode--> y --decode--> x_hat       L = D + beta * max(H - H_t, 0)
                     |
                     +-- bits_est -> H, mean of the per-channel code lengths, bits per symbol

The target entropy starts at ``H_t = 64 * bpp / C``. At every validation a context model is fitted
anew to some training pictures, whole pictures are compressed with it to complete ``.cdi`` files,
and H_t moves by the factor by which their mean real rate misses the nominal one: an estimate on
crops is never taken for a rate.

Training ends with the freezing order of ``codecs/stored.py``; the folder ``codec/`` of the run is
what ``--codec RUN`` reads. Resuming a training that has taken all its steps only freezes.

References:
    Torfason et al., ICLR 2018, https://arxiv.org/abs/1803.06131 (loss, beta, H_t).
"""

import itertools
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from cdinfer.codecs import CAE, freeze, save_codec
from cdinfer.codecs.start import start_as_transform
from cdinfer.losses import compression_loss, distortion
from cdinfer.metrics import ms_ssim, psnr, round_to_8_bits
from cdinfer.tasks.base import BaseTask

log = logging.getLogger(__name__)

#: Training pictures that the context model of a validation is fitted to.
FIT_PICTURES = 48

#: What :func:`measure` returns.
MEASURES = ("bpp", "bits_est", "psnr", "ms_ssim")


class CollapseError(RuntimeError):
    """The latents have stopped carrying anything."""


class CompressionTask(BaseTask):
    """Train a codec; batches hold ``image (B, 3, H, W)`` in [0, 1].

    Args:
        codec: the codec to train, from scratch.
        beta: price of a bit per symbol above the target (the paper's 150).
        lr: peak learning rate of Adam; 2 % of the steps warm up, then half a cosine.
        collapse_steps: training fails when the mean entropy has stayed below 2 % of the target
            for this many steps.
    """

    def __init__(
        self, codec: CAE, beta: float = 150.0, lr: float = 1e-3, collapse_steps: int = 200
    ) -> None:
        super().__init__()
        self.codec, self.beta, self.lr = codec, beta, lr
        self.collapse_steps = collapse_steps
        self.entropy_target: Tensor
        nominal = codec.bpp * codec.stride**2 / codec.channels
        self.register_buffer("entropy_target", torch.tensor(nominal))
        self._empty_steps = 0
        self._rows: list[list[float]] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        x = batch["image"]
        latents = self.codec.encode(x)
        assert latents.bits_est is not None
        x_hat = self.codec.decode(latents.y)[..., : x.shape[-2], : x.shape[-1]]
        d = distortion(x_hat, x)
        entropy = latents.bits_est.mean() / latents.y[0].numel()
        self._check_collapse(entropy.detach())
        values = {"train/D": d, "train/H": entropy, "train/H_t": self.entropy_target}
        self.log_dict(values, prog_bar=True)
        return compression_loss(d, entropy, self.entropy_target, self.beta)

    def setup(self, stage: str) -> None:
        """Refuse latents."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if data.sharded:
            raise ValueError(
                f"'{data.root}' holds latents and codecs learn from pictures: give --data a "
                "folder of pictures"
            )

    def on_fit_start(self) -> None:
        """Start as a transform codec, unless training goes on from a checkpoint."""
        if self.trainer.ckpt_path is None:
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            images = (batch["image"][0] for batch in data.calibration_dataloader())
            start_as_transform(self.codec, images, torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def on_validation_epoch_start(self) -> None:
        """Fit the context model that the files of this validation are written with."""
        self.codec.eval()
        with torch.autocast(self.device.type, enabled=False):
            self.codec.fit(self._numbers(self.codec, FIT_PICTURES))

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        with torch.autocast(self.device.type, enabled=False):
            results = measure(self.codec, batch["image"])
        self._rows.append([results[name] for name in MEASURES])

    def on_validation_epoch_end(self) -> None:
        """Log the means, and move H_t by the factor by which real files miss the nominal rate."""
        rows = torch.tensor(self._rows, device=self.device).reshape(-1, len(MEASURES))
        self._rows.clear()
        finite = rows.isfinite()
        mine = torch.stack([rows.where(finite, 0).sum(0), finite.sum(0)])
        everywhere: Any = self.all_gather(mine)  # processes may have seen unequal numbers
        totals, counts = everywhere.reshape(-1, 2, len(MEASURES)).sum(0).tolist()
        pairs = zip(MEASURES, totals, counts, strict=True)
        means = {f"val/{name}": total / count for name, total, count in pairs if count}
        self.log_dict(means, prog_bar=True, sync_dist=True)
        if not self.trainer.sanity_checking and self.trainer.state.fn == "fit":
            miss = self.codec.bpp / means["val/bpp"]
            self.entropy_target *= min(max(miss, 0.8), 1.25)

    def on_fit_end(self) -> None:
        """Freeze the codec into the run folder."""
        folder = self.trainer.log_dir  # all processes ask, or the first would wait for the others
        if self.trainer.is_global_zero and folder and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.to(self.trainer.strategy.root_device)
            self._freeze(Path(folder) / "codec")

    def describe(self) -> dict[str, Any]:
        return {"task": "codec", "codec": self.codec.name, "bpp": self.codec.bpp}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.Adam(self.codec.parameters(), self.lr)
        total = int(self.trainer.estimated_stepping_batches)
        warmup = max(1, total // 50)

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            progress = min(1.0, (step - warmup) / max(1, total - warmup))
            return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _check_collapse(self, entropy: Tensor) -> None:
        alive = bool(entropy > 0.02 * self.entropy_target)
        self._empty_steps = 0 if alive else self._empty_steps + 1
        if self._empty_steps >= self.collapse_steps or not torch.isfinite(entropy):
            raise CollapseError(
                f"training collapsed: at step {self.global_step} the latents carry "
                f"{float(entropy):.4f} bits/symbol of a target {float(self.entropy_target):.3f}, "
                f"all symbols are alike; try a lower --model.lr (now {self.lr:g}), "
                "or another --seed_everything"
            )

    @torch.inference_mode()
    def _freeze(self, folder: Path) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        frozen = freeze(self.codec, self._numbers)
        rows = [measure(frozen, batch["image"].to(self.device)) for batch in data.val_dataloader()]
        results = {name: nanmean([row[name] for row in rows]) for name in rows[0]}
        training = {
            "data": data.root.name,
            "steps": self.global_step,
            "beta": self.beta,
            "lr": self.lr,
        }
        save_codec(frozen, folder, {**training, "validation": results, "pictures": len(rows)})
        log.info(
            "froze %s: stream %08x; %d validation pictures at %.4f bpp (nominal %s), %.2f dB",
            folder, frozen.stream, len(rows), results["bpp"], frozen.bpp, results["psnr"],
        )  # fmt: skip

    def _numbers(self, codec: CAE, limit: int | None = None) -> list[NDArray[np.int16]]:
        """Return the numbers of the first ``limit`` training pictures, or of all."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        batches = itertools.islice(data.calibration_dataloader(), limit)
        images = (batch["image"].to(self.device) for batch in batches)
        return [codec.numbers(image)[0].cpu().numpy() for image in images]


def nanmean(values: list[float]) -> float | None:
    """Return the mean of the finite values, or ``None`` (JSON has no NaN).

    Example:
        >>> nanmean([1.0, float("nan"), 2.0])
        1.5
    """
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None


@torch.inference_mode()
def measure(codec: CAE, x: Tensor) -> dict[str, float]:
    """Compress ``x (B, 3, H, W)`` for real; means of bpp, bits_est (per pixel), psnr, ms_ssim."""
    was_training = codec.training
    codec.eval()
    files = codec.compress(x)
    x_hat = round_to_8_bits(codec.decompress(files))
    bits_est = codec.symbol_bits(codec.unpack(files)["y"].to(x.device))
    codec.train(was_training)
    pixels = x.shape[-2] * x.shape[-1]
    return {
        "bpp": 8 * sum(map(len, files)) / (len(files) * pixels),
        "bits_est": float(bits_est.mean()) / pixels,
        "psnr": float(psnr(x_hat, x).mean()),
        "ms_ssim": float(ms_ssim(x_hat, x).mean()),
    }
