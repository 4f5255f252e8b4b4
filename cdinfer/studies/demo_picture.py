"""The demo's picture: what was stored, what comes back, and what the network saw.

    original | reconstruction | four latent channels | predicted class        a row for each class

Everything right of the original comes out of the .cdi file alone. The channels are those whose
symbols have the highest entropy over the test pictures: they carry most of the bytes.
"""

from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from cdinfer.codecs import CAE
from cdinfer.codecs.quantizer import entropy, histogram
from cdinfer.codecs.stored import read_codec
from cdinfer.data.images import find_images, from_tensor
from cdinfer.metrics import psnr, round_to_8_bits
from cdinfer.runs import ClassifierRun, load_run
from cdinfer.studies.demo import Places, cdi_files, load_pictures

CHANNELS = 4
RIGHT, WRONG = "#1a7f37", "#b3261e"


def draw(places: Places, target: Path) -> None:
    """Write the picture as PNG: the first test picture of each class, right or wrong."""
    codec = read_codec(places.shards / "codec")
    tests = find_images(places.pictures / "test")
    busiest = busiest_channels(codec, [p.read_bytes() for p in cdi_files(places, tests)])
    chosen = [min(p for p in tests if p.parent == folder) for folder in {p.parent for p in tests}]
    chosen = sorted(chosen)
    paths = cdi_files(places, chosen)
    files = [path.read_bytes() for path in paths]
    x, x_hat = load_pictures(chosen), round_to_8_bits(codec.decompress(files))
    quality = psnr(x_hat, x).tolist()
    symbols = codec.unpack(files)["y"].numpy()
    trained = load_run(places.latents)
    assert isinstance(trained, ClassifierRun)
    predictions = list(trained.predict(paths))

    columns = 2 + CHANNELS + 1
    figure = Figure(figsize=(1.3 * columns + 0.5, 1.42 * len(chosen) + 0.9), dpi=110)
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(len(chosen), columns, squeeze=False)
    titles = ["original", "from its .cdi", *(f"latent {c}" for c in busiest.tolist()), "predicted"]
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    for row, picture in enumerate(chosen):
        name, guess = picture.parent.name, predictions[row]
        for axis in axes[row]:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
        axes[row][0].imshow(from_tensor(x[row]))
        axes[row][0].set_ylabel(name, fontsize=10)
        axes[row][0].set_xlabel(f"{picture.stat().st_size:,} bytes", fontsize=8, labelpad=2)
        axes[row][1].imshow(from_tensor(x_hat[row]))
        said = f"{len(files[row])} bytes, {quality[row]:.1f} dB"
        axes[row][1].set_xlabel(said, fontsize=8, labelpad=2)
        for axis, channel in zip(axes[row][2:], busiest.tolist(), strict=False):
            axis.imshow(
                symbols[row, channel],
                cmap="viridis",
            )
        colour = RIGHT if guess.name == name else WRONG
        text = f"{guess.name}\n{guess.probability:.0%}"
        axes[row][-1].set_box_aspect(1)
        axes[row][-1].text(0.5, 0.5, text, ha="center", va="center", color=colour, fontsize=11)
    figure.suptitle("Right of the first column, everything comes out of the .cdi file", fontsize=11)
    figure.tight_layout(rect=(0, 0, 1, 0.99), h_pad=0.4, w_pad=0.4)
    figure.savefig(target, metadata={"Software": None})


def busiest_channels(codec: CAE, files: list[bytes]) -> Tensor:
    """Return the ``CHANNELS`` latent channels of highest entropy over ``files``, busiest first."""
    counts = histogram(codec.unpack(files)["y"], 256)
    return torch.topk(entropy(counts), CHANNELS).indices
