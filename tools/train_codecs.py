"""Train a codec on folders of pictures, for a stated time, as the shipped ones were.

    python tools/train_codecs.py PHOTOS... --val VAL --out RUN --design cae-lite --minutes 30
    python tools/train_codecs.py PHOTOS... --val VAL --out RUN2 --like RUN/codec --minutes 20

It starts as a transform codec (`start_as_transform`), or from another run (``--init``, any rate or
design: what has the same shape is taken, of the rest what overlaps). The loss is
``D + lambda * bpp``; lambda is turned, slowly, until the estimated rate of the crops meets a
target, and the target is moved at every validation until the *real bytes* of the validation
pictures, with a context model fitted anew, meet the nominal rate. Weights are averaged (EMA 0.999);
crops are partly shrunk by 1.15 to 2, so that details are as fine as in larger pictures; bf16 where
the CPU has it.

With ``--like CODEC`` only an encoder is trained, for the stream and the decoder of a codec that
exists: first to the latents of its encoder (a quarter of the time), then through its decoder.

Killed or interrupted, the same command goes on from RUN/last.pt; RUN/log.txt tells the story, and
RUN/codec is the frozen codec, once the time is spent. Schedules depend on the time, not on steps.
"""

import argparse
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from cdinfer.codecs import CAE, freeze, read_codec, save_codec
from cdinfer.codecs.start import start_as_transform
from cdinfer.data.images import find_images, read_image, to_tensor
from cdinfer.losses import distortion
from cdinfer.metrics import psnr, round_to_8_bits

FIT_EVERY = 6  # one training picture in so many serves for the context model of a validation


class Crops:
    """Random square crops of pictures held in memory, larger pictures more often."""

    def __init__(self, pictures: list[NDArray[np.uint8]], side: int, seed: int) -> None:
        usable = [p for p in pictures if min(p.shape[:2]) >= side]
        self.pictures, self.side, self.rng = usable, side, np.random.default_rng(seed)
        areas = np.minimum([p.shape[0] * p.shape[1] for p in usable], 300_000)
        self.share = areas / areas.sum()

    def draw(self, count: int) -> Tensor:
        """Return ``(count, 3, side, side)`` in [0, 1], channels last."""
        chosen = self.rng.choice(len(self.pictures), count, p=self.share)
        x = torch.stack([self._crop(self.pictures[i]) for i in chosen])
        return x.contiguous(memory_format=torch.channels_last)

    def _crop(self, picture: NDArray[np.uint8]) -> Tensor:
        room = min(picture.shape[:2]) / self.side
        shrink = self.rng.uniform(1.15, 2) if room > 2 and self.rng.random() < 0.35 else 1
        size = int(self.side * shrink)
        top, left = (int(self.rng.integers(n - size + 1)) for n in picture.shape[:2])
        x = to_tensor(np.ascontiguousarray(picture[top : top + size, left : left + size]))
        if size > self.side:
            x = F.interpolate(x[None], (self.side, self.side), mode="bilinear", antialias=True)[0]
        x = x.flip(2) if self.rng.random() < 0.5 else x
        return x.transpose(1, 2) if self.rng.random() < 0.2 else x


class Training:
    """All that a checkpoint holds."""

    def __init__(self, args: argparse.Namespace, codec: CAE, twin: CAE | None) -> None:
        self.args, self.codec, self.twin = args, codec, twin
        self.step, self.seconds = 0, 0.0
        self.rate_price, self.target, self.rate = 400 * (codec.bpp / 0.33) ** -1.3, codec.bpp, 0.0
        self.average = {k: v.clone() for k, v in codec.state_dict().items()}
        if twin is not None:
            for part in (codec.g_s, codec.quantizer):
                part.requires_grad_(False)
        mine = [p for p in [*codec.g_a.parameters(), *codec.g_s.parameters()] if p.requires_grad]
        rates = [p for p in codec.quantizer.parameters() if p.requires_grad]
        groups = [{"params": mine, "factor": 1.0}, {"params": rates, "factor": 3.0}]
        self.optimizer = torch.optim.Adam([g for g in groups if g["params"]], args.lr)

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        state = {n: getattr(self, n) for n in ("step", "seconds", "rate_price", "target", "rate")}
        state |= {"codec": self.codec.state_dict(), "average": self.average}
        torch.save(state | {"optimizer": self.optimizer.state_dict()}, f"{path}.partial")
        os.replace(f"{path}.partial", path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state: dict[str, Any] = torch.load(path, weights_only=True)
        self.codec.load_state_dict(state.pop("codec"))
        self.optimizer.load_state_dict(state.pop("optimizer"))
        vars(self).update(state)

    def take(self, x: Tensor) -> dict[str, float]:
        """Take one step on crops ``x`` and return D and the estimated bpp."""
        progress = min(1.0, self.seconds / (60 * self.args.minutes))
        rate = min(1.0, (self.step + 1) / 100) * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.args.lr * rate * group["factor"]
        with torch.autocast("cpu", torch.bfloat16, enabled=not self.args.fp32):
            z = self.codec._analysis(x)
        y, bits = self.codec.quantizer(z.float())
        bpp = bits.sum() / (x.shape[0] * x.shape[2] * x.shape[3])
        if self.twin is not None and progress < 0.25:  # to the latents of the encoder that exists
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=not self.args.fp32):
                aim = self.twin._analysis(x).float()
            steps = self.codec.quantizer.log_step.exp().view(1, -1, 1, 1)  # type: ignore[operator]
            d = 100 * F.smooth_l1_loss(z.float() / steps, aim / steps)
            loss = d
        else:
            with torch.autocast("cpu", torch.bfloat16, enabled=not self.args.fp32):
                x_hat = self.codec.decode(y)
            d = distortion(x_hat, x)
            loss = (d + self.rate_price * bpp) / 100
            if self.twin is None:
                self._turn(float(bpp.detach()))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.codec.parameters(), 2.0)
        self.optimizer.step()
        self.step += 1
        keep = min(0.999, self.step / (self.step + 10))
        for name, value in self.codec.state_dict().items():
            self.average[name].lerp_(value, 1 - keep)
        return {"D": float(d.detach()), "bpp": float(bpp.detach())}

    def _turn(self, bpp: float) -> None:
        self.rate = 0.98 * self.rate + 0.02 * bpp if self.rate else bpp
        miss = max(-1.0, min(1.0, 3 * (self.rate / self.target - 1)))
        self.rate_price *= math.exp(0.004 * miss)


def average_codec(training: Training) -> CAE:
    """Return a copy of the codec with averaged weights."""
    codec = CAE(training.codec.bpp, training.codec.width, training.codec.design).eval()
    codec.load_state_dict(training.average)
    return codec


def numbers(codec: CAE, pictures: list[NDArray[np.uint8]]) -> list[NDArray[np.int16]]:
    """Return the numbers of whole pictures, for a context model."""
    return [codec.numbers(to_tensor(p)[None])[0].numpy() for p in pictures]


def measure(codec: CAE, pictures: list[NDArray[np.uint8]]) -> tuple[float, float]:
    """Return mean real bpp and mean PSNR of whole pictures."""
    rows = []
    for picture in pictures:
        x = to_tensor(picture)[None]
        files = codec.compress(x)
        quality = psnr(round_to_8_bits(codec.decompress(files)), x)
        rows.append((8 * len(files[0]) / x[0, 0].numel(), float(quality)))
    bpp, mean = np.mean(rows, axis=0)
    return float(bpp), float(mean)


def begin(args: argparse.Namespace, pictures: list[NDArray[np.uint8]]) -> Training:
    """Return a training at its start, or where RUN/last.pt left it."""
    like = read_codec(Path(args.like)) if args.like else None
    codec = CAE(like.bpp if like else args.bpp, 1.0, args.design)
    drawn = torch.Generator().manual_seed(args.seed)
    start_as_transform(codec, (to_tensor(p) for p in pictures), drawn)
    if args.init:
        state: dict[str, Any] = torch.load(args.init, weights_only=True)
        own = codec.state_dict()
        for name, value in state["average"].items():
            if name in own:
                both = tuple(
                    slice(min(a, b)) for a, b in zip(own[name].shape, value.shape, strict=True)
                )
                own[name][both] = value[both]
    if like is not None:
        codec.g_s.load_state_dict(like.g_s.state_dict())
        codec.quantizer.load_state_dict(like.quantizer.state_dict())
        codec.g_a.linear.load_state_dict(like.g_a.linear.state_dict())  # type: ignore[operator, union-attr]
    training = Training(args, codec.to(memory_format=torch.channels_last), like)  # type: ignore[call-overload]
    if args.init and like is None and state["average"].keys() == training.average.keys():
        training.rate_price, training.target = state["rate_price"], state["target"]
    training.rate_price = args.price or training.rate_price
    if (args.out / "last.pt").exists():
        training.load(args.out / "last.pt")
    return training


def main() -> None:
    """Train, validate every few minutes, freeze."""
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parse.add_argument("photos", nargs="+", type=Path, help="folders of training pictures")
    parse.add_argument("--val", type=Path, required=True, help="folder where the rate is steered")
    parse.add_argument("--out", type=Path, required=True)
    parse.add_argument("--design", choices=("cae", "cae-lite"), default="cae")
    parse.add_argument("--bpp", type=float, default=0.33)
    parse.add_argument(
        "--minutes", type=float, default=30, help="of training, validations included"
    )
    parse.add_argument("--init", type=Path, metavar="RUN/last.pt", help="weights to start from")
    parse.add_argument("--like", metavar="CODEC", help="train an encoder for this codec's stream")
    parse.add_argument("--price", type=float, help="lambda to start with (default: by the rate)")
    parse.add_argument("--lr", type=float, default=1e-3)
    parse.add_argument("--batch", type=int, default=4)
    parse.add_argument("--side", type=int, default=128)
    parse.add_argument("--every", type=float, default=5, help="minutes between validations")
    parse.add_argument("--seed", type=int, default=0)
    parse.add_argument("--fp32", action="store_true")
    args = parse.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    pictures = [read_image(p) for folder in args.photos for p in find_images(folder)]
    val = [read_image(p) for p in find_images(args.val)]
    training = begin(args, pictures)
    crops = Crops(pictures, args.side, args.seed + training.step)
    log = (args.out / "log.txt").open("a")
    seen, at, due = [], time.time(), training.seconds + 60 * args.every
    while training.seconds < 60 * args.minutes:
        seen.append(training.take(crops.draw(args.batch)))
        now = time.time()
        training.seconds, at = training.seconds + now - at, now
        if training.step % 100 == 0:
            means = {k: sum(row[k] for row in seen) / len(seen) for k in seen[0]}
            line = " ".join(f"{k} {v:.4g}" for k, v in means.items())
            tell(log, f"step {training.step} {training.seconds / 60:.1f} min {line} "
                 f"target {training.target:.4f} price {training.rate_price:.1f}")  # fmt: skip
            seen = []
        if training.seconds > due:
            due = training.seconds + 60 * args.every
            codec = average_codec(training)
            if training.twin is None:
                codec.fit(numbers(codec, pictures[::FIT_EVERY]))
            else:
                codec.set_tables(training.twin.model, training.twin.centers)  # type: ignore[arg-type]
            bpp, quality = measure(codec, val)
            tell(log, f"validation: step {training.step} {bpp:.4f} bpp {quality:.2f} dB")
            training.target *= min(1.15, max(0.87, codec.bpp / bpp))
            if training.twin is not None and training.seconds > 15 * args.minutes:
                training.rate_price *= min(1.25, max(0.8, (bpp / codec.bpp) ** 2))
            training.save(args.out / "last.pt")
    training.save(args.out / "last.pt")
    codec = average_codec(training)
    if training.twin is None:
        codec = freeze(codec, lambda c: numbers(c, pictures))
    else:
        codec.set_tables(training.twin.model, training.twin.centers)  # type: ignore[arg-type]
    bpp, quality = measure(codec, val)
    tell(
        log, f"frozen: stream {codec.stream:08x}, {bpp:.4f} bpp {quality:.2f} dB on {args.val.name}"
    )
    card = {
        "pictures": len(pictures),
        "steps": training.step,
        "minutes": round(training.seconds / 60, 1),
        "crops": f"{args.batch} of {args.side}x{args.side}",
        "validation": {"bpp": bpp, "psnr": quality},
    }
    save_codec(codec, args.out / "codec", card)


def tell(log: Any, line: str) -> None:  # noqa: ANN401
    """Print a line and keep it in RUN/log.txt."""
    print(line, flush=True)
    print(line, file=log, flush=True)


if __name__ == "__main__":
    main()
