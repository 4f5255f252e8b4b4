import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdinfer.__main__ import main
from cdinfer.cli.evaluate import describe
from cdinfer.codecs import read_codec
from cdinfer.data.images import read_image, to_tensor
from cdinfer.runs import SegmenterRun, load_run
from cdinfer.tasks.compression import measure
from tests.conftest import draw
from tests.data.masked import CLASSES, write_voc

Capture = pytest.CaptureFixture[str]


def evaluate(capsys: Capture, *args: object) -> dict[str, object]:
    """Return what ``cdinfer eval ARGS --json`` prints, a single line."""
    capsys.readouterr()
    assert main(["eval", *map(str, args), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    return dict(json.loads(line))


def test_a_codec_is_measured_on_its_validation_pictures(
    codec_run: Path, labelled: Path, capsys: Capture
) -> None:
    result = evaluate(capsys, codec_run)
    codec = read_codec(codec_run / "codec")
    images = [to_tensor(read_image(p))[None] for p in sorted((labelled / "val").rglob("*.png"))]
    rows = [measure(codec, image) for image in images]
    assert list(result) == ["run", "data", "pictures", "bpp", "bits_est", "psnr", "ms_ssim"]
    assert (result["run"], result["data"]) == (str(codec_run), str(labelled))
    assert result["pictures"] == len(images) == 4
    for name in ("bpp", "bits_est", "psnr"):
        assert result[name] == pytest.approx(np.mean([row[name] for row in rows]))
    assert result["ms_ssim"] is None


def test_given_pictures_are_its_test_split_or_else_all(
    codec_run: Path, labelled: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert evaluate(capsys, codec_run, "--data", labelled)["pictures"] == 6
    for number in range(3):
        Image.fromarray(draw(192, 176, number)).save(tmp_path / f"{number}.png")
    result = evaluate(capsys, codec_run.parent, "--data", tmp_path)
    assert result["pictures"] == 3
    assert 0 < float(str(result["ms_ssim"])) < 1
    assert main(["eval", str(codec_run), "--data", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"{codec_run} on {tmp_path}", "pictures     3"]
    assert lines[2] == f"bpp          {result['bpp']:.4f}"


def test_a_codec_is_not_measured_on_latents_nor_with_settings_of_a_classifier(
    codec_run: Path, shards: Path, capsys: Capture
) -> None:
    assert main(["eval", str(codec_run), "--data", str(shards)]) == 2
    assert "a codec is measured on a folder of pictures" in capsys.readouterr().err
    assert main(["eval", str(codec_run), "--data.batch_size", "8"]) == 2
    assert "unknown --data.batch_size" in capsys.readouterr().err


def test_an_unfinished_codec_says_how_to_finish_it(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "run.json").write_text('{"task": "codec"}')
    assert main(["eval", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--ckpt_path {tmp_path / 'checkpoints' / 'last.ckpt'}" in line


def test_a_classifier_is_tested_on_shards_as_predict_answers(
    classifier_run: Path, shards: Path, capsys: Capture
) -> None:
    result = evaluate(capsys, classifier_run, "--data", shards)
    expected = np.zeros((2, 2), int)
    for prediction in load_run(classifier_run).predict([shards]):
        split, label, _ = Path(prediction.file).relative_to(shards).parts
        if split == "test":
            expected[("bark", "leaf").index(label), ("bark", "leaf").index(prediction.name)] += 1
    assert expected.sum() == 6
    assert result["confusion"] == expected.tolist()
    assert result["test/top1"] == pytest.approx(np.trace(expected) / 6)
    assert result["classes"] == ["bark", "leaf"]
    assert result["data"] == str(shards)


def test_a_classifier_is_tested_on_the_pictures_of_its_config(
    classifier_run: Path, labelled: Path, capsys: Capture
) -> None:
    result = evaluate(capsys, classifier_run.parent)
    assert (result["run"], result["data"]) == (str(classifier_run), str(labelled))
    confusion = np.array(result["confusion"])
    assert confusion.sum(1).tolist() == [3, 3]
    assert main(["eval", str(classifier_run), "--data.batch_size", "1"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"test/top1    {np.trace(confusion) / 6:.4f}" in out.splitlines()
    assert "bark " + " ".join(f"{count:>5}" for count in confusion[0]) in out.splitlines()


def test_a_run_without_a_checkpoint_is_one_line(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "run.json").write_text('{"task": "cls", "classes": []}')
    assert main(["eval", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("cdinfer eval: no checkpoint in ")


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three sizes with masks: 4 for training, 1 for validation and 3 for test."""
    sizes = [(48, 64), (33, 47), (16, 16)]
    return write_voc(tmp_path_factory.mktemp("masked"), {"train": 4, "val": 1, "test": 3}, sizes)


@pytest.fixture(scope="module")
def trained_segmenter(
    masked: Path, tiny_codec: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    place = tmp_path_factory.mktemp("runs")
    flags = ["--task", "seg", "--codec", str(tiny_codec), "--data", str(masked)]
    options = ["--model.net.width", "0.125", "--model.head.width", "0.125", "--data.crop", "32"]
    trainer = ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]
    trainer += ["--trainer.logger.save_dir", str(place)]
    assert main(["train", *flags, *options, *trainer]) == 0
    return place / "seg" / "version_0"


def test_a_segmenter_is_scored_by_the_masks_that_predict_makes(
    trained_segmenter: Path, masked: Path, capsys: Capture
) -> None:
    result = evaluate(capsys, trained_segmenter)
    run = load_run(trained_segmenter)
    assert isinstance(run, SegmenterRun)
    pictures = sorted((masked / "JPEGImages").glob("test-*.png"))
    confusion = np.zeros((3, 3), int)
    for path, predicted in zip(pictures, run.predict(pictures), strict=True):
        true = np.array(Image.open(masked / "SegmentationClass" / path.name))
        known = true != 255
        np.add.at(confusion, (true[known], predicted.mask[known]), 1)
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    iou = confusion.diagonal() / union
    assert list(result) == [
        *("run", "data", "test/loss", "test/miou", "test/macc", "test/pixel", "classes", "iou")
    ]
    assert (result["run"], result["data"]) == (str(trained_segmenter), str(masked))
    assert result["iou"] == pytest.approx(dict(zip(CLASSES, iou, strict=True)), abs=2e-3)
    assert result["test/miou"] == pytest.approx(iou.mean(), abs=2e-3)
    recall = confusion.diagonal() / confusion.sum(1)
    assert result["test/macc"] == pytest.approx(recall.mean(), abs=2e-3)
    assert result["test/pixel"] == pytest.approx(
        confusion.diagonal().sum() / confusion.sum(), abs=2e-3
    )


def test_a_segmenter_is_tested_on_other_data_too_and_a_class_may_be_missing_there(
    trained_segmenter: Path, tmp_path: Path, capsys: Capture
) -> None:
    other = write_voc(tmp_path / "other", {"train": 1, "test": 1}, [(24, 8)])  # a stripe: one class
    assert main(["eval", str(trained_segmenter), "--data", str(other)]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index(f"{trained_segmenter} on {other}")  # below the progress bar
    scores = lines.index("intersection over union")
    assert lines[start + 1].startswith("test/loss    ")
    assert [line.split()[0] for line in lines[scores + 1 :]] == list(CLASSES)
    named = write_voc(tmp_path / "named", {"train": 1, "test": 1}, classes=("a", "b", "c"))
    assert main(["eval", str(trained_segmenter), "--data", str(named)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == (
        f"cdinfer eval: '{named}' has the classes a, b, c, {trained_segmenter} knows sky, road, "
        "tree: give --data with those, in this order"
    )


def test_a_class_that_is_nowhere_has_no_score() -> None:
    result = {"run": "r", "data": "d", "test/miou": 0.5, "iou": {"sky": 0.5, "road": None}}
    assert describe(result).splitlines()[-2:] == [" sky 0.5000", "road -"]
