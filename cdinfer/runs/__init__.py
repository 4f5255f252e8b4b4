"""What a training leaves behind, and how it is used again.

    runs/TASK/version_N/
        config.yaml            the only record of hyper-parameters
        run.json               what predict needs: task, classes, network, preprocessing, stream
        codec/                 the codec the network reads; for a codec's run, the result
        checkpoints/           best.ckpt, last.ckpt; read with weights_only=True alone
        metrics.csv

``load_run(RUN).predict(INPUTS)`` needs the run folder and nothing else:

    folder --load--> ClassifierRun: inputs --> class, probability
                     SegmenterRun:  inputs --> class of every pixel
"""

from cdinfer.runs.classify import ClassifierRun, Prediction
from cdinfer.runs.folder import find_checkpoint, find_run, read_about, read_trunk
from cdinfer.runs.inputs import Source
from cdinfer.runs.load import Run, load_run
from cdinfer.runs.segment import Segmentation, SegmenterRun

__all__ = [
    "ClassifierRun",
    "Prediction",
    "Run",
    "Segmentation",
    "SegmenterRun",
    "Source",
    "find_checkpoint",
    "find_run",
    "load_run",
    "read_about",
    "read_trunk",
]
