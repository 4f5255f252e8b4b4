import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import pytorch_lightning as pl
import torch
from skimage.metrics import peak_signal_noise_ratio

from cdinfer.__main__ import main
from cdinfer.bitstream.container import parse
from cdinfer.codecs import CAE, read_codec
from cdinfer.codecs.cae import Design
from cdinfer.codecs.start import start_as_transform
from cdinfer.data.folders import PictureDataset
from cdinfer.data.images import from_tensor, to_tensor
from cdinfer.data.layout import find_pictures
from cdinfer.data.module import DataModule
from cdinfer.tasks import CollapseError, CompressionTask
from cdinfer.tasks.compression import measure, nanmean
from tests.conftest import draw


def column(run: Path, name: str) -> dict[int, float]:
    """Return step -> value of one column of a run's metrics."""
    with (run / "metrics.csv").open() as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row[name]}


def test_a_few_steps_reduce_the_loss(codec_run: Path) -> None:
    d = list(column(codec_run, "train/D").values())
    assert len(d) == 24
    assert sum(d[-4:]) < 0.9 * sum(d[:4])


def test_the_entropy_target_moves_by_the_factor_real_files_miss_the_rate(codec_run: Path) -> None:
    rates, targets = column(codec_run, "val/bpp"), column(codec_run, "train/H_t")
    assert sorted(rates) == [7, 15, 23]
    expected = 64 * 0.33 / 16
    for step in range(24):
        assert targets[step] == pytest.approx(expected)
        if step in rates:
            expected *= min(max(0.33 / rates[step], 0.8), 1.25)
    assert targets[23] != pytest.approx(64 * 0.33 / 16)
    state = torch.load(codec_run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert float(state["entropy_target"]) == pytest.approx(expected)


def test_the_frozen_codec_is_the_trained_one_and_reads_its_files(
    codec_run: Path, pictures: list[npt.NDArray[np.uint8]]
) -> None:
    codec = read_codec(codec_run / "codec")
    state = torch.load(codec_run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for name, weight in codec.g_a.state_dict().items():
        assert torch.equal(weight, state[f"codec.g_a.{name}"].half().float()), name
    x = torch.stack([to_tensor(picture) for picture in pictures])
    files = codec.compress(x)
    assert torch.equal(codec.unpack(files)["y"], codec.symbols(x))
    assert not any(parse(file).header.provisional for file in files)


def test_the_card_says_how_the_codec_was_trained_and_what_it_reached(
    codec_run: Path, labelled: Path
) -> None:
    codec = read_codec(codec_run / "codec")
    card = json.loads((codec_run / "codec" / "codec.json").read_text())["card"]
    assert {name: card[name] for name in ("data", "steps", "beta", "lr", "pictures")} == {
        "data": "labelled", "steps": 24, "beta": 150.0, "lr": 1e-3, "pictures": 4,
    }  # fmt: skip
    items = find_pictures(labelled).splits["val"]
    images = [
        sample["image"]
        for sample in map(PictureDataset(labelled, items, None).__getitem__, range(4))
    ]
    sizes = [8 * len(codec.compress(image[None])[0]) / (48 * 64) for image in images]
    assert card["validation"]["bpp"] == pytest.approx(sum(sizes) / 4)
    assert card["validation"]["ms_ssim"] is None  # the pictures are too small for it


def test_measured_numbers_have_a_second_opinion(
    tiny_codec: Path, pictures: list[npt.NDArray[np.uint8]]
) -> None:
    codec = read_codec(tiny_codec)
    x = to_tensor(pictures[0])[None]
    results = measure(codec, x)
    (file,) = codec.compress(x)
    assert results["bpp"] == 8 * len(file) / (48 * 64)
    decoded = from_tensor(codec.decompress([file])[0])
    expected = peak_signal_noise_ratio(pictures[0], decoded, data_range=255)
    assert results["psnr"] == pytest.approx(expected, abs=1e-4)
    payload = 8 * len(parse(file).payload) / (48 * 64)
    assert payload * 0.9 < results["bits_est"] < payload  # the coder's last words cost some bytes
    assert math.isnan(results["ms_ssim"])


def fitted(design: Design) -> CAE:
    """An untrained narrow codec with tables for one picture."""
    codec = CAE(0.33, 0.125, design)
    codec.fit(list(codec.numbers(to_tensor(draw(48, 64, 0))[None]).numpy()))
    return codec


@pytest.mark.parametrize("design", ["cae", "cae-lite", "cae-paper"])
def test_measuring_leaves_the_codec_in_training_mode_and_its_statistics_alone(
    design: Design,
) -> None:
    codec = fitted(design)
    before = {name: tensor.clone() for name, tensor in codec.state_dict().items()}
    measure(codec, torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert codec.training
    for name, tensor in codec.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_files_written_while_training_are_marked_as_provisional() -> None:
    files = fitted("cae").compress(torch.zeros(1, 3, 16, 16))
    assert parse(files[0]).header.provisional


def trainer(folder: Path, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip


@pytest.mark.parametrize("design", ["cae-lite", "cae-paper"])
def test_validation_fits_the_tables_it_measures_with(
    labelled: Path, tmp_path: Path, design: Design
) -> None:
    task = CompressionTask(CAE(0.33, 0.125, design))
    data = DataModule(str(labelled), batch_size=2, crop=16, whole=True)
    runner = trainer(tmp_path)
    runner.validate(task, datamodule=data, verbose=False)
    assert not task.codec.frozen
    images = [batch["image"] for batch in data.calibration_dataloader()]
    assert len(images) == 12
    first = task.codec.model
    assert first is not None
    task.codec.fit([task.codec.numbers(image)[0].numpy() for image in images])
    assert task.codec.model is not None
    assert task.codec.model.pack() == first.pack()
    sizes = [measure(task.codec, batch["image"])["bpp"] for batch in data.val_dataloader()]
    assert float(runner.callback_metrics["val/bpp"]) == pytest.approx(sum(sizes) / len(sizes))


def test_latents_are_refused(shards: Path, tmp_path: Path) -> None:
    for place in (str(shards), f"file://{shards}"):
        data = DataModule(place, crop=32, whole=True)
        remedy = "codecs learn from pictures: give --data a folder of pictures"
        with pytest.raises(ValueError, match=remedy):
            trainer(tmp_path).validate(CompressionTask(CAE(0.33, 0.125)), datamodule=data)


def test_training_starts_as_a_transform_codec_unless_it_goes_on(
    labelled: Path, tmp_path: Path
) -> None:
    data = DataModule(str(labelled), batch_size=2, crop=16, whole=True)
    codec, expected = CAE(0.33, 0.125), CAE(0.33, 0.125)
    task = CompressionTask(codec, lr=0.0)
    options = {"max_epochs": 1, "limit_val_batches": 0}
    runner = trainer(tmp_path, **options)
    runner.fit(task, datamodule=data)
    images = (batch["image"][0] for batch in data.calibration_dataloader())
    start_as_transform(expected, images, torch.Generator().manual_seed(0))
    assert torch.equal(codec.g_a.linear.weight, expected.g_a.linear.weight)
    assert torch.equal(codec.quantizer.log_step, expected.quantizer.log_step)
    with torch.no_grad():
        codec.g_a.linear.weight.mul_(3)
    runner.save_checkpoint(tmp_path / "last.ckpt")
    again = CompressionTask(CAE(0.33, 0.125), lr=0.0)
    trainer(tmp_path, **(options | {"max_epochs": 2})).fit(
        again, datamodule=data, ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True
    )
    assert torch.equal(again.codec.g_a.linear.weight, codec.g_a.linear.weight)


def test_a_learning_rate_that_ruins_the_codec_ends_with_status_1(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model.codec.width", "0.125", "--data.crop", "16", "--data.batch_size", "2"]
    trainer = ["--trainer.accelerator", "cpu", "--trainer.logger.save_dir", str(tmp_path)]
    wild = ["--model.lr", "1e6", "--trainer.max_steps", "300", "--model.collapse_steps", "20"]
    assert (
        main(["train", "--task", "codec", "--data", str(labelled), *options, *trainer, *wild]) == 1
    )
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("cdinfer train: training collapsed: at step ")
    assert "try a lower --model.lr (now 1e+06)" in last
    assert not (tmp_path / "codec" / "version_0" / "codec").exists()


@pytest.mark.parametrize("step", [0, 4])
def test_nan_is_a_collapse_at_once_and_equal_symbols_after_a_while(
    step: int, labelled: Path, tmp_path: Path
) -> None:
    codec = CAE(0.33, 0.125, "cae-paper")
    with torch.no_grad():
        if step == 0:
            codec.quantizer.get_parameter("centers").fill_(torch.nan)
        else:
            codec.quantizer.get_parameter("centers").zero_()
            sure = torch.eye(6)[0].expand(16, 6)  # as after hundreds of steps
            codec.quantizer.get_buffer("frequencies").copy_(sure)
    carried = "nan" if step == 0 else r"0\.0000"
    match = rf"at step {step} the latents carry {carried} bits/symbol"
    with pytest.raises(CollapseError, match=match):
        trainer(tmp_path, max_steps=20, limit_val_batches=0).fit(
            CompressionTask(codec, collapse_steps=5),
            datamodule=DataModule(str(labelled), batch_size=2, crop=16, whole=True),
        )
    assert not (tmp_path / "codec").exists()


def test_means_leave_out_what_is_not_defined() -> None:
    assert nanmean([1.0, math.nan, 4.0]) == 2.5
    assert nanmean([math.nan]) is None
