import json
from pathlib import Path

import pytest

from cdinfer.codecs import read_codec
from cdinfer.data.images import read_image, to_tensor
from cdinfer.runs import load_run


def test_run_json_holds_what_predict_needs(classifier_run: Path, tiny_codec: Path) -> None:
    assert json.loads((classifier_run / "run.json").read_text()) == {
        "task": "cls",
        "classes": ["bark", "leaf"],
        "stream": f"{read_codec(tiny_codec).stream:08x}",
        "preprocessing": {"resize": None, "crop": 32, "input": "latents"},
        "net": {
            "class_path": "cdinfer.models.CResNet",
            "init_args": {"depth": 39, "output_stride": 32, "v1": False, "width": 0.125},
        },
    }


def test_a_picture_gets_the_answer_of_its_bitstream(
    classifier_run: Path, labelled: Path, shards: Path
) -> None:
    run = load_run(classifier_run)
    from_shards = {p.file: p for p in run.predict([shards])}
    from_pictures = list(run.predict([labelled]))
    assert len(from_pictures) == len(from_shards) == 22
    for prediction in from_pictures:
        other = from_shards[str(shards / Path(prediction.file).relative_to(labelled))]
        assert prediction.name == other.name
        assert prediction.probability == pytest.approx(other.probability, abs=1e-5)


def test_probabilities_are_those_of_the_network_on_the_centre_of_the_latents(
    classifier_run: Path, files: list[Path]
) -> None:
    run = load_run(classifier_run)
    assert run.codec is not None
    y = run.codec.dequantize(run.codec.unpack([files[0].read_bytes()])).y  # 6 x 8
    p = run.probabilities(y[..., 1:5, 2:6])[0]
    assert float(p.sum()) == pytest.approx(1)
    prediction = next(run.predict([files[0]]))
    assert prediction.name == run.classes[int(p.argmax())]
    assert prediction.probability == pytest.approx(float(p.max()))


@pytest.mark.parametrize("input", ["decoded", "original"])
def test_runs_on_pixels_predict_too(
    input: str, tiny_codec: Path, labelled: Path, tmp_path: Path, files: list[Path]
) -> None:
    from cdinfer.__main__ import main

    flags = ["--task", "cls", "--data", str(labelled), "--model.input", input, "--data.crop", "32"]
    flags += [] if input == "original" else ["--codec", str(tiny_codec)]
    options = ["--model.pixel_net.width", "0.125", "--trainer.max_epochs", "1"]
    trainer = ["--trainer.accelerator", "cpu", "--trainer.logger.save_dir", str(tmp_path / "runs")]
    assert main(["train", *flags, *options, *trainer]) == 0
    run = load_run(tmp_path / "runs" / "cls")
    x = to_tensor(read_image(files[1]))[None]
    if input == "decoded":
        codec = read_codec(tiny_codec)
        x = (codec.decompress(codec.compress(x)) * 255).round() / 255
        assert len(list(run.predict(files))) == 3
    else:
        assert not (tmp_path / "runs" / "cls" / "version_0" / "codec").exists()
        with pytest.raises(ValueError, match="this run reads original pictures: give the picture"):
            list(run.predict(files[:1]))
    p = run.probabilities(x[..., 8:40, 16:48])[0]
    assert next(run.predict([files[1]])).probability == pytest.approx(float(p.max()), abs=1e-4)
