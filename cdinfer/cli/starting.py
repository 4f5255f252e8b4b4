"""``--init_from.run RUN``: training starts with the trunk of another run."""

import logging

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from cdinfer.runs import read_trunk
from cdinfer.tasks import LatentTask

log = logging.getLogger(__name__)

#: Where tasks have their trunk.
TRUNK = "net.trunk"

#: Tensors that are named when they are left.
MOST = 3


class InitFrom(Callback):
    """Start with those tensors of another run's trunk that have the same names and shapes.

    A classifier's trunk starts a segmenter's, too: spreading filters changes no shape. A training
    that goes on from a checkpoint takes its weights from there alone (``lightning.py``: which
    checkpoint that is, callbacks learn too late).

    Args:
        run: folder of a run, or its parent (newest version); ``None`` starts from nothing.
    """

    def __init__(self, run: str | None = None) -> None:
        self.run = run
        self._weights: dict[str, Tensor] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find what fits, before this run has a folder, and report it.

        Raises:
            ValueError: if the other run cannot be read, or nothing in it fits.
        """
        if stage != "fit" or self.run is None:
            return
        if not isinstance(pl_module, LatentTask):
            raise ValueError(
                f"--init_from.run {self.run} is for networks that have a trunk: leave it out for "
                "--task codec"
            )
        source = read_trunk(self.run)
        state = pl_module.get_submodule(TRUNK).state_dict()
        wanted = {name: tensor for name, tensor in state.items() if tensor.dim()}  # no counters
        left = []
        for name, mine in wanted.items():
            theirs = source.weights.get(name)
            if theirs is not None and theirs.shape == mine.shape:
                self._weights[name] = theirs
            else:
                left.append(f"{TRUNK}.{name} {_compare(theirs, mine)}")
        told = f"{source.folder} ({source.net})"
        if not self._weights:
            raise ValueError(
                f"no tensor of {told} fits the network to train: give --init_from.run the run of "
                f"such a network; left: {left[0]}"
            )
        if trainer.is_global_zero:
            more = f", and {len(left) - MOST} more" if len(left) > MOST else ""
            what = f"; left: {', '.join(left[:MOST])}{more}" if left else ""
            log.info("took %d of %d tensors of %s%s", len(self._weights), len(wanted), told, what)
            _compare_streams(pl_module, source.stream, told)
        trainer.strategy.barrier()  # all have found the run before one makes a newer

    @torch.no_grad()
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the weights, over any that the network started with."""
        state = pl_module.get_submodule(TRUNK).state_dict() if self._weights else {}
        for name, tensor in self._weights.items():
            state[name].copy_(tensor)
        self._weights = {}


def _compare(theirs: Tensor | None, mine: Tensor) -> str:
    """Say why a tensor was left."""
    here = tuple(mine.shape)
    return (
        f"{here}, which is not there" if theirs is None else f"{tuple(theirs.shape)} against {here}"
    )


def _compare_streams(task: LatentTask, stream: str | None, told: str) -> None:
    """Warn if a trunk has learnt from other latents, whose numbers mean something else."""
    mine = f"{task.codec.stream:08x}" if task.codec and task.input == "latents" else None
    if mine and stream and mine != stream:
        log.warning(
            "%s has learnt from latents of stream %s, this network reads %s: what its first layers "
            "know may be of no use",
            told,
            stream,
            mine,
        )
