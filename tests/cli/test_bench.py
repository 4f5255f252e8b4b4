import gc
import json
import tempfile
from pathlib import Path

import pytest
import torch

from cdinfer.__main__ import main
from cdinfer.cli.bench import ENGINES, NAMES
from cdinfer.runs.engines import installed
from cdinfer.studies.bench import gpu, inference, loading, masks
from cdinfer.studies.bench.rows import FIELDS

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where benches put what they need for a while."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def small(tiny_codec: Path, picture_folder: Path) -> list[str]:
    return ["--rounds", "1", "--codec", str(tiny_codec), "--data", str(picture_folder)]


def test_rows_are_printed_one_object_a_line(small: list[str], place: Path, capsys: Capture) -> None:
    assert main(["bench", "entropy", "overhead", "--pictures", "2", "--json", *small]) == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["bench"] for row in rows] == ["entropy"] * 24 + ["overhead"]
    assert all(tuple(row) == FIELDS for row in rows)
    assert err == ""
    assert list(place.iterdir()) == []


def test_people_get_a_table_a_bench(small: list[str], capsys: Capture) -> None:
    assert main(["bench", "latency", *small]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("latency\n\n| case ")
    assert "ratio" in out.splitlines()[2]
    assert err == ""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["entropi"], "unknown bench 'entropi'; did you mean 'entropy'?"),
        (["x"], f"unknown bench 'x'; known: {', '.join(NAMES)}"),
        (["entropy", "--rounds", "0"], "expected --rounds of at least 1, got 0"),
        (["entropy", "--pictures", "-1"], "expected --pictures of at least 1, got -1"),
        (["entropy", "--data", "nowhere"], "nowhere: expected a folder of pictures"),
        (["entropy", "--codec", "nothing"], "no codec 'nothing': expected a name"),
        (["entropy", "--bpp", "0.4"], "cae has no operating point at 0.4 bpp"),
        (["entropy", "--engine", "torch"], "--engine says what computes: give it with inference"),
    ],
)
def test_mistakes_are_one_line(args: list[str], message: str, capsys: Capture) -> None:
    assert main(["bench", *args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"cdinfer bench: {message}")
    assert len(err.splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_is_refused_in_one_line_where_there_is_none(capsys: Capture) -> None:
    assert main(["bench", "entropy", "gpu"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "cdinfer bench: the bench gpu needs a CUDA device and there is none here\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_is_left_out_of_all_benches_where_there_is_none(
    small: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    monkeypatch.setattr("cdinfer.cli.bench._run", lambda name, *rest: ran.append(name) or [])
    assert main(["bench", *small]) == 0
    assert ran == [name for name in NAMES if name != "gpu"]
    assert capsys.readouterr().err.startswith("cdinfer bench: left out gpu: ")


def test_resident_reaches_the_bench_of_gpus(
    small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, object] = {}
    monkeypatch.setattr(gpu, "check_device", lambda: None)
    monkeypatch.setattr(gpu, "run", lambda *args, **options: seen.update(options) or [])
    assert main(["bench", "gpu", "--resident", "ram", *small]) == 0
    assert seen == {"resident": "ram"}


@pytest.mark.parametrize("name", ENGINES)
def test_the_engine_reaches_the_benches_that_have_several(
    name: str, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    module = {"inference": inference, "masks": masks}[name]
    monkeypatch.setattr(module, "run", lambda *args, **options: seen.append(options) or [])
    assert main(["bench", name, "--engine", "torch", *small]) == 0
    assert main(["bench", name, *small]) == 0
    assert seen == [{"engines": ["torch"]}, {}]


@pytest.mark.skipif("onnx" in installed(), reason="it is installed")
def test_an_engine_that_is_missing_is_named_with_its_extra(capsys: Capture) -> None:
    assert main(["bench", "inference", "--engine", "onnx"]) == 2
    assert capsys.readouterr().err == (
        "cdinfer bench: --engine onnx needs the package onnxruntime: pip install 'cdinfer[onnx]'\n"
    )


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves closing to Python
def test_ctrl_c_leaves_nothing_behind(
    small: list[str], place: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object) -> None:
        assert list(place.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "interleave", stop)
    assert main(["bench", "loading", *small]) == 130
    out, err = capsys.readouterr()
    assert (out, err) == ("", "cdinfer bench: interrupted\n")
    assert list(place.iterdir()) == []
    gc.collect()


def test_help_tells_benches_and_fields(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    out = capsys.readouterr().out
    for word in (*NAMES, *FIELDS):
        assert f"\n{word} " in out or f"\n    {word} " in out
