"""WHAT IS TRAINED: one LightningModule a file, one ``step`` each."""

from cdinfer.tasks.base import BaseTask, LatentTask
from cdinfer.tasks.classification import ClassificationTask
from cdinfer.tasks.compression import CollapseError, CompressionTask
from cdinfer.tasks.segmentation import SegmentationTask

__all__ = [
    "BaseTask",
    "ClassificationTask",
    "CollapseError",
    "CompressionTask",
    "LatentTask",
    "SegmentationTask",
]
