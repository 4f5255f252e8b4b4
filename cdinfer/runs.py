"""What a training leaves behind, and how it is used again.

    runs/TASK/version_N/
        config.yaml            the only record of hyper-parameters
        run.json               what predict needs: task, classes, network, preprocessing, stream
        codec/                 the codec the network reads; for a codec's run, the result
        checkpoints/           best.ckpt, last.ckpt; read with weights_only=True alone
        metrics.csv

``load_run(RUN).predict(INPUTS)`` needs the run folder and nothing else:

    picture  --resize, encode------> latents --centre crop--> network --> class
    x.cdi    --entropy-decode------> latents -------^    (input: latents; never pixels)
"""

import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from cdinfer import models
from cdinfer.codecs import LatentCodec
from cdinfer.codecs.base import check_device
from cdinfer.codecs.stored import read_codec
from cdinfer.data.images import find_images, read_image, resize_short_side, to_tensor
from cdinfer.data.layout import is_shards
from cdinfer.metrics import round_to_8_bits
from cdinfer.models import Classifier, NetRecipe

if TYPE_CHECKING:
    from cdinfer.data.shards import ShardDataset

BATCH = 32
MAX_ABOUT = 2**26


class Prediction(NamedTuple):
    """The most likely class of one input, and its probability."""

    file: str
    name: str
    probability: float


class Source(NamedTuple):
    """One input: what to call it and how to get what the network reads, ``(1, C, h, w)``."""

    file: str
    load: Callable[[], Tensor]


def find_run(run: str | Path) -> Path:
    """Return the run folder that ``run`` names: itself, or the newest ``version_N`` in it.

    Raises:
        ValueError: if there is none.
    """
    path = Path(run)
    versions = [p for p in path.glob("version_*") if (p / "run.json").is_file()]
    if (path / "run.json").is_file():
        return path
    if versions:
        return max(versions, key=lambda p: (len(p.name), p.name))
    known = sorted(str(p.parent) for p in Path("runs").glob("*/version_*/run.json"))
    hint = f"there are: {', '.join(known[-3:])}" if known else "train one with cdinfer train"
    raise ValueError(f"no run in '{path}': expected run.json or version_N/run.json ({hint})")


def read_about(folder: Path) -> dict[str, Any]:
    """Return the content of a run's ``run.json``.

    Raises:
        ValueError: if it is damaged.
    """
    path = folder / "run.json"
    try:
        if path.stat().st_size > MAX_ABOUT:
            raise ValueError(f"larger than {MAX_ABOUT} bytes")
        about: dict[str, Any] = json.loads(path.read_bytes())
        task = about.get("task") if isinstance(about, dict) else None
        if not isinstance(task, str) or not re.fullmatch(r"\w{1,80}", task):
            raise ValueError("expected an object with a task")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"damaged {path}: {error}; train again") from error
    return about


class Run:
    """A trained classifier, ready to predict; see :func:`load_run`.

    Attributes:
        classes: class names in the order of the network's outputs.
        codec: the codec whose latents the network reads; ``None`` for originals.
        net: pixels or latents -> logits, in eval mode.
        input: ``latents``, ``decoded`` or ``original``.
    """

    def __init__(
        self, about: dict[str, Any], codec: LatentCodec | None, net: Classifier, device: str
    ) -> None:
        self.classes = [str(name) for name in about["classes"]]
        self.codec = None if codec is None else codec.to(device)
        self.net = net.to(device).eval().requires_grad_(False)
        self.device = device
        preprocessing = about["preprocessing"]
        self.input: str = preprocessing["input"]
        self.resize = _read_side(preprocessing["resize"])
        self.crop = _read_side(preprocessing["crop"])

    def predict(
        self,
        inputs: Iterable[str | Path],
        on_error: Callable[[str, Exception], None] | None = None,
    ) -> Iterator[Prediction]:
        """Classify files, folders and sets of shards, in order.

        Args:
            inputs: ``.cdi`` files, pictures, folders of either, sets of shards.
            on_error: called with the file and the error for inputs that cannot be read, which
                are then left out; without it the error is raised.

        Raises:
            ValueError: if an input is missing, damaged, or another codec's.
        """
        batch: list[tuple[str, Tensor]] = []
        for path in inputs:
            try:
                sources = self._sources(Path(path))
            except (ValueError, OSError) as error:
                _refuse(str(path), error, on_error)
                continue
            for source in sources:
                try:
                    x = self._cut(source.load())
                except (ValueError, OSError) as error:
                    _refuse(source.file, error, on_error)
                    continue
                if batch and (x.shape != batch[0][1].shape or len(batch) == BATCH):
                    yield from self._classify(batch)
                    batch = []
                batch.append((source.file, x))
        yield from self._classify(batch)

    @torch.inference_mode()
    def probabilities(self, x: Tensor) -> Tensor:
        """Map what the network reads, ``(B, C, h, w)``, to probabilities ``(B, K)``."""
        logits: Tensor = self.net(x.to(self.device))
        return logits.softmax(-1).cpu()

    def _classify(self, batch: list[tuple[str, Tensor]]) -> Iterator[Prediction]:
        if not batch:
            return
        best = self.probabilities(torch.cat([x for _, x in batch])).max(-1)
        for (file, _), p, label in zip(batch, best.values, best.indices, strict=True):
            yield Prediction(file, self.classes[int(label)], float(p))

    def _sources(self, path: Path) -> Iterable[Source]:
        if is_shards(path):
            return self._shard_sources(path)
        if path.is_dir():
            files = sorted([*find_images(path), *path.rglob("*.cdi")])
            if not files:
                raise ValueError("no pictures and no .cdi files in this folder")
            return (self._file_source(file) for file in files)
        return [self._file_source(path)]

    def _file_source(self, path: Path) -> Source:
        if path.suffix.lower() == ".cdi":
            return Source(str(path), lambda: self._from_bits(path.read_bytes()))
        return Source(str(path), lambda: self._from_picture(path))

    def _shard_sources(self, root: Path) -> list[Source]:
        from cdinfer.data.index import read_index
        from cdinfer.data.shards import ShardDataset

        index = read_index(root)
        if self.codec is None or self.codec.stream != index.stream:
            mine = "original pictures" if self.codec is None else f"stream {self.codec.stream:08x}"
            raise ValueError(
                f"these shards hold stream {index.stream:08x}, this run reads {mine}: give what "
                "its own codec wrote, or the pictures"
            )
        sources = []
        for split in index.splits:
            data = ShardDataset(root, split, None, check_crop=False)
            for number, key in enumerate(data.keys()):
                load = partial(self._from_shard, data, number)
                sources.append(Source(str(root / key), load))
        return sources

    def _from_shard(self, data: "ShardDataset", number: int) -> Tensor:
        return self._from_bits(data.file(number))

    def _from_bits(self, data: bytes) -> Tensor:
        if self.codec is None:
            raise ValueError("this run reads original pictures: give the picture, not a .cdi file")
        if self.input == "decoded":
            return round_to_8_bits(self.codec.decompress([data]))
        planes = {name: p.to(self.device) for name, p in self.codec.unpack([data]).items()}
        return self.codec.dequantize(planes).y

    @torch.inference_mode()
    def _from_picture(self, path: Path) -> Tensor:
        picture = read_image(path)
        if self.resize is not None:
            picture = resize_short_side(picture, self.resize)
        x = to_tensor(picture).unsqueeze(0).to(self.device)
        if self.codec is None:
            return x
        y = self.codec.encode(x).y
        if self.input == "latents":
            return y
        return round_to_8_bits(self.codec.decode(y)[..., : x.shape[-2], : x.shape[-1]])

    def _cut(self, x: Tensor) -> Tensor:
        """Cut the centre that validation saw; smaller inputs stay whole."""
        if self.crop is None:
            return x
        unit = self.codec.stride if self.codec is not None and self.input == "latents" else 1
        height, width = (min(side, self.crop // unit) for side in x.shape[-2:])
        top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
        return x[..., top : top + height, left : left + width]


def load_run(run: str | Path, device: str = "cpu", net: NetRecipe | None = None) -> Run:
    """Return the classifier trained in ``run``.

    Args:
        run: the run's folder, or its parent (newest version).
        device: where to run it.
        net: the network's class, if it is not one of ``cdinfer.models``.

    Raises:
        ValueError: if the run is missing, damaged, unfinished, or not a classifier's, or there
            is no such device.
    """
    check_device(device)
    folder = find_run(run)
    about = read_about(folder)
    if about["task"] != "cls":
        raise ValueError(f"{folder} trained a {about['task']}, expected a classifier (--task cls)")
    try:
        reads = about["preprocessing"]["input"]
        if reads not in ("latents", "decoded", "original"):
            raise ValueError(f"unknown input {reads!r}")
        codec = None if reads == "original" else read_codec(folder / "codec")
        if codec is not None and f"{codec.stream:08x}" != about["stream"]:
            raise ValueError(f"its codec is not that of stream {about['stream']}")
        recipe = _find_net(about["net"]["class_path"]) if net is None else net
        options = about["net"].get("init_args", {})
        on_latents = codec is not None and reads == "latents"
        shape = (codec.channels, codec.stride) if codec is not None and on_latents else (3, 1)
        weights = _read_weights(folder)
        with torch.device("meta"):  # shapes are compared before anything is allocated
            skeleton = _build(recipe, shape, options, len(about["classes"])).state_dict()
        if {k: v.shape for k, v in skeleton.items()} != {k: v.shape for k, v in weights.items()}:
            raise ValueError("the checkpoint does not fit the network of run.json")
        classifier = _build(recipe, shape, options, len(about["classes"]))
        classifier.load_state_dict(weights)
        return Run(about, codec, classifier, device)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"cannot use run {folder}: {reason}") from error
    except (KeyError, TypeError, RuntimeError, AttributeError, OverflowError) as error:
        raise ValueError(f"damaged run {folder}: {error!r}; train again") from error


def _build(
    recipe: NetRecipe, shape: tuple[int, int], options: dict[str, Any], num_classes: int
) -> Classifier:
    trunk = recipe(channels=shape[0], stride=shape[1], sigma=False, **options)
    return Classifier(trunk, num_classes)


def _find_net(class_path: str) -> NetRecipe:
    """Return a network class of ours; a run cannot make us import anything else."""
    module, _, name = class_path.rpartition(".")
    if name not in models.__all__ or not module.startswith("cdinfer.models"):
        raise ValueError(
            f"the run's network {class_path} is not one of cdinfer.models: "
            "use load_run(RUN, net=YourNetwork) from Python"
        )
    recipe: NetRecipe = getattr(models, name)
    return recipe


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = find_checkpoint(folder)
    try:  # mapped: nothing is unpacked or copied before it is checked
        _check_archive(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        state: dict[str, Tensor] = checkpoint["state_dict"]
        weights = {k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")}
        num_bytes = sum(v.nbytes for v in weights.values())
    except Exception as error:  # torch raises nearly anything on damaged files
        raise ValueError(f"damaged {path}: not a checkpoint; train again") from error
    if num_bytes > path.stat().st_size:
        raise ValueError(f"damaged {path}: its weights are larger than the file; train again")
    return weights


def _check_archive(path: Path) -> None:
    """Compare a checkpoint's checksums, which torch does not.

    Raises:
        ValueError: if one differs, or members are packed.
    """
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("packed members")
        if damaged := archive.testzip():
            raise ValueError(f"damaged {damaged}")


def find_checkpoint(folder: Path) -> Path:
    """Return the best checkpoint of a run, or else its last one.

    Raises:
        ValueError: if there is none.
    """
    for name in ("best.ckpt", "last.ckpt"):
        if (folder / "checkpoints" / name).is_file():
            return folder / "checkpoints" / name
    raise ValueError(f"no checkpoint in {folder / 'checkpoints'}: train for longer")


def _read_side(value: object) -> int | None:
    if value is not None and (not isinstance(value, int) or value < 1):
        raise ValueError(f"expected a number of pixels, got {value!r}")
    return value


def _refuse(file: str, error: Exception, on_error: Callable[[str, Exception], None] | None) -> None:
    if on_error is None:
        raise ValueError(f"{file}: {error}") from error
    on_error(file, error)
