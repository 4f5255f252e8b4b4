"""Latents to logits: networks that know channels and strides, but no codecs and no files."""

from cdinfer.models.classifier import Classifier
from cdinfer.models.cresnet import CResNet
from cdinfer.models.heads import ASPP, Head, HeadRecipe, LightDecoder
from cdinfer.models.macs import count_macs
from cdinfer.models.resnet import ResNet
from cdinfer.models.segmenter import Segmenter
from cdinfer.models.trunk import NetRecipe, Trunk

__all__ = [
    "ASPP",
    "CResNet",
    "Classifier",
    "Head",
    "HeadRecipe",
    "LightDecoder",
    "NetRecipe",
    "ResNet",
    "Segmenter",
    "Trunk",
    "count_macs",
]
