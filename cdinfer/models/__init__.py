"""Latents to logits: networks that know channels and strides, but no codecs and no files."""

from cdinfer.models.classifier import Classifier
from cdinfer.models.cresnet import CResNet
from cdinfer.models.heads import ASPP, Head, HeadRecipe, LightDecoder
from cdinfer.models.macs import count_macs
from cdinfer.models.patch import PatchCResNet
from cdinfer.models.resnet import ResNet
from cdinfer.models.segmenter import Segmenter
from cdinfer.models.torchvision_net import TorchvisionNet
from cdinfer.models.trunk import NetRecipe, Trunk

__all__ = [
    "ASPP",
    "CResNet",
    "Classifier",
    "Head",
    "HeadRecipe",
    "LightDecoder",
    "NetRecipe",
    "PatchCResNet",
    "ResNet",
    "Segmenter",
    "TorchvisionNet",
    "Trunk",
    "count_macs",
]
