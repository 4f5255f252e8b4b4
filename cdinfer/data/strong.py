"""Strong augmentation, of pictures that have one class: a random part, then a random change.

    (H, W, 3) --part of random area and aspect, resized--> (side, side, 3) --one operation--> image

The operation is TrivialAugment's: one of 14, at one of 31 strengths. torchvision computes it. Its
own transform draws from torch's generator, which belongs to all threads: we draw instead.

References:
    Szegedy et al., CVPR 2015, https://arxiv.org/abs/1409.4842 (random area and aspect).
    Müller, Hutter, TrivialAugment, ICCV 2021, https://arxiv.org/abs/2103.10158 (wide space).
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint8]

#: Smallest and largest share of a picture's area. Large sets of photographs are trained from 0.08
#: on; of a small set's pictures, or of textures, too little is left then.
AREA = (0.35, 1.0)

#: Smallest and largest width of a part, in units of its height.
ASPECT = (3 / 4, 4 / 3)

#: Strengths of an operation.
STRENGTHS = 31

#: Operation -> its largest strength; the smallest changes nothing. Either sign is as probable.
SIGNED = {
    "ShearX": 0.99,
    "ShearY": 0.99,
    "TranslateX": 32.0,
    "TranslateY": 32.0,
    "Rotate": 135.0,
    "Brightness": 0.99,
    "Color": 0.99,
    "Contrast": 0.99,
    "Sharpness": 0.99,
}

OPERATIONS = (*SIGNED, "Posterize", "Solarize", "AutoContrast", "Equalize", "Identity")


def random_part(picture: Picture, side: int, rng: np.random.Generator) -> Picture:
    """Return a random part of ``picture (H, W, 3)``, resized to ``side`` x ``side``."""
    height, width = picture.shape[:2]
    area = height * width * rng.uniform(*AREA)
    aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
    h = min(height, max(1, round(math.sqrt(area / aspect))))
    w = min(width, max(1, round(math.sqrt(area * aspect))))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    part = Image.fromarray(picture[top : top + h, left : left + w])
    return np.asarray(part.resize((side, side), Image.Resampling.BICUBIC))


def random_change(picture: Picture, rng: np.random.Generator) -> Picture:
    """Return ``picture (H, W, 3)`` after one operation of TrivialAugment."""
    name = OPERATIONS[int(rng.integers(len(OPERATIONS)))]
    step, sign = int(rng.integers(STRENGTHS)), 1 - 2 * int(rng.integers(2))
    return np.asarray(change(Image.fromarray(picture), name, step, sign))


def change(image: Image.Image, name: str, step: int, sign: int = 1) -> Image.Image:
    """Apply the operation ``name`` at strength ``step`` of ``0..STRENGTHS - 1``, up or down."""
    from torchvision.transforms.v2 import functional as F

    share = torch.linspace(0, SIGNED.get(name, 1.0), STRENGTHS)  # rounded as torchvision's
    strength = sign * float(share[step])
    angle = math.degrees(math.atan(strength))
    changed: Any = image
    match name:
        case "ShearX":
            changed = F.affine(image, 0.0, [0, 0], 1.0, [angle, 0.0], center=[0, 0])
        case "ShearY":
            changed = F.affine(image, 0.0, [0, 0], 1.0, [0.0, angle], center=[0, 0])
        case "TranslateX":
            changed = F.affine(image, 0.0, [int(strength), 0], 1.0, [0.0, 0.0])
        case "TranslateY":
            changed = F.affine(image, 0.0, [0, int(strength)], 1.0, [0.0, 0.0])
        case "Rotate":
            changed = F.rotate(image, strength)
        case "Brightness":
            changed = F.adjust_brightness(image, 1 + strength)
        case "Color":
            changed = F.adjust_saturation(image, 1 + strength)
        case "Contrast":
            changed = F.adjust_contrast(image, 1 + strength)
        case "Sharpness":
            changed = F.adjust_sharpness(image, 1 + strength)
        case "Posterize":
            changed = F.posterize(image, 8 - round(6 * step / (STRENGTHS - 1)))
        case "Solarize":
            changed = F.solarize(image, 255 * float(share.flip(0)[step]))
        case "AutoContrast":
            changed = F.autocontrast(image)
        case "Equalize":
            changed = F.equalize(image)
    assert isinstance(changed, Image.Image)
    return changed
