import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cdinfer.__main__ import main
from cdinfer.bitstream import parse
from cdinfer.codecs import load_codec, read_codec
from cdinfer.data.images import read_image, to_tensor
from tests.conftest import draw

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in its own empty folder, without ``runs/``."""
    monkeypatch.chdir(tmp_path)


def paint(name: str, height: int = 17, width: int = 9) -> Path:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw(height, width, 0)).save(name)
    return Path(name)


def encode(codec: Path, *args: object) -> int:
    return main(["encode", "--codec", str(codec), *map(str, args)])


def names(folder: str = ".") -> list[str]:
    """Return all files below a folder, hidden ones too."""
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


# What is written, and where


def test_the_file_holds_the_symbols_of_the_picture(tiny_codec: Path, capsys: Capture) -> None:
    path = paint("photo.png", 480, 353)
    assert encode(tiny_codec, "photo.png", "--json") == 0
    data = Path("photo.cdi").read_bytes()
    codec = read_codec(tiny_codec)
    x = to_tensor(read_image(path))[None]
    assert torch.equal(codec.unpack([data])["y"], codec.symbols(x))
    assert json.loads(capsys.readouterr().out) == {
        "file": "photo.cdi",
        "codec": "CAE_",
        "bpp": 8 * len(data) / (480 * 353),
        "height": 480,
        "width": 353,
        "bytes": len(data),
    }


def test_channels_are_cut_into_the_groups_asked_for(tiny_codec: Path, capsys: Capture) -> None:
    paint("photo.png", 48, 64)
    assert encode(tiny_codec, "photo.png", "--groups", "4,12") == 0
    assert parse(Path("photo.cdi").read_bytes()).header.groups == (4, 12)
    assert encode(tiny_codec, "photo.png", "--groups", "4,4", "-o", "other.cdi") != 0
    assert "expected channel groups that sum to 16 channels, got (4, 4)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        encode(tiny_codec, "photo.png", "--groups", "4,-4")
    assert "expected numbers of channels such as 4,12" in capsys.readouterr().err
    assert encode(tiny_codec, "photo.png", "--groups", "4,12", "--min-psnr", "20") == 2


def test_people_get_a_line_a_picture(tiny_codec: Path, capsys: Capture) -> None:
    paint("photo.png", 16, 24)
    assert encode(tiny_codec, "photo.png") == 0
    size = Path("photo.cdi").stat().st_size
    bpp = f"{8 * size / (16 * 24):.4g}"
    line = f"photo.png -> photo.cdi: {size} bytes, {bpp} bpp, 24 x 16\n"
    assert capsys.readouterr().out == line


def test_a_picture_of_one_pixel_can_be_encoded(tiny_codec: Path) -> None:
    paint("dot.png", 1, 1)
    assert encode(tiny_codec, "dot.png") == 0
    header = parse(Path("dot.cdi").read_bytes()).header
    assert (header.height, header.width) == (1, 1)


def test_the_shipped_codec_is_the_default() -> None:
    paint("photo.png")
    assert main(["encode", "photo.png"]) == 0
    header = parse(Path("photo.cdi").read_bytes()).header
    assert header.stream == load_codec("cae", 0.33).stream


@pytest.mark.parametrize(
    ("out", "written"),
    [
        ("small.cdi", "small.cdi"),
        ("new/deep/small.CDI", "new/deep/small.CDI"),
        ("new/", "new/photo.cdi"),
        ("there", "there/photo.cdi"),
    ],
)
def test_out_is_a_file_for_one_picture_or_a_folder(
    tiny_codec: Path, out: str, written: str
) -> None:
    paint("photo.png")
    Path("there").mkdir()
    assert encode(tiny_codec, "photo.png", "-o", out) == 0
    assert names() == sorted([written, "photo.png"])


def test_a_folder_stands_for_its_pictures_and_keeps_their_places(
    tiny_codec: Path, picture_folder: Path, capsys: Capture
) -> None:
    assert encode(tiny_codec, picture_folder, "-o", "small") == 0
    assert names("small") == ["a/0.cdi", "a/1.cdi", "b/2.cdi", "b/3.cdi"]
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert encode(tiny_codec, picture_folder) == 0
    assert (picture_folder / "b/2.cdi").read_bytes() == Path("small/b/2.cdi").read_bytes()


# What is refused


def test_nothing_is_replaced_unless_asked_for(tiny_codec: Path, capsys: Capture) -> None:
    paint("photo.png")
    Path("photo.cdi").write_text("mine")
    assert encode(tiny_codec, "photo.png") == 1
    assert capsys.readouterr().err == (
        "cdinfer encode: photo.png: photo.cdi exists; replace it with --overwrite, or give "
        "another -o OUT\n"
    )
    assert Path("photo.cdi").read_text() == "mine"
    assert encode(tiny_codec, "photo.png", "--overwrite") == 0
    assert parse(Path("photo.cdi").read_bytes()).header.width == 9


def test_a_picture_named_like_its_output_is_safe(tiny_codec: Path, capsys: Capture) -> None:
    paint("photo.png").rename("photo.cdi")
    assert encode(tiny_codec, "photo.cdi", "--overwrite") == 1
    assert "would be replaced by what is made of it" in capsys.readouterr().err
    assert read_image("photo.cdi").shape == (17, 9, 3)


@pytest.mark.parametrize("out", [[], ["-o", "new"]])
def test_two_pictures_for_one_file_are_refused_before_any_work(
    tiny_codec: Path, out: list[str], capsys: Capture
) -> None:
    for name in ("a.png", "photo.png", "photo.bmp"):
        paint(name)
    assert encode(tiny_codec, "a.png", "photo.png", "photo.bmp", *out) == 2
    error = capsys.readouterr().err
    assert error.startswith("cdinfer encode: photo.png and photo.bmp would both become ")
    assert error.endswith("rename one, or give each its own -o OUT, one at a time\n")
    assert names() == ["a.png", "photo.bmp", "photo.png"]


def test_several_pictures_need_a_folder(tiny_codec: Path, capsys: Capture) -> None:
    for name in ("a.png", "b.png"):
        paint(name)
    Path("taken.cdi").touch()
    assert encode(tiny_codec, "a.png", "b.png", "-o", "taken.cdi") == 2
    assert "-o taken.cdi is a file: several pictures need a folder" in capsys.readouterr().err


def test_out_that_is_neither_cdi_nor_folder_is_refused(tiny_codec: Path, capsys: Capture) -> None:
    paint("photo.png")
    assert encode(tiny_codec, "photo.png", "-o", "small.jpg") == 2
    assert capsys.readouterr().err == (
        "cdinfer encode: expected a file ending in .cdi, got -o small.jpg; give -o small.cdi, "
        "or -o small.jpg/ for a folder\n"
    )


def test_a_pipe_is_not_replaced(tiny_codec: Path, capsys: Capture) -> None:
    paint("photo.png")
    os.mkfifo("pipe.cdi")
    assert encode(tiny_codec, "photo.png", "-o", "pipe.cdi", "--overwrite") == 1
    assert "pipe.cdi is not a file; give another -o OUT" in capsys.readouterr().err
    assert Path("pipe.cdi").is_fifo()


def test_bad_pictures_are_named_and_the_rest_is_done(tiny_codec: Path, capsys: Capture) -> None:
    paint("good.png")
    whole = paint("whole.png", 48, 64).read_bytes()
    Path("cut.png").write_bytes(whole[: len(whole) // 2])
    Path("text.jpg").write_text("not a picture")
    Path("empty").mkdir()
    bad = ["cut.png", "text.jpg", "god.png", "empty", "/dev/zero"]
    assert encode(tiny_codec, *bad, "good.png", "-o", "out") == 1
    out, err = capsys.readouterr()
    assert out.startswith("good.png -> out/good.cdi: ")
    expected = [
        "cut.png: cannot be read (",
        "text.jpg: cannot be read (no picture in it); expected a whole",
        "god.png: no such file; did you mean 'good.png'?",
        "empty: no pictures in this folder: expected files ending in .avif .bmp",
        "/dev/zero: is a device or a pipe; give a file",
    ]
    for line, start in zip(err.splitlines(), expected, strict=True):
        assert line.startswith(f"cdinfer encode: {start}")
    assert names("out") == ["good.cdi"]


def test_a_picture_above_the_limit_names_the_flag(tiny_codec: Path, capsys: Capture) -> None:
    paint("photo.png", 17, 9)
    assert encode(tiny_codec, "photo.png", "--max-pixels", "152") == 1
    assert "give --max-pixels 153 if you trust it" in capsys.readouterr().err
    assert encode(tiny_codec, "photo.png", "--max-pixels", "153") == 0


@pytest.mark.parametrize("number", ["0", "-1", "many", "1.5"])
def test_a_limit_that_is_no_number_of_pixels_is_refused(number: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["encode", "photo.png", f"--max-pixels={number}"])
    assert f"expected a whole number of pixels, got '{number}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--codec", "cae-paper"], "no trained cae-paper at 0.33 bpp: run cdinfer train"),
        (["--bpp", "0.4"], "use --bpp 0.33"),
        (["--codec", "cea"], "no codec 'cea': expected a name (cae, "),
    ],
)
def test_without_its_codec_nothing_is_done(flags: list[str], message: str, capsys: Capture) -> None:
    paint("photo.png")
    assert main(["encode", "photo.png", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert names() == ["photo.png"]


def test_a_rate_that_is_not_the_codecs_names_the_flag(tiny_codec: Path, capsys: Capture) -> None:
    assert encode(tiny_codec, paint("photo.png"), "--bpp", "0.635") == 2
    assert "give --bpp 0.33, or another --codec" in capsys.readouterr().err


# The machine's faults


@contextmanager
def limited(kind: int, most: int) -> Iterator[None]:
    """Let this process have no more of something than ``most`` for a while."""
    before, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (before, hard))


def test_a_full_disk_leaves_nothing_half_written(tiny_codec: Path, capsys: Capture) -> None:
    paint("large.png", 64, 64)
    paint("small.png", 8, 8)
    with limited(resource.RLIMIT_FSIZE, 100):
        assert encode(tiny_codec, "large.png", "small.png") == 1
    assert capsys.readouterr().err == (
        "cdinfer encode: large.png: cannot write large.cdi (File too large); free space there, or "
        "give another -o OUT\n"
    )
    assert names() == ["large.png", "small.cdi", "small.png"]
    assert parse(Path("small.cdi").read_bytes()).header.width == 8


def test_too_little_memory_is_one_line(tiny_codec: Path, capsys: Capture) -> None:
    Image.fromarray(np.zeros((3000, 3000, 3), np.uint8)).save("large.png")
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    with limited(resource.RLIMIT_AS, now + 2**25):
        assert encode(tiny_codec, "large.png") == 1
    assert capsys.readouterr().err == (
        "cdinfer encode: large.png: not enough memory for a picture of this size; crop it, or "
        "use a larger machine\n"
    )
    assert names() == ["large.png"]


def test_coding_needs_neither_lightning_nor_torchvision(tiny_codec: Path) -> None:
    paint("photo.png")
    code = (
        "import sys; from cdinfer.__main__ import main\n"
        f"codec = ['--codec', {str(tiny_codec)!r}]\n"
        "print(main(['encode', 'photo.png', *codec]))\n"
        "print(main(['decode', 'photo.cdi', '-o', 'back.png', *codec]))\n"
        "print(*sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    _, encoded, _, decoded, modules = ran.stdout.splitlines()
    assert (encoded, decoded) == ("0", "0")
    assert "torch" in modules.split()
    unwanted = {"pytorch_lightning", "lightning", "compressai", "torchvision", "torchmetrics"}
    assert not unwanted & set(modules.split())
