"""``cdinfer fit | validate | test``: the LightningCLI itself.

YAML in, dotted overrides, ``--print_config``; ``cdinfer train`` and ``cdinfer eval`` are a few
words in front of it. The run folder gets ``config.yaml`` and ``run.json`` when training starts.
``checkpoints/last.ckpt`` is written every few minutes and on Ctrl-C or SIGTERM (``saving.py``);
``--ckpt_path`` goes on from there, in a new run folder, as if nothing had happened.
"""

import json
import logging
import pickle
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import (
    ArgsType,
    LightningArgumentParser,
    LightningCLI,
    SaveConfigCallback,
)

from cdinfer.bitstream.atomic import write_atomically
from cdinfer.cli.configs import FLAGS, name_files, options, read_config
from cdinfer.cli.saving import SaveLast, Stopped
from cdinfer.cli.starting import InitFrom
from cdinfer.codecs.stored import copy_codec
from cdinfer.data.module import DataModule
from cdinfer.tasks import BaseTask, CollapseError, LatentTask

#: Parsers take whole option names and raise what they find wrong.
STRICT = {"allow_abbrev": False, "exit_on_error": False}

#: Lines of jsonargparse's that name its types, not the user's mistake.
_TYPES = (
    "Does not validate",
    "Subtypes:",
    "Errors:",
    "Expected a <class 'NoneType'>",
    "Given value type",
    "Given value: Namespace",
    "Given value: NestedArg",
)

#: How torch's errors about a file that is no checkpoint, or of another model, start.
_NO_CHECKPOINT = ("PytorchStreamReader", "Error(s) in loading state_dict")

_OTHER_CHECKPOINT = (
    "this checkpoint cannot be used here: expected --ckpt_path RUN/checkpoints/last.ckpt, of a "
    "run with the same settings"
)

#: What a checkpoint of Lightning's holds; training goes on from the last two.
_PARTS = ("pytorch-lightning_version", "state_dict", "optimizer_states", "lr_schedulers")


class SaveRun(SaveConfigCallback):
    """Write ``config.yaml``, ``run.json`` and ``codec/``."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.folder = trainer.log_dir  # all processes ask, or the first would wait for the others
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert isinstance(pl_module, BaseTask)
        assert self.folder is not None
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        about: dict[str, Any] = pl_module.describe()
        if isinstance(pl_module, LatentTask):
            for part in ("net", "head"):
                recipe = part if pl_module.input == "latents" else f"pixel_{part}"
                if recipe in self.config.model.init_args:
                    about[part] = self.config.model.init_args[recipe].as_dict()
            if pl_module.codec_folder is not None:
                copy_codec(pl_module.codec_folder, folder / "codec")
        write_atomically(folder / "run.json", f"{json.dumps(about, indent=1)}\n".encode())


class CLI(LightningCLI):
    """LightningCLI with our links, which takes expanded arguments quietly."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``--last`` and ``--init_from``; link data to model, but for what a task lacks."""
        parser.add_lightning_class_args(SaveLast, "last")
        parser.add_lightning_class_args(InitFrom, "init_from")
        parser.link_arguments("model.init_args.input", "data.input")
        for name in ("classes", "palette", "ignore_index", "preprocessing"):
            target = f"model.init_args.{name}"
            parser.link_arguments(f"data.{name}", target, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse ``args`` and leave ``sys.argv`` alone: DDP relaunches it per device.

        Raises:
            ValueError: if ``--ckpt_path`` is a file, but no checkpoint.
        """
        self.config = parser.parse_args(args)  # type: ignore[arg-type]
        subcommand = self.config.subcommand
        path = self.config[subcommand].ckpt_path
        if path:  # all weights come from there
            self.config[subcommand].init_from.run = None
        if path and Path(path).is_file():  # Lightning reads it next, and trusts what it finds
            _check_checkpoint(Path(path), _PARTS if subcommand == "fit" else _PARTS[:2])


def run(args: list[str], quiet: bool = False) -> CLI:
    """Run LightningCLI on ``args`` and return it, for its trainer and model.

    Args:
        args: ``fit``, ``validate`` or ``test``, then its options.
        quiet: leave out what Lightning tells about devices and files.

    Raises:
        ValueError: if Lightning or a part it builds finds the options impossible.
        KeyboardInterrupt: on Ctrl-C, which Lightning would turn into exit status 1; in training
            it is `Stopped`, and tells what to go on from.
    """
    args = name_files(args)
    for flag, value in options(args):
        if flag in FLAGS and Path(value).is_file():
            read_config(Path(value))  # refuses what jsonargparse would try to unfold
    _hush()
    if quiet:
        for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
            logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return _run(args)
    except (ValueError, ArgumentError, MisconfigurationException) as error:
        raise ValueError(_explain(str(error))) from error
    except (RuntimeError, pickle.UnpicklingError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith(_NO_CHECKPOINT):
            raise
        raise ValueError(_OTHER_CHECKPOINT) from error
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise stop.__context__ from None
        raise


def _run(args: list[str]) -> CLI:
    return CLI(
        BaseTask,
        DataModule,
        subclass_mode_model=True,
        save_config_callback=SaveRun if args[0] == "fit" else None,
        trainer_defaults={"use_distributed_sampler": False},  # the data module shares samples out
        seed_everything_default=0,
        parser_kwargs=STRICT | {name: dict(STRICT) for name in LightningCLI.subcommands()},
        auto_configure_optimizers=False,
        args=args,
    )


def _check_checkpoint(path: Path, parts: Sequence[str]) -> None:
    """Refuse a file that is no checkpoint, or has not all of ``parts``; it is mapped, not read."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises nearly anything on damaged files
        raise ValueError(_OTHER_CHECKPOINT) from error
    if not isinstance(checkpoint, dict) or not {*parts} <= {*checkpoint}:
        raise ValueError(_OTHER_CHECKPOINT)


def main(args: list[str], command: str | None = None) -> int:
    """Run ``args`` (``fit``, ``validate`` or ``test`` first) and return the exit status.

    That is 130 after SIGINT and 143 after SIGTERM, as shells have it.

    Args:
        args: arguments of LightningCLI.
        command: what the user typed, for errors; ``args[0]`` if not given.
    """
    try:
        run(args)
    except CollapseError as error:
        print(f"cdinfer {command or args[0]}: {error}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        if stopped.first:
            print(
                f"cdinfer {command or args[0]}: stopped after {stopped.steps} steps; to go on, add "
                f"to the same command: --ckpt_path {shlex.quote(str(stopped.checkpoint))}",
                file=sys.stderr,
            )
        return 128 + stopped.number
    return 0


def _explain(message: str) -> str:
    r"""Return what is wrong, without the types that jsonargparse tried.

    Example:
        >>> _explain("Does not validate\n  Errors:\n    - expected width below 4, got 9")
        'expected width below 4, got 9'
    """
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    return " ".join(line for line in lines if not line.startswith(_TYPES))


def _hush() -> None:
    """Silence what Lightning says on every run and no user can act on."""
    logging.getLogger("cdinfer").setLevel(logging.INFO)
    if not logging.getLogger("cdinfer").handlers:
        logging.getLogger("cdinfer").addHandler(logging.StreamHandler())
    rank_zero: Any = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    rank_zero.addFilter(_is_news)
    for message in (
        ".*treespec, LeafSpec",
        ".*all_gather is deprecated",
        "Found .* module.* in eval mode",
        "The .*dataloader.* does not have many workers",
        "The number of training batches .* is smaller than the logging interval",
        "Trying to infer the `batch_size`",
        "Your `IterableDataset` has `__len__` defined",
        "Be aware that when using `ckpt_path`",
        "The dirpath has changed from",
        "You're resuming from a checkpoint that ended before the epoch ended",
        "Precision .* is not supported by the model summary",
    ):
        warnings.filterwarnings("ignore", message)


def _is_news(record: logging.LogRecord) -> bool:
    """Leave out Lightning's advertisement, and what we say ourselves in one line."""
    message = record.getMessage()
    return not any(part in message for part in ("pypi.org/project/lit", "KeyboardInterrupt"))
