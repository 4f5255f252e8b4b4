"""What the demo found: bytes, accuracy, cost and speed of the runs it made.

    storage   PNG and JPEG of the same pictures beside .cdi files and shards, in bytes on disk
    networks  one that reads .cdi files beside one that reads the original PNG files

JPEG is Pillow's, grey, at the lowest quality whose mean PSNR on test pictures reaches ours.
"Without headers" is what remains of each file for a reader who knows everything that all files
of the set share: JPEG's entropy-coded scan, our payload.
"""

import io
import time
from collections.abc import Iterator, Sequence
from itertools import batched
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cdinfer.bitstream.container import parse
from cdinfer.codecs import CAE, read_codec
from cdinfer.data.images import find_images, read_image, to_tensor
from cdinfer.metrics import psnr, round_to_8_bits
from cdinfer.models import count_macs
from cdinfer.runs import Run, load_run
