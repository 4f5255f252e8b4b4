"""The folder of a run: finding it, and reading what training left there without trusting it."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: Largest ``run.json`` that is read, in bytes; class names may be many.
MAX_ABOUT = 2**26

#: Most characters of what a network is called.
MAX_NAME = 200


class TrainedTrunk(NamedTuple):
    """What a trunk has learnt.

    Attributes:
        folder: of the run.
        weights: the trunk's tensors, mapped from their file.
        net: the network's name and options.
        stream: stream id of the latents it reads, in hexadecimal; ``None`` if it reads pixels.
    """

    folder: Path
    weights: dict[str, Tensor]
    net: str
    stream: str | None


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


def find_checkpoint(folder: Path) -> Path:
    """Return the best checkpoint of a run, or else its last one.

    Raises:
        ValueError: if there is none.
    """
    for name in ("best.ckpt", "last.ckpt"):
        if (folder / "checkpoints" / name).is_file():
            return folder / "checkpoints" / name
    raise ValueError(f"no checkpoint in {folder / 'checkpoints'}: train for longer")


def read_weights(folder: Path, prefix: str = "net.") -> dict[str, Tensor]:
    """Return the tensors of a run's checkpoint whose names start with ``prefix``, without it.

    They are mapped from the file: nothing is unpacked or copied.

    Raises:
        ValueError: if there is no checkpoint, or it is damaged.
    """
    path = find_checkpoint(folder)
    try:
        _check_archive(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        state: dict[str, Tensor] = checkpoint["state_dict"]
        weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        num_bytes = sum(v.nbytes for v in weights.values())
    except Exception as error:  # torch raises nearly anything on damaged files
        raise ValueError(f"damaged {path}: not a checkpoint; train again") from error
    if num_bytes > path.stat().st_size:
        raise ValueError(f"damaged {path}: its weights are larger than the file; train again")
    return weights


def read_trunk(run: str | Path) -> TrainedTrunk:
    """Return what a run's trunk has learnt.

    Args:
        run: the run's folder, or its parent (newest version), of a task that trains a trunk.

    Raises:
        ValueError: if the run is missing, damaged, unfinished, or has no trunk.
    """
    folder = find_run(run)
    about = read_about(folder)
    weights = read_weights(folder, "net.trunk.")
    if not weights:
        raise ValueError(
            f"{folder} trained a {about['task']}, which has no trunk: give the run of a classifier "
            "or a segmenter"
        )
    try:
        spec, reads = about["net"], about["preprocessing"]["input"]
        options = (f"{name} {value}" for name, value in spec.get("init_args", {}).items())
        net = " ".join(", ".join((spec["class_path"].rpartition(".")[2], *options)).split())
        stream = about["stream"] if reads == "latents" else None
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"damaged run {folder}: {error!r}; train again") from error
    return TrainedTrunk(folder, weights, net[:MAX_NAME], stream)


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
