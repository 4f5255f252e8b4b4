import contextlib
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cdinfer.codecs import read_codec
from cdinfer.data.images import read_image, to_tensor
from cdinfer.data.shards import ShardDataset
from cdinfer.runs import find_run, load_run
from tests.conftest import draw


@pytest.fixture
def run_copy(classifier_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(classifier_run, tmp_path / "copy"))


@pytest.fixture
def files(tiny_codec: Path, tmp_path: Path) -> list[Path]:
    """Three inputs of two sizes: ``0.cdi`` (48 x 64), ``1.png`` (48 x 64), ``2.cdi`` (40 x 56)."""
    codec = read_codec(tiny_codec)
    folder = tmp_path / "inputs"
    folder.mkdir()
    paths = [folder / name for name in ("0.cdi", "1.png", "2.cdi")]
    pictures = [draw(48, 64, 0), draw(48, 64, 1), draw(40, 56, 2)]
    Image.fromarray(pictures[1]).save(paths[1])
    for index in (0, 2):
        paths[index].write_bytes(codec.compress(to_tensor(pictures[index])[None])[0])
    return paths


def change(run: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Edit ``run.json``."""
    about = json.loads((run / "run.json").read_text())
    edit(about)
    (run / "run.json").write_text(json.dumps(about))


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


def test_a_file_a_picture_a_folder_and_shards_are_predicted_in_order(
    classifier_run: Path, files: list[Path], shards: Path
) -> None:
    run = load_run(classifier_run)
    predicted = list(run.predict([files[2], files[0].parent, shards]))
    names = [Path(prediction.file).name for prediction in predicted]
    assert names[:4] == ["2.cdi", "0.cdi", "1.png", "2.cdi"]
    assert len(predicted) == 4 + 22
    assert {prediction.name for prediction in predicted} <= {"bark", "leaf"}
    assert all(0.5 <= prediction.probability <= 1 for prediction in predicted)
    alone = [next(run.predict([file])) for file in files]
    for one, among in zip(alone, predicted[1:4], strict=True):
        assert one.name == among.name
        assert one.probability == pytest.approx(among.probability, abs=1e-5)


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


def test_what_cannot_be_read_is_reported_and_the_rest_predicted(
    classifier_run: Path, files: list[Path], shards: Path, other_codec: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.cdi"
    damaged.write_bytes(files[0].read_bytes()[:-1] + b"\0")
    foreign = tmp_path / "foreign.cdi"
    foreign.write_bytes(read_codec(other_codec).compress(torch.zeros(1, 3, 48, 64))[0])
    text = tmp_path / "text.png"
    text.write_text("no picture")
    broken = Path(shutil.copytree(shards, tmp_path / "broken"))
    (broken / "index.json").write_text("{")
    (tmp_path / "empty").mkdir()
    bad = [tmp_path / "missing.cdi", damaged, foreign, text, broken, tmp_path / "empty"]
    failed: dict[str, str] = {}
    inputs = [files[0], *bad, files[1]]
    run = load_run(classifier_run)
    predicted = list(run.predict(inputs, lambda file, error: failed.update({file: str(error)})))
    assert [prediction.file for prediction in predicted] == [str(files[0]), str(files[1])]
    assert list(failed) == [str(path) for path in bad]
    assert "wrong stream" in failed[str(foreign)]
    assert "damaged" in failed[str(damaged)]
    for path in bad:
        with pytest.raises(ValueError, match=path.name):
            list(run.predict([path]))


def test_shards_of_another_stream_are_one_error(
    classifier_run: Path, labelled: Path, other_codec: Path, tmp_path: Path
) -> None:
    from cdinfer.__main__ import main

    other = tmp_path / "set"
    assert main(["export", str(labelled), str(other), "--codec", str(other_codec)]) == 0
    with pytest.raises(ValueError, match=r"these shards hold stream .* this run reads stream"):
        list(load_run(classifier_run).predict([other]))


def test_a_damaged_bitstream_in_shards_costs_that_sample_alone(
    classifier_run: Path, shards: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(shards, tmp_path / "broken"))
    data = ShardDataset(shards, "test", None)
    payload = data.file(2)[-20:]
    tar = broken / "test-00000.tar"
    content = tar.read_bytes()
    assert content.count(payload) == 1
    tar.write_bytes(content.replace(payload, payload[:-1] + bytes([payload[-1] ^ 1])))
    failed: list[str] = []
    run = load_run(classifier_run)
    predicted = list(run.predict([broken], lambda file, error: failed.append(file)))
    assert failed == [str(broken / data.keys()[2])]
    assert len(predicted) == 21


def test_the_newest_version_is_found_and_a_missing_run_is_named(tmp_path: Path) -> None:
    for number in (2, 9, 10):
        (tmp_path / "cls" / f"version_{number}").mkdir(parents=True)
        (tmp_path / "cls" / f"version_{number}" / "run.json").write_text("{}")
    assert find_run(tmp_path / "cls").name == "version_10"
    assert find_run(tmp_path / "cls" / "version_2").name == "version_2"
    with pytest.raises(ValueError, match=r"no run in .*seg': expected run\.json or version_N"):
        find_run(tmp_path / "seg")


def test_a_codecs_run_is_not_a_classifier(codec_run: Path) -> None:
    with pytest.raises(ValueError, match=r"trained a codec, expected a classifier \(--task cls\)"):
        load_run(codec_run)


def test_a_run_without_a_checkpoint_says_so(run_copy: Path) -> None:
    shutil.rmtree(run_copy / "checkpoints")
    with pytest.raises(ValueError, match=r"no checkpoint in .*: train for longer"):
        load_run(run_copy)


def test_a_missing_device_is_not_the_runs_fault(
    classifier_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no CUDA device on this machine: give --device cpu"):
        load_run(classifier_run, "cuda")


@pytest.mark.parametrize(
    "class_path",
    ["subprocess.Popen", "os.system", "mine.CResNet", "cdinfer.models.trunk.Tensor", ""],
)
def test_run_json_cannot_name_other_code(run_copy: Path, class_path: str) -> None:
    change(run_copy, lambda about: about["net"].update(class_path=class_path))
    change(run_copy, lambda about: about["net"].update(init_args={"args": ["touch", "hacked"]}))
    with pytest.raises(ValueError, match=r"not one of cdinfer\.models: use load_run"):
        load_run(run_copy)


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda a: a["net"]["init_args"].update(width=1e9), "does not fit|damaged"),
        (lambda a: a["net"]["init_args"].update(width=1e300), "damaged|cannot use"),
        (lambda a: a["net"]["init_args"].update(width=float("nan")), "damaged|cannot use"),
        (lambda a: a["net"]["init_args"].update(depth=51), "does not fit"),
        (lambda a: a["net"]["init_args"].update(depth=1), "depths .39, 51, 72."),
        (lambda a: a["net"]["init_args"].update(other=1), "damaged run"),
        (lambda a: a.update(classes=[f"{i}" for i in range(10**6)]), "does not fit"),
        (lambda a: a.update(classes=7), "damaged run"),
        (lambda a: a.update(net=[]), "damaged run"),
        (lambda a: a["net"].update(class_path=7), "damaged run"),
        (lambda a: a["net"].update(class_path="cdinfer.models.count_macs"), "damaged run"),
        (lambda a: a.pop("preprocessing"), "damaged run"),
        (lambda a: a["preprocessing"].update(crop="8"), "expected a number of pixels, got '8'"),
        (lambda a: a["preprocessing"].update(resize=-1), "expected a number of pixels, got -1"),
        (lambda a: a["preprocessing"].update(input="all"), "unknown input 'all'"),
        (lambda a: a.update(stream="00000000"), "not that of stream 00000000"),
    ],
)
def test_an_impossible_run_json_is_refused(
    run_copy: Path, edit: Callable[[dict[str, Any]], Any], match: str
) -> None:
    change(run_copy, edit)
    with pytest.raises(ValueError, match=match):
        load_run(run_copy)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"task": 1}', "[" * 100_000, "\xff"])
def test_a_damaged_run_json_is_named(run_copy: Path, text: str) -> None:
    (run_copy / "run.json").write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match=r"damaged .*run\.json"):
        load_run(run_copy)


class Hostile:
    """Runs a command when it is unpickled without care."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_cannot_run_code(run_copy: Path, tmp_path: Path, zipped: bool) -> None:
    hostile = {"state_dict": Hostile(f"touch {tmp_path}/hacked")}
    path = run_copy / "checkpoints" / "best.ckpt"
    if zipped:
        torch.save(hostile, path)
    else:
        path.write_bytes(pickle.dumps(hostile))
    with pytest.raises(ValueError, match=r"damaged .*best\.ckpt: not a checkpoint; train again"):
        load_run(run_copy)
    assert not (tmp_path / "hacked").exists()
    os.system(f"touch {tmp_path}/hacked")  # the command would have worked
    assert (tmp_path / "hacked").exists()


def test_weights_larger_than_the_file_are_refused(run_copy: Path) -> None:
    path = run_copy / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    state = {name: torch.zeros(()).expand(v.shape) for name, v in checkpoint["state_dict"].items()}
    torch.save({"state_dict": state}, path)
    with pytest.raises(ValueError, match="its weights are larger than the file"):
        load_run(run_copy)


def test_a_checkpoint_of_other_layers_or_none_is_refused(run_copy: Path) -> None:
    path = run_copy / "checkpoints" / "best.ckpt"
    torch.save({"state_dict": {"net.fc.weight": torch.zeros(2, 2)}}, path)
    with pytest.raises(ValueError, match=r"does not fit the network of run\.json"):
        load_run(run_copy)
    for content in ({}, {"state_dict": 3}, {"state_dict": {"net.fc.weight": "x"}}):
        torch.save(content, path)
        with pytest.raises(ValueError, match="not a checkpoint"):
            load_run(run_copy)


def test_a_damaged_checkpoint_is_named_wherever_the_damage_is(run_copy: Path) -> None:
    path = run_copy / "checkpoints" / "best.ckpt"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for cut in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="not a checkpoint"):
            load_run(run_copy)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        info, size = archive.getinfo(name), len(archive.read(name))
    for _ in range(20):  # in the pickle: a clean refusal, or a load of what is left
        broken = bytearray(whole)
        broken[info.header_offset + 100 + int(rng.integers(size))] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        with contextlib.suppress(ValueError):
            load_run(run_copy)
