"""What a training leaves behind, and how it is read again.

    runs/TASK/version_N/
        config.yaml            the only record of hyper-parameters (LightningCLI)
        run.json               what predict needs: task, classes, network, preprocessing, stream
        codec/                 the codec the network reads; for a codec's run, the result
        checkpoints/           read with weights_only=True alone
        metrics.csv
"""

import json
import shutil
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import SaveConfigCallback

from cdinfer.tasks import BaseTask, LatentTask


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
