"""``cdinfer fit | validate | test``: the LightningCLI itself.

YAML in, dotted overrides, ``--print_config``; ``cdinfer train`` and ``cdinfer eval`` are a few
words in front of it. The run folder gets ``config.yaml`` and ``run.json`` when training starts.
"""

import json
import logging
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import (
    ArgsType,
    LightningArgumentParser,
    LightningCLI,
    SaveConfigCallback,
)
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from cdinfer.data.module import DataModule
from cdinfer.tasks import BaseTask, CollapseError, LatentTask


class SaveRun(SaveConfigCallback):
    """Write ``config.yaml``, and beside it ``run.json`` and the codec, when training starts."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert isinstance(pl_module, BaseTask)
        assert trainer.log_dir is not None
        folder = Path(trainer.log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        about: dict[str, Any] = pl_module.describe()
        if isinstance(pl_module, LatentTask):
            recipe = "net" if pl_module.input == "latents" else "pixel_net"
            about["net"] = self.config.model.init_args[recipe].as_dict()
            if pl_module.codec_folder is not None:
                shutil.copytree(pl_module.codec_folder, folder / "codec", dirs_exist_ok=True)
        (folder / "run.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")


class CLI(LightningCLI):
    """LightningCLI with our links, which takes expanded arguments quietly."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link data to model; what a task does not take is skipped."""
        parser.link_arguments("model.init_args.input", "data.input")
        for name in ("classes", "preprocessing"):
            target = f"model.init_args.{name}"
            parser.link_arguments(f"data.{name}", target, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse ``args`` and leave ``sys.argv`` alone: DDP relaunches it per device."""
        self.config = parser.parse_args(args)


def run(args: list[str], quiet: bool = False) -> CLI:
    """Run LightningCLI on ``args`` and return it, for its trainer and model.

    Args:
        args: ``fit``, ``validate`` or ``test``, then its options.
        quiet: leave out what Lightning tells about devices and files.

    Raises:
        ValueError: if Lightning or a part it builds finds the options impossible.
    """
    _hush()
    if quiet:
        for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
            logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return _run(args)
    except MisconfigurationException as error:
        raise ValueError(str(error)) from error


def _run(args: list[str]) -> CLI:
    return CLI(
        BaseTask,
        DataModule,
        subclass_mode_model=True,
        save_config_callback=SaveRun if args[0] == "fit" else None,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        args=args,
    )


def main(args: list[str]) -> int:
    """Run ``args`` (``fit``, ``validate`` or ``test`` first) and return the exit status."""
    try:
        run(args)
    except CollapseError as error:
        print(f"cdinfer {args[0]}: {error}", file=sys.stderr)
        return 1
    return 0


def _hush() -> None:
    """Silence what Lightning says on every run and no user can act on."""
    logging.getLogger("cdinfer").setLevel(logging.INFO)
    if not logging.getLogger("cdinfer").handlers:
        logging.getLogger("cdinfer").addHandler(logging.StreamHandler())
    rank_zero: Any = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    rank_zero.addFilter(lambda record: "pypi.org/project/lit" not in record.getMessage())
    for message in (
        ".*treespec, LeafSpec",
        "Found .* module.* in eval mode",
        "The .*dataloader.* does not have many workers",
        "The number of training batches .* is smaller than the logging interval",
        "Trying to infer the `batch_size`",
        "Be aware that when using `ckpt_path`",
        "Precision .* is not supported by the model summary",
    ):
        warnings.filterwarnings("ignore", message)
