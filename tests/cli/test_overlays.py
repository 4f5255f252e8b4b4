import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdinfer.__main__ import main
from cdinfer.cli.overlays import MaskWriter
from cdinfer.codecs import read_codec
from cdinfer.data.images import read_image, to_tensor
from cdinfer.runs import Segmentation, Source, load_run
from tests.conftest import draw
from tests.runs.make import CLASSES, PALETTE

Capture = pytest.CaptureFixture[str]
Rows = tuple[int, list[dict[str, object]], list[str]]


@pytest.fixture
def folder(tiny_codec: Path, tmp_path: Path) -> Path:
    """``a/1.cdi``, ``b/1.cdi`` (48 x 64, 16 x 16) and ``b/2.png`` (41 x 23)."""
    codec = read_codec(tiny_codec)
    for place, size in (("a/1.cdi", (48, 64)), ("b/1.cdi", (16, 16))):
        path = tmp_path / "in" / place
        path.parent.mkdir(parents=True)
        path.write_bytes(codec.compress(to_tensor(draw(*size, 0))[None])[0])
    Image.fromarray(draw(41, 23, 1)).save(tmp_path / "in" / "b" / "2.png")
    return tmp_path / "in"


@pytest.fixture
def predict(segmenter_run: Path, capsys: Capture) -> Callable[..., Rows]:
    """Return what ``cdinfer predict RUN ARGS`` answers: status, rows and errors."""

    def run(*args: object) -> Rows:
        capsys.readouterr()
        status = main(["predict", str(segmenter_run), *map(str, args)])
        out, err = capsys.readouterr()
        return status, [json.loads(line) for line in out.splitlines()], err.splitlines()

    return run


def written(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_rows_name_classes_and_their_shares_of_the_pixels(
    predict: Callable[..., Rows], folder: Path
) -> None:
    status, rows, errors = predict(folder)
    assert (status, errors) == (0, [])
    assert [row["file"] for row in rows] == [
        str(folder / p) for p in ("a/1.cdi", "b/1.cdi", "b/2.png")
    ]
    assert [(row["height"], row["width"]) for row in rows] == [(48, 64), (16, 16), (41, 23)]
    for row in rows:
        assert list(row) == ["file", "classes", "height", "width"]
        shares = row["classes"]
        assert isinstance(shares, dict)
        assert set(shares) <= set(CLASSES)
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)


def test_a_folder_gets_masks_overlays_and_a_contact_sheet(
    predict: Callable[..., Rows], folder: Path, segmenter_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    status, rows, errors = predict(folder, "--save", out)
    assert (status, errors) == (0, [])
    places = ["a/1", "b/1", "b/2"]
    names = [f"{place}{end}" for place in places for end in (".overlay.jpg", ".png")]
    assert written(out) == sorted([*names, "contact.png"])
    assert [row["mask"] for row in rows] == [str(out / f"{place}.png") for place in places]
    for row, result in zip(rows, load_run(segmenter_run).predict([folder]), strict=True):
        with Image.open(str(row["mask"])) as mask:
            assert mask.mode == "P"
            assert np.array_equal(np.array(mask), result.mask)
            colours = np.array(mask.convert("RGB"))
        assert np.array_equal(colours, np.array(PALETTE, np.uint8)[result.mask])
        with Image.open(str(row["mask"]).replace(".png", ".overlay.jpg")) as overlay:
            pixels = np.array(overlay).astype(int)
        half = (result.picture().astype(int) + colours) / 2
        assert pixels.shape == half.shape
        assert np.abs(pixels - half).mean() < 8  # JPEG
    with Image.open(out / "contact.png") as sheet:
        assert sheet.mode == "RGB"
        seen = {tuple(colour) for colour in np.array(sheet).reshape(-1, 3).tolist()}
    present = {name for row in rows for name in row["classes"]}
    assert {tuple(PALETTE[CLASSES.index(name)]) for name in present} <= seen


def test_a_single_input_gets_a_file_and_no_contact_sheet(
    predict: Callable[..., Rows], folder: Path, tmp_path: Path
) -> None:
    status, rows, _ = predict(folder / "a" / "1.cdi", "--save", tmp_path / "out" / "road.png")
    assert status == 0
    assert rows[0]["mask"] == str(tmp_path / "out" / "road.png")
    assert written(tmp_path / "out") == ["road.overlay.jpg", "road.png"]
    assert predict(folder / "a" / "1.cdi", "--save", f"{tmp_path / 'there'}/")[0] == 0
    assert written(tmp_path / "there") == ["1.overlay.jpg", "1.png"]


def test_files_that_are_there_are_replaced_only_if_that_is_said(
    predict: Callable[..., Rows], folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "b").mkdir(parents=True)
    (out / "b" / "2.overlay.jpg").write_text("mine")
    status, rows, errors = predict(folder, "--save", out)
    assert status == 2
    assert [row["file"] for row in rows] == [str(folder / "a/1.cdi"), str(folder / "b/1.cdi")]
    (line,) = errors
    assert line.startswith(f"cdinfer predict: {folder / 'b/2.png'}: ")
    assert line.endswith("exists; replace it with --overwrite, or give another --save OUT")
    assert (out / "b" / "2.overlay.jpg").read_text() == "mine"
    status, rows, errors = predict(folder, "--save", out)  # the contact sheet is there, too
    assert (status, rows) == (2, [])
    assert f"{out / 'contact.png'} exists; replace it with --overwrite" in errors[0]
    assert predict(folder, "--save", out, "--overwrite")[0] == 0
    with Image.open(out / "b" / "2.overlay.jpg") as overlay:
        assert overlay.size == (23, 41)


@pytest.mark.parametrize(
    ("inputs", "out", "message"),
    [
        (["a/1.cdi", "b/1.cdi"], "out", "would both become out/1.png; rename one, or give each"),
        (
            ["a/1.cdi"],
            "mask.jpg",
            "expected a file ending in .png, got --save mask.jpg; give --save",
        ),
        (["a/1.cdi", "b/2.png"], "taken", "--save taken is a file: several pictures need a folder"),
        (["contact.png"], "out/", None),
        ([".", "b/2.png"], "out", "would be written over the contact sheet out/contact.png"),
    ],
)
def test_masks_are_never_written_over_each_other(
    inputs: list[str], out: str, message: str | None, folder: Path,
    predict: Callable[..., Rows], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    if "." in inputs:
        (folder / "a" / "1.cdi").rename(folder / "c.cdi")
        (folder / "b" / "2.png").rename(folder / "b" / "3.png")
    Image.fromarray(draw(16, 16, 0)).save("contact.png")
    (folder / "taken").write_text("")
    status, rows, errors = predict(*inputs, "--save", out)
    if message is None:  # one input, no contact sheet
        assert (status, len(rows)) == (0, 1)
        return
    assert (status, rows) == (2, [])
    assert message in errors[0]
    assert not Path("out").exists()


def test_inputs_that_cannot_be_read_are_left_out_of_the_sheet(
    predict: Callable[..., Rows], folder: Path, other_codec: Path, tmp_path: Path
) -> None:
    foreign = folder / "b" / "foreign.cdi"
    foreign.write_bytes(read_codec(other_codec).compress(to_tensor(draw(48, 64, 0))[None])[0])
    (folder / "b" / "text.png").write_text("no picture")
    status, rows, errors = predict(folder, tmp_path / "missing.cdi", "--save", tmp_path / "out")
    assert (status, len(rows)) == (2, 3)
    assert len(errors) == 3
    assert "wrong stream" in errors[0]
    assert all(line.startswith("cdinfer predict: ") for line in errors)
    assert len(written(tmp_path / "out")) == 2 * 3 + 1


def test_forty_rows_fill_a_page(
    predict: Callable[..., Rows], tmp_path: Path, tiny_codec: Path
) -> None:
    (tmp_path / "in").mkdir()
    data = read_codec(tiny_codec).compress(to_tensor(draw(16, 16, 0))[None])[0]
    for number in range(41):
        (tmp_path / "in" / f"{number}.cdi").write_bytes(data)
    assert predict(tmp_path / "in", "--save", tmp_path / "out")[0] == 0
    sheets = [name for name in written(tmp_path / "out") if name.startswith("contact")]
    assert sheets == ["contact-2.png", "contact.png"]
    heights = [read_image(tmp_path / "out" / name).shape[0] for name in sheets]
    assert heights[1] - heights[0] == 39 * (20 + 16 + 8)


def test_a_set_cannot_name_places_outside_of_out(tmp_path: Path) -> None:
    for place in (Path("../x.png"), Path("/x.png"), Path("a/../../x")):
        source = Source("set/x", place, lambda: pytest.fail("read"))
        with pytest.raises(ValueError, match="set/x would be written outside of"):
            MaskWriter(str(tmp_path), [source], True, False, CLASSES, PALETTE)


def test_nothing_is_half_written_when_the_picture_is_gone(tmp_path: Path) -> None:
    def gone() -> np.ndarray:
        raise FileNotFoundError(2, "No such file", "x.png")

    source = Source("x.png", Path("x.png"), lambda: pytest.fail("read"))
    writer = MaskWriter(f"{tmp_path}/out/", [source], False, False, CLASSES, PALETTE)
    with pytest.raises(FileNotFoundError):
        writer.write(Segmentation("x.png", np.zeros((4, 4), np.uint8), {"road": 1.0}, gone))
    assert written(tmp_path) == []


def test_a_classifier_saves_no_masks(
    classifier_run: Path, folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["predict", str(classifier_run), str(folder), "--save", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"cdinfer predict: {classifier_run} is a classifier, which makes no masks: leave out --save"
    )
    assert main(["predict", str(classifier_run), str(folder), "--overwrite"]) == 2
    assert "--overwrite is about the files of --save OUT" in capsys.readouterr().err
