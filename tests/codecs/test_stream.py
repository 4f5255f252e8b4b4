import hashlib
import struct

import numpy as np
import torch

from cdinfer.bitstream import ContextModel, static_model
from cdinfer.codecs.stream import identity

CENTERS = torch.tensor([[-1.0, 0.5], [0.0, 2.0]])
TABLES = np.array([[4000, 96], [1, 4095]])


def model(**changes: object) -> ContextModel:
    """Two channels, one tap and one edge; ``changes`` replace parts."""
    parts = {
        "sizes": np.array([2, 2]),
        "zeros": np.array([0, 1]),
        "mean_taps": np.array([[1, 0, 0, 0, 16]]),
        "activity_taps": np.array([[0, 0, 0, -1, 16]]),
        "mean_edges": np.array([[1, 1]]),
        "activity_edges": np.zeros((0, 2), int),
        "frequencies": np.array([[4000, 96], [1, 4095], [2048, 2048]]),
    }
    return ContextModel(**(parts | changes))


def test_a_stream_is_identified_by_letters_coder_centers_and_model() -> None:
    shapes = [(2,), (2,), (0, 5), (0, 5), (0, 2), (0, 2), (2, 2)]
    packed = b"".join(struct.pack(f"<{len(shape)}I", *shape) for shape in shapes)
    packed += struct.pack("<2H", 2, 2) + struct.pack("<2B", 0, 0)
    packed += struct.pack("<4H", 4000, 96, 1, 4095)
    digest = hashlib.sha256()
    for part in (
        b"CAE_",
        b"rans-32-16-12-context-1",
        struct.pack("<2I", 2, 2),
        struct.pack("<4f", -1.0, 0.5, 0.0, 2.0),
        packed,
    ):
        digest.update(struct.pack("<Q", len(part)) + part)
    expected = struct.unpack("<I", digest.digest()[:4])[0]
    assert identity("CAE_", CENTERS, static_model(TABLES)) == expected


def test_any_change_of_meaning_is_another_stream() -> None:
    own = model()
    ids = {
        identity("CAE_", CENTERS, own),
        identity("CAF_", CENTERS, own),
        identity("CAE_", torch.nextafter(CENTERS, torch.full((2, 2), 9.0)), own),
        identity("CAE_", CENTERS.view(1, 4), own),
        identity("CAE_", CENTERS, model(zeros=np.array([1, 0]))),
        identity("CAE_", CENTERS, model(mean_taps=np.array([[1, 0, 0, 0, 17]]))),
        identity("CAE_", CENTERS, model(mean_taps=np.array([[1, 0, 0, 1, 16]]))),
        identity("CAE_", CENTERS, model(activity_taps=np.array([[0, 0, 0, -1, 17]]))),
        identity("CAE_", CENTERS, model(mean_edges=np.array([[0, 1]]))),
        identity(
            "CAE_", CENTERS, model(mean_edges=own.activity_edges, activity_edges=own.mean_edges)
        ),
        identity("CAE_", CENTERS, model(frequencies=own.frequencies[::-1])),
        identity("CAE_", CENTERS, static_model(TABLES)),
    }
    assert len(ids) == 12


def test_where_and_how_centers_are_kept_is_no_change() -> None:
    own = identity("CAE_", CENTERS, model())
    assert identity("CAE_", CENTERS.double().requires_grad_(), model()) == own
    assert identity("CAE_", CENTERS.T.contiguous().T, model()) == own
