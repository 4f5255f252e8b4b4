"""A table is arms x rates x seeds, each a cell; sets and mirrors are cells that others need.

    set-RATE           latents of all pictures (``cdinfer export``)
    as-decoded-RATE    its reconstructions as PNG files: the pixels that ``input: decoded`` decodes
                       anew in every epoch; and they can be mirrored in training
    as-webp-RATE       WebP files of the set's bytes
    ARM-RATE-SEED      one training, tested on the test split; arms on originals have no rate

All arms of a table have the same epochs, batches, optimiser, crops and resized pictures. Networks
on pixels also see mirrored pictures; latents of a mirrored picture are not mirrored latents, so
networks on latents do not.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from cdinfer.studies.cells import Cell

#: Rates that are run unless others are asked for, and all.
REQUIRED_RATES, RATES = (0.0983, 0.33), (0.0983, 0.33, 0.635)


class Arm(NamedTuple):
    """A network and what it reads.

    Attributes:
        title: for the table.
        source: kind of the cell with its data; ``folder`` is the pictures themselves.
        options: of ``cdinfer train``.
        tasks: those there is such an arm for.
        required: rates that are run unless others are asked for; a folder's is one, None.
        sized: whether its width can be set.
    """

    title: str
    source: Literal["set", "set-lite", "as-decoded", "as-webp", "folder"]
    options: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ("cls", "seg")
    required: tuple[float | None, ...] = ()
    sized: bool = True

    @property
    def rates(self) -> tuple[float | None, ...]:
        """All rates there are cells for."""
        return (None,) if self.source == "folder" else RATES


ORIGINAL = ("--config", "baselines/original")
PATCH = ("--config", "baselines/patch", "--model.input", "original")

ARMS = {
    "latents": Arm("latents, cResNet-39", "set", required=REQUIRED_RATES),
    "decoded": Arm("decoded, ResNet-50", "as-decoded", ORIGINAL, required=REQUIRED_RATES),
    "patch": Arm("decoded, patches, cResNet-39", "as-decoded", PATCH, required=REQUIRED_RATES),
    "webp": Arm("WebP of equal bytes, ResNet-50", "as-webp", ORIGINAL, required=(0.33,)),
    "original": Arm("originals, ResNet-50", "folder", ORIGINAL, required=(None,)),
    "latents-51": Arm("latents, cResNet-51", "set", ("--model.net.depth", "51")),
    "latents-lite": Arm("latents of cae-lite, cResNet-39", "set-lite"),
    "decoded-unflipped": Arm(
        "decoded, never mirrored, ResNet-50", "as-decoded", (*ORIGINAL, "--data.flip", "false")
    ),
    "original-strong": Arm(
        "originals, strong recipe, ResNet-50",
        "folder",
        ("--config", "baselines/original-strong"),
        ("cls",),
    ),
    "original-scaled": Arm(
        "originals, random scales, ResNet-50",
        "folder",
        (*ORIGINAL, "--data.scale", "[0.5,1.5]"),
        ("seg",),
    ),
    "mobilenet": Arm("originals, MobileNetV3-Large", "folder", ("--config", "baselines/mobilenet")),
    "convnext": Arm(
        "originals, ConvNeXt-Tiny", "folder", ("--config", "baselines/convnext"), sized=False
    ),
}


class Preset(NamedTuple):
    """How large everything is; tables of two presets are never mixed.

    Attributes:
        resize: short side of pictures in pixels; ``None`` leaves them.
        crop: side of the crop that networks train on.
        width: of all networks that have one.
        epochs: of every training.
        options: more of ``cdinfer train``.
        threads: of each process; ``None`` leaves that to torch.
    """

    resize: int | None
    crop: int
    width: float
    epochs: int
    options: tuple[str, ...]
    threads: int | None = None


CPU = ("--trainer.accelerator", "cpu", "--trainer.precision", "bf16-mixed")
GPU = ("--trainer.accelerator", "gpu", "--trainer.precision", "bf16-mixed")


class Table(NamedTuple):
    """A question about one data set.

    Attributes:
        title: for people.
        data: folder below ``$CDINFER_TEST_DATA``.
        task: ``cls`` or ``seg``.
        metric: field of ``cdinfer eval`` that is compared, a share.
        what: it is, for the table.
        presets: name -> sizes.
        splits: which lists of the folder.
    """

    title: str
    data: str
    task: str
    metric: str
    what: str
    presets: dict[str, Preset]
    splits: str | None = None


RSSCN7 = {"cpu": Preset(128, 112, 0.25, 15, CPU, 1), "gpu": Preset(None, 224, 1.0, 60, GPU)}
CAMVID = {"cpu": Preset(None, 144, 0.25, 15, CPU, 1), "gpu": Preset(None, 288, 1.0, 120, GPU)}

TABLES = {
    "rsscn7": Table(
        "RSSCN7, blocked split", "rsscn7", "cls", "test/top1", "top-1, %", RSSCN7, "blocked"
    ),
    "rsscn7-random": Table(
        "RSSCN7, random split", "rsscn7", "cls", "test/top1", "top-1, %", RSSCN7
    ),
    "camvid": Table("CamVid", "camvid", "seg", "test/miou", "mIoU, %", CAMVID),
}


def plan(name: str, preset: str, seeds: Sequence[int]) -> tuple[list[Cell], list[Cell]]:
    """Return the cells of a table that are required, and all, each after those it needs."""
    table = TABLES[name]
    size = table.presets[preset]
    data = [_data(table, size, kind, rate) for rate in RATES for kind in KINDS]
    trainings = [
        (rate in arm.required, _training(table, size, arm_name, rate, seed))
        for seed in seeds
        for arm_name, arm in ARMS.items()
        if table.task in arm.tasks
        for rate in arm.rates
    ]
    everything = [*data, *(cell for _, cell in trainings)]
    everything = [
        cell._replace(about={"table": name, "preset": preset, **cell.about}) for cell in everything
    ]
    required = {cell.name for wanted, cell in trainings if wanted}
    return [cell for cell in everything if cell.name in required], everything


#: Cells that hold data, in the order they can be done in.
KINDS = ("set", "set-lite", "as-decoded", "as-webp")


def _data(table: Table, size: Preset, kind: str, rate: float) -> Cell:
    source = f"$CDINFER_TEST_DATA/{table.data}"
    splits = _flag("--splits", table.splits)
    about = {"kind": kind, "bpp": rate}
    if kind.startswith("set"):
        codec = "cae-lite" if kind == "set-lite" else "cae"
        options = ("--codec", codec, "--bpp", f"{rate:g}", *_flag("--resize", size.resize), *splits)
        line = ("export", source, "{out}/set", *options, "--json")
    else:
        like = ("--set", f"{{set-{rate:g}}}/set", "--as", kind.removeprefix("as-"), *splits)
        line = ("python", "-m", "tools.experiments.mirror", source, "{out}/set", *like, "--json")
    return Cell(f"{kind}-{rate:g}", about, (line,))


def _training(table: Table, size: Preset, name: str, rate: float | None, seed: int) -> Cell:
    arm = ARMS[name]
    if rate is None:
        data = None
        place = f"$CDINFER_TEST_DATA/{table.data}"
        reading = (*_flag("--data.splits", table.splits), *_flag("--data.resize", size.resize))
    else:
        data = f"{arm.source}-{rate:g}"
        place, reading = f"{{{data}}}/set", ()
    latents = arm.source.startswith("set")
    if not latents:
        reading += ("--data.memory", "1024")
    prefix = "" if latents else "pixel_"
    parts = ["net"] if table.task == "cls" else ["net", "head"]
    if not arm.sized:
        parts.remove("net")
    train = (
        "train", "--task", table.task, "--data", place, *arm.options, *reading,
        *(word for part in parts for word in _flag(f"--model.{prefix}{part}.width", size.width)),
        "--data.crop", str(size.crop), "--trainer.max_epochs", str(size.epochs), *size.options,
        "--trainer.logger.save_dir", "{out}", "--last.minutes", "1",
        "--seed_everything", str(seed), "--data.seed", str(seed),
    )  # fmt: skip
    run = f"{{out}}/{table.task}"
    budget = ("python", "-m", "tools.experiments.budget", run, "--json")
    about = {"arm": name, "bpp": rate, "seed": seed, "epochs": size.epochs, "data": data}
    label = name if rate is None else f"{name}-{rate:g}"
    return Cell(f"{label}-{seed}", about, (train, budget, ("eval", run, "--json")))


def _flag(name: str, value: object) -> Iterable[str]:
    return () if value is None else (name, str(value))
