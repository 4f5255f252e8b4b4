"""Which stream a codec reads and writes: its identity."""

import struct

from torch import Tensor

from cdinfer.bitstream.container import stream_id
from cdinfer.bitstream.context import ContextModel
from cdinfer.bitstream.rans import CODER


def identity(letters: str, centers: Tensor, model: ContextModel) -> int:
    """Return the stream id of scalar-quantised symbols under a context model.

    Args:
        letters: the codec's four letters.
        centers: ``(C, L)`` what each symbol stands for.
        model: how symbols are coded.
    """
    values = centers.detach().float().cpu().contiguous().numpy().astype("<f4")
    shape = struct.pack("<2I", *values.shape)
    return stream_id(letters.encode("ascii"), CODER, shape, values.tobytes(), model.pack())
