"""``cdinfer fit | validate | test``: the LightningCLI itself.

YAML in, dotted overrides, ``--print_config``; ``cdinfer train`` and ``cdinfer eval`` are a few
words in front of it. The run folder gets ``config.yaml`` and ``run.json`` when training starts.
"""

import logging
import sys
import warnings
from typing import Any

from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI

from cdinfer.data.module import DataModule
from cdinfer.runs import SaveRun
from cdinfer.tasks import BaseTask, CollapseError


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


def run(args: list[str]) -> CLI:
    """Run LightningCLI on ``args`` and return it, for its trainer and model."""
    _quiet()
    return CLI(
        BaseTask,
        DataModule,
        subclass_mode_model=True,
        save_config_callback=SaveRun,
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


def _quiet() -> None:
    """Silence what Lightning says on every run and no user can act on."""
    logging.getLogger("cdinfer").setLevel(logging.INFO)
    if not logging.getLogger("cdinfer").handlers:
        logging.getLogger("cdinfer").addHandler(logging.StreamHandler())
    rank_zero: Any = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    rank_zero.addFilter(lambda record: "litlogger" not in record.getMessage())
    for message in (
        ".*treespec, LeafSpec",
        "Found .* module.* in eval mode",
        "The .*dataloader.* does not have many workers",
        "The number of training batches .* is smaller than the logging interval",
        "Trying to infer the `batch_size`",
        "Checkpoint directory .* exists and is not empty",
    ):
        warnings.filterwarnings("ignore", message)
