import csv
import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import pytorch_lightning as pl
import torch
from skimage.metrics import peak_signal_noise_ratio

from cdinfer.__main__ import main
from cdinfer.bitstream.container import parse
from cdinfer.codecs import CAE, read_codec
from cdinfer.data.folders import PictureDataset
from cdinfer.data.images import from_tensor, to_tensor
from cdinfer.data.layout import find_pictures
from cdinfer.data.module import DataModule
from cdinfer.tasks import CollapseError, CompressionTask
from cdinfer.tasks.compression import measure, nanmean


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


def test_measuring_leaves_the_codec_in_training_mode_and_its_statistics_alone() -> None:
    codec = CAE(0.33, width=0.125)
    before = codec.frequencies.clone()
    measure(codec, torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert codec.training
    assert torch.equal(codec.frequencies, before)


def test_files_written_while_training_are_marked_as_provisional() -> None:
    files = CAE(0.33, width=0.125).compress(torch.zeros(1, 3, 16, 16))
    assert parse(files[0]).header.provisional


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
def test_nan_is_a_collapse_at_once_and_equal_centers_after_a_while(
    step: int, labelled: Path
) -> None:
    codec = CAE(0.33, width=0.125)
    with torch.no_grad():
        if step == 0:
            codec.centers.fill_(torch.nan)
        else:
            codec.centers.zero_()
            codec.frequencies.copy_(torch.eye(6)[0].expand(16, 6))  # as after hundreds of steps
    trainer = pl.Trainer(
        max_steps=20, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    carried = "nan" if step == 0 else r"0\.0000"
    match = rf"at step {step} the latents carry {carried} bits/symbol"
    with pytest.raises(CollapseError, match=match):
        trainer.fit(
            CompressionTask(codec, collapse_steps=5),
            datamodule=DataModule(str(labelled), batch_size=2, crop=16, whole=True),
        )


def test_means_leave_out_what_is_not_defined() -> None:
    assert nanmean([1.0, math.nan, 4.0]) == 2.5
    assert nanmean([math.nan]) is None
