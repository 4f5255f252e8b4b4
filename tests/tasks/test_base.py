from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from cdinfer.cli import lightning
from cdinfer.cli.configs import find_config
from cdinfer.codecs import read_codec
from cdinfer.data.images import read_image, to_tensor
from cdinfer.data.shards import ShardDataset
from cdinfer.metrics import round_to_8_bits
from cdinfer.models import CResNet, ResNet
from cdinfer.tasks import ClassificationTask
from cdinfer.tasks.base import Input
from tests.conftest import draw

NETS = (partial(CResNet, width=0.125), partial(ResNet, width=0.125))


def make_task(codec: Path, input: Input) -> ClassificationTask:
    return ClassificationTask(*NETS, str(codec), input=input, classes=("bark", "leaf"))


@pytest.fixture(scope="module")
def x(pictures: list[npt.NDArray[np.uint8]]) -> Tensor:
    """Two pictures of 46 x 61, sides that no stride divides."""
    return torch.stack([to_tensor(picture[:46, :61]) for picture in pictures[:2]])


def test_latents_of_pictures_are_what_their_files_hold(tiny_codec: Path, x: Tensor) -> None:
    codec = read_codec(tiny_codec)
    y = make_task(tiny_codec, "latents").network_input({"image": x})
    assert y.shape == (2, 16, 6, 8)
    assert torch.equal(y, codec.dequantize(codec.unpack(codec.compress(x))).y)


def test_latents_from_shards_are_those_of_the_pictures(
    tiny_codec: Path, shards: Path, labelled: Path
) -> None:
    task = make_task(tiny_codec, "latents")
    data = ShardDataset(shards, "test", None)
    batch = data.__getitems__(list(range(len(data))))
    keys: list[str] = data.keys()
    images = [to_tensor(read_image(labelled / key)) for key in keys]
    assert len(images) == 6
    assert torch.equal(
        task.network_input(batch), task.network_input({"image": torch.stack(images)})
    )


def test_cropped_latents_are_those_of_the_cropped_picture_away_from_its_border(
    tiny_codec: Path,
) -> None:
    codec, task = read_codec(tiny_codec), make_task(tiny_codec, "latents")
    image = to_tensor(draw(144, 160, 5))[None]
    planes = {"y": codec.symbols(image)[:, :, 2:16, 3:17]}
    y = task.network_input({"planes": planes})
    y_crop = task.network_input({"image": image[..., 16:128, 24:136]})
    assert y.shape == y_crop.shape == (1, 16, 14, 14)
    inner = (..., slice(5, 9), slice(5, 9))  # the encoder sees 38 pixels around a latent
    assert torch.equal(y[inner], y_crop[inner])
    assert not torch.equal(y, y_crop)


def test_decoded_input_is_the_picture_in_the_file(tiny_codec: Path, x: Tensor) -> None:
    codec = read_codec(tiny_codec)
    x_hat = make_task(tiny_codec, "decoded").network_input({"image": x})
    assert x_hat.shape == x.shape
    expected = codec.decompress(codec.compress(x))
    torch.testing.assert_close(x_hat, round_to_8_bits(expected), rtol=0, atol=1.01 / 255)
    levels = x_hat * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)


def test_decoded_input_from_shards_is_decoded_whole_and_then_cropped(
    tiny_codec: Path, shards: Path
) -> None:
    codec = read_codec(tiny_codec)
    data = ShardDataset(shards, "test", 32, crop_latents=False)
    batch = data.__getitems__([0, 3])
    x_hat = make_task(tiny_codec, "decoded").network_input(batch)
    assert x_hat.shape == (2, 3, 32, 32)
    whole = round_to_8_bits(codec.decompress([data.file(0), data.file(3)]))
    torch.testing.assert_close(x_hat, whole[..., 8:40, 16:48], rtol=0, atol=1.01 / 255)


def test_original_input_is_the_picture_itself_and_no_codec_is_looked_for(x: Tensor) -> None:
    task = ClassificationTask(*NETS, "no such codec", input="original", classes=("bark", "leaf"))
    assert task.codec is None
    assert torch.equal(task.network_input({"image": x}), x)


@pytest.mark.parametrize(("input", "net"), [("latents", CResNet), ("decoded", ResNet)])
def test_the_input_picks_the_network(tiny_codec: Path, input: Input, net: type) -> None:
    assert isinstance(make_task(tiny_codec, input).net.trunk, net)


def test_a_head_trains_without_touching_the_codec(tiny_codec: Path, x: Tensor) -> None:
    task = make_task(tiny_codec, "latents").train()
    assert task.net.training
    assert task.codec is not None
    assert not any(module.training for module in task.codec.modules())
    before = {name: value.clone() for name, value in task.codec.state_dict().items()}
    optimizer = torch.optim.SGD((p for p in task.parameters() if p.requires_grad), 0.1)
    task({"image": x}).square().sum().backward()
    optimizer.step()
    assert all(p.grad is None for p in task.codec.parameters())
    assert all(p.grad is not None for p in task.net.parameters())
    after = task.codec.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_whole_training_leaves_the_codec_as_it_was(
    classifier_run: Path, tiny_codec: Path
) -> None:
    state = torch.load(classifier_run / "checkpoints" / "last.ckpt", weights_only=True)
    expected = read_codec(tiny_codec).state_dict()
    for name, value in expected.items():
        assert torch.equal(state["state_dict"][f"codec.{name}"], value), name


def test_shards_of_another_stream_are_refused(
    shards: Path, tiny_codec: Path, other_codec: Path
) -> None:
    streams = [read_codec(folder).stream for folder in (tiny_codec, other_codec)]
    args = ["fit", "--config", str(find_config("cls")), "--model.net.width", "0.125"]
    args += ["--model.codec", str(other_codec), "--data.path", str(shards)]
    args += ["--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu"]
    expected = (
        f"hold stream {streams[0]:08x}, the model's codec is {streams[1]:08x}: "
        f"give --model.codec {shards}"
    )
    with pytest.raises(ValueError, match=expected):
        lightning.run(args)
