import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from cdinfer.__main__ import main
from cdinfer.cli.predict import parser
from cdinfer.codecs import read_codec
from cdinfer.data.images import to_tensor
from cdinfer.runs.engines import installed
from tests.conftest import draw


@pytest.fixture
def inputs(tiny_codec: Path, tmp_path: Path) -> list[Path]:
    """A bitstream and a picture."""
    bits, picture = tmp_path / "x.cdi", tmp_path / "y.png"
    bits.write_bytes(read_codec(tiny_codec).compress(to_tensor(draw(48, 64, 0))[None])[0])
    Image.fromarray(draw(48, 64, 1)).save(picture)
    return [bits, picture]


def test_predictions_are_json_lines(
    classifier_run: Path, inputs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["predict", str(classifier_run.parent), *map(str, inputs)]) == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["file"] for row in rows] == [str(path) for path in inputs]
    assert all(list(row) == ["file", "class", "probability"] for row in rows)
    assert all(row["class"] in ("bark", "leaf") and 0.5 <= row["probability"] <= 1 for row in rows)
    assert err == ""


def test_bad_inputs_end_with_status_2_and_the_others_are_printed(
    classifier_run: Path,
    inputs: list[Path],
    other_codec: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    foreign = tmp_path / "foreign.cdi"
    foreign.write_bytes(read_codec(other_codec).compress(torch.zeros(1, 3, 48, 64))[0])
    damaged = tmp_path / "damaged.cdi"
    damaged.write_bytes(inputs[0].read_bytes()[:-3])
    bad = [tmp_path / "missing.cdi", foreign, damaged]
    capsys.readouterr()
    args = [str(path) for path in (inputs[0], *bad, inputs[1])]
    assert main(["predict", str(classifier_run), *args]) == 2
    out, err = capsys.readouterr()
    assert [json.loads(line)["file"] for line in out.splitlines()] == [args[0], args[-1]]
    lines = err.splitlines()
    assert len(lines) == 3
    for line, path in zip(lines, bad, strict=True):
        assert line.startswith("cdinfer predict: ")
        assert line.count(str(path)) == 1
    assert "No such file" in lines[0]
    assert "wrong stream" in lines[1]


def test_no_run_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(tmp_path), "x.cdi"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"cdinfer predict: no run in '{tmp_path}'")


def test_the_run_folder_is_all_it_needs_and_no_training_library_is_imported(
    classifier_run: Path, segmenter_run: Path, inputs: list[Path], tmp_path: Path
) -> None:
    place = tmp_path / "elsewhere"
    shutil.copytree(classifier_run, place / "moved")
    for name in ("config.yaml", "metrics.csv"):
        (place / "moved" / name).unlink()
    code = (
        "import sys\n"
        "from cdinfer.__main__ import main\n"
        f"assert main(['predict', 'moved', {str(inputs[0])!r}, {str(inputs[1])!r}]) == 0\n"
        f"assert main(['encode', {str(inputs[1])!r}, '--codec', 'moved', '-o', 'z.cdi']) == 0\n"
        "assert main(['decode', 'z.cdi', '--codec', 'moved']) == 0\n"
        f"assert main(['predict', {str(segmenter_run)!r}, 'z.cdi', '--save', 'mask.png']) == 0\n"
        "names = 'pytorch_lightning', 'lightning', 'torchvision', 'torchmetrics', 'compressai'\n"
        "loaded = [name for name in names if name in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        cwd=place, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5
    assert all((place / name).is_file() for name in ("z.png", "mask.png", "mask.overlay.jpg"))


def test_its_flags_are_these() -> None:
    flags = [option for action in parser()._actions for option in action.option_strings]
    assert flags == [
        *("-h", "--help", "--save", "--overwrite", "--device", "--engine", "--precision"),
        *("--max-pixels", "--json"),
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(
            ["--engine", "openvino"],
            "--engine openvino needs the package openvino: pip install 'cdinfer[openvino]'",
            marks=pytest.mark.skipif("openvino" in installed(), reason="it is installed"),
        ),
        pytest.param(
            ["--engine", "onnx", "--precision", "bf16"],
            "--engine onnx computes in fp32, got bf16: give --engine torch or openvino",
            marks=pytest.mark.skipif("onnx" not in installed(), reason="it is not installed"),
        ),
    ],
)
def test_an_engine_that_cannot_serve_is_one_line(
    flags: list[str], message: str, classifier_run: Path, tmp_path: Path, capsys
) -> None:
    capsys.readouterr()
    assert main(["predict", str(classifier_run), str(tmp_path), *flags]) == 2
    assert capsys.readouterr() == ("", f"cdinfer predict: {message}\n")
