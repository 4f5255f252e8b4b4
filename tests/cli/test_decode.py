import json
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from cdinfer.__main__ import main
from cdinfer.codecs import CAE, read_codec, save_codec
from cdinfer.data.images import from_tensor, read_image
from tests.conftest import draw, random_codec

Capture = pytest.CaptureFixture[str]
Pictures = list[npt.NDArray[np.uint8]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_codec: Path) -> None:
    """Every test runs in its own folder, with the tiny codec among its runs."""
    monkeypatch.chdir(tmp_path)
    save_codec(read_codec(tiny_codec), Path("runs/codec/version_0/codec"), {})


@pytest.fixture
def codec(tiny_codec: Path) -> CAE:
    return read_codec(tiny_codec)


def write(codec: CAE, name: str, height: int = 17, width: int = 9) -> bytes:
    """Write a ``.cdi`` file and return its bytes."""
    x = torch.from_numpy(draw(height, width, 0)).permute(2, 0, 1)[None] / 255
    (data,) = codec.compress(x)
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(data)
    return data


def decode(*args: object) -> int:
    return main(["decode", *map(str, args)])


def fault(capsys: Capture) -> str:
    """Return the one line on stderr."""
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    return line


# What is written, and where


def test_the_picture_is_the_codecs_reconstruction(codec: CAE, capsys: Capture) -> None:
    data = write(codec, "x.cdi", 50, 41)
    assert decode("x.cdi", "--json") == 0
    (x_hat,) = codec.decompress([data])
    np.testing.assert_array_equal(read_image("x.png"), from_tensor(x_hat))
    assert json.loads(capsys.readouterr().out) == {
        "file": "x.cdi",
        "codec": "CAE_",
        "bpp": 8 * len(data) / (50 * 41),
        "height": 50,
        "width": 41,
        "bytes": len(data),
    }


def test_people_get_a_line_a_file(codec: CAE, capsys: Capture) -> None:
    size = len(write(codec, "x.cdi", 16, 24))
    assert decode("x.cdi") == 0
    bpp = f"{8 * size / (16 * 24):.4g}"
    assert capsys.readouterr().out == f"x.cdi -> x.png: {size} bytes, {bpp} bpp, 24 x 16\n"


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tif", "tiff", "PNG"])
def test_every_kind_of_output_keeps_every_pixel(codec: CAE, suffix: str) -> None:
    (x_hat,) = codec.decompress([write(codec, "x.cdi")])
    assert decode("x.cdi", "-o", f"new/y.{suffix}") == 0
    np.testing.assert_array_equal(read_image(f"new/y.{suffix}"), from_tensor(x_hat))


def test_several_files_go_into_a_folder(codec: CAE) -> None:
    write(codec, "a/x.cdi")
    write(codec, "b/y.cdi")
    assert decode("a/x.cdi", "b/y.cdi", "-o", "out") == 0
    assert sorted(p.name for p in Path("out").iterdir()) == ["x.png", "y.png"]


# Which codec


def test_each_file_finds_its_own_codec(codec: CAE, pictures: Pictures) -> None:
    other = random_codec(2, pictures)
    save_codec(other, Path("runs/joint/version_3/codec"), {})
    data = write(codec, "x.cdi"), write(other, "y.cdi")
    assert decode("x.cdi", "y.cdi") == 0
    for name, own, file in zip("xy", (codec, other), data, strict=True):
        expected = from_tensor(own.decompress([file])[0])
        np.testing.assert_array_equal(read_image(f"{name}.png"), expected)


def test_an_unknown_stream_asks_for_its_codec(pictures: Pictures, capsys: Capture) -> None:
    stranger = random_codec(3, pictures)
    write(stranger, "x.cdi")
    assert decode("x.cdi") == 1
    line = fault(capsys)
    assert line.startswith(
        f"cdinfer decode: x.cdi: no trained codec with stream id {stranger.stream:08x}"
    )
    assert line.endswith("give the one that wrote the file with --codec RUN")
    save_codec(stranger, Path("elsewhere"), {})
    assert decode("x.cdi", "--codec", "elsewhere") == 0


def test_a_codec_that_did_not_write_the_file_is_refused(
    tiny_codec: Path, pictures: Pictures, capsys: Capture
) -> None:
    write(random_codec(3, pictures), "x.cdi")
    assert decode("x.cdi", "--codec", tiny_codec) == 1
    assert "x.cdi: wrong stream: expected stream id" in fault(capsys)
    assert not Path("x.png").exists()


def test_a_file_of_another_kind_of_codec_is_refused(
    codec: CAE, tiny_codec: Path, capsys: Capture
) -> None:
    data = write(codec, "x.cdi")
    Path("x.cdi").write_bytes(data[:4] + b"HYPR" + data[8:])
    assert decode("x.cdi", "--codec", tiny_codec) == 1
    assert "wrong codec: expected a file of codec CAE_, got one of HYPR" in fault(capsys)


# Faults


def test_an_existing_picture_is_not_replaced(codec: CAE, capsys: Capture) -> None:
    write(codec, "x.cdi")
    Path("x.png").write_text("the original")
    assert decode("x.cdi") == 1
    assert fault(capsys) == (
        "cdinfer decode: x.cdi: x.png exists; replace it with --overwrite, or give another -o OUT"
    )
    assert Path("x.png").read_text() == "the original"
    assert decode("x.cdi", "--overwrite") == 0
    assert read_image("x.png").shape == (17, 9, 3)


def test_a_file_named_like_a_picture_does_not_overwrite_itself(codec: CAE, capsys: Capture) -> None:
    data = write(codec, "x.png")
    assert decode("x.png", "--overwrite") == 1
    assert "would be replaced by what is made of it; give another -o OUT" in fault(capsys)
    assert Path("x.png").read_bytes() == data


def test_two_files_for_one_picture_are_refused_before_any_work(codec: CAE, capsys: Capture) -> None:
    write(codec, "a/x.cdi")
    write(codec, "b/x.cdi")
    assert decode("a/x.cdi", "b/x.cdi", "-o", "out") == 2
    assert "a/x.cdi and b/x.cdi would both become out/x.png" in fault(capsys)
    assert not Path("out").exists()


def test_a_lossy_output_is_refused(codec: CAE, capsys: Capture) -> None:
    write(codec, "x.cdi")
    assert decode("x.cdi", "-o", "x.jpg") == 2
    assert "expected a file ending in .png or .bmp or" in fault(capsys)


def test_bad_files_are_named_and_the_rest_is_done(codec: CAE, capsys: Capture) -> None:
    data = write(codec, "good.cdi", 48, 64)
    Path("bit.cdi").write_bytes(data[:60] + bytes([data[60] ^ 16]) + data[61:])
    Path("cut.cdi").write_bytes(data[:-1])
    Path("text.cdi").write_text("no bits")
    Path("folder.cdi").mkdir()
    bad = ["bit.cdi", "cut.cdi", "text.cdi", "folder.cdi", "god.cdi"]
    assert decode(*bad, "good.cdi", "-o", "out") == 1
    out, err = capsys.readouterr()
    assert out.startswith("good.cdi -> out/good.png: ")
    expected = [
        "bit.cdi: damaged",
        "cut.cdi: damaged or truncated",
        "text.cdi: not a .cdi file: expected",
        "folder.cdi: is a folder; give the files in it",
        "god.cdi: no such file; did you mean 'good.cdi'?",
    ]
    for line, start in zip(err.splitlines(), expected, strict=True):
        assert line.startswith(f"cdinfer decode: {start}")
    assert [p.name for p in Path("out").iterdir()] == ["good.png"]


def test_every_changed_bit_and_every_truncation_is_an_error(codec: CAE, capsys: Capture) -> None:
    data = write(codec, "x.cdi")
    spoilt = [data[:length] for length in range(len(data))]
    for place in range(8 * len(data)):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        spoilt.append(bytes(changed))
    for index, file in enumerate(spoilt):
        Path(f"{index}.cdi").write_bytes(file)
    assert decode(*(f"{index}.cdi" for index in range(len(spoilt))), "-o", "out") == 1
    out, err = capsys.readouterr()
    assert out == ""
    for index, line in enumerate(err.splitlines()):
        assert line.startswith(f"cdinfer decode: {index}.cdi: ")
    assert len(err.splitlines()) == len(spoilt)
    assert not Path("out").exists()


@pytest.mark.parametrize("side", [20_000, 60_000, 70_000])
def test_absurd_sizes_are_refused_before_memory_is_taken(
    codec: CAE, side: int, capsys: Capture
) -> None:
    data = write(codec, "x.cdi")
    short = (
        struct.pack("<HH", side, side) if side < 2**16 else struct.pack("<HHII", 0, 0, side, side)
    )
    Path("x.cdi").write_bytes(data[:12] + short + data[16:])
    assert decode("x.cdi") == 1
    line = fault(capsys)
    assert line.startswith("cdinfer decode: x.cdi: ")
    reason = "cannot fit in a payload" if side == 20_000 else f"--max-pixels {side * side}"
    assert reason in line
    assert decode("x.cdi", "--max-pixels", side * side) == 1
    assert "cannot fit in a payload" in fault(capsys)


def test_the_limit_on_pixels_can_be_lowered(codec: CAE, capsys: Capture) -> None:
    write(codec, "x.cdi", 17, 9)
    assert decode("x.cdi", "--max-pixels", 152) == 1
    assert "allow it with --max-pixels 153" in fault(capsys)
    assert decode("x.cdi", "--max-pixels", 153) == 0


def test_a_damaged_codec_is_one_line(codec: CAE, capsys: Capture) -> None:
    write(codec, "x.cdi")
    with Path("runs/codec/version_0/codec/encoder.safetensors").open("r+b") as file:
        file.truncate(1000)
    assert decode("x.cdi") == 1
    assert "damaged codec in runs/codec/version_0/codec" in fault(capsys)
