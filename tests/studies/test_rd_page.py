import base64
import csv
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdinfer.codecs.classical import compress_within
from cdinfer.data.images import read_image, to_tensor
from cdinfer.studies import rd, rd_crops, rd_page
from cdinfer.studies.rd_crops import CROP, Comparison
from cdinfer.studies.rd_points import Point, find_points
from tests.conftest import draw
from tests.studies.test_report import Page

NAME = "<b>&.png"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small picture, and one with all its detail at the bottom right."""
    folder = tmp_path_factory.mktemp("page") / "photos"
    folder.mkdir()
    Image.fromarray(draw(48, 64, 0)).save(folder / NAME)
    large = np.full((260, 300, 3), 90, np.uint8)
    large[230:, 280:] = np.random.default_rng(0).integers(0, 255, (30, 20, 3))
    Image.fromarray(large).save(folder / "large.png")
    return folder


@pytest.fixture(scope="module")
def points(tiny_codec: Path) -> list[Point]:
    return find_points([str(tiny_codec), "jpeg", "webp"])


@pytest.fixture(scope="module")
def comparisons(folder: Path, points: list[Point]) -> list[Comparison]:
    records = folder.parent / "out" / "records"
    rows = rd.run(folder, points, records)
    comparisons = rd_crops.compare(folder, rows, points, records)
    tables = rd_page.tabulate(rows, points, "jpeg")
    rd_page.write(folder.parent / "out", tables, points, comparisons, folder)
    return comparisons


@pytest.fixture(scope="module")
def out(folder: Path, comparisons: list[Comparison]) -> Path:
    return folder.parent / "out"


def pixels(image: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image))))


def test_standard_codecs_are_shown_in_at_most_our_bytes(
    folder: Path, tiny_codec: Path, comparisons: list[Comparison]
) -> None:
    assert {comparison.picture for comparison in comparisons} == {NAME, "large.png"}
    for comparison in comparisons:
        original, ours, *rivals = comparison.views
        assert (original["codec"], ours["codec"]) == ("original", str(tiny_codec))
        assert ours["bytes"] == comparison.num_bytes
        assert [view["codec"] for view in rivals] == ["jpeg", "webp"]
        x = to_tensor(read_image(folder / comparison.picture))[None]
        for view in rivals:
            found = compress_within(view["codec"], x, comparison.num_bytes)
            if found is None:
                assert (view["setting"], view["image"]) == ("needs more bytes than that", None)
                assert view["bytes"] > comparison.num_bytes
            else:
                codec, file = found
                assert (view["setting"], view["bytes"]) == (codec.setting, len(file))
                assert len(file) <= comparison.num_bytes
    assert any(view["image"] is None for c in comparisons for view in c.views)
    assert all(c.views[3]["image"] is not None for c in comparisons)


def test_crops_are_the_pixels_where_the_original_has_most_detail(
    folder: Path, comparisons: list[Comparison]
) -> None:
    for comparison in comparisons:
        picture = read_image(folder / comparison.picture)
        whole = comparison.picture == NAME
        place = np.s_[:, :] if whole else np.s_[32 : 32 + CROP, 64 : 64 + CROP]
        assert np.array_equal(pixels(comparison.views[0]["image"]), picture[place])
        shapes = {pixels(v["image"]).shape for v in comparison.views if v["image"] is not None}
        assert shapes == {picture[place].shape}


def test_crops_are_made_once(folder: Path, points: list[Point], out: Path) -> None:
    class Deaf:
        name = "deaf"

    rows = rd.run(folder, points, out / "records")
    before = {path: path.stat().st_mtime_ns for path in (out / "records").iterdir()}
    deaf = [point._replace(codec=Deaf()) if point.learned else point for point in points]
    again = rd_crops.compare(folder, rows, deaf, out / "records")
    assert [view["bytes"] for c in again for view in c.views[1:]]
    assert {path: path.stat().st_mtime_ns for path in (out / "records").iterdir()} == before


def test_without_a_learned_codec_the_first_curve_is_the_reference(
    folder: Path, points: list[Point], out: Path
) -> None:
    standard = [point for point in points if not point.learned]
    rows = rd.run(folder, standard, out / "records")
    comparisons = rd_crops.compare(folder, rows, standard, out / "records")
    assert len(comparisons) == 2 * rd_crops.RATES
    assert [view["codec"] for view in comparisons[0].views] == ["original", "jpeg", "webp"]
    settings = [comparison.views[1]["setting"] for comparison in comparisons]
    assert settings == ["q1", "q20", "q85"] * 2


def test_the_page_is_one_file_that_needs_nothing_else(out: Path) -> None:
    page = Page((out / "rd.html").read_text("utf-8"))
    urls = page.urls()
    assert all(url.startswith(("data:image/svg+xml;base64,", "data:image/webp;base64,"))
               for url in urls)  # fmt: skip
    assert sum(url.startswith("data:image/svg") for url in urls) == 2
    source = (out / "rd.html").read_text("utf-8")
    assert not [word for word in ("http:", "https:", "//cdn", "@import", "url(") if word in source]
    assert sum(attrs.get("type") == "range" for _, attrs in page.elements) == 1


def test_a_name_with_markup_is_shown_as_it_is(out: Path) -> None:
    page = Page((out / "rd.html").read_text("utf-8"))
    assert any(text.startswith(f"{NAME}: ") for text in page.text)
    assert NAME not in (out / "rd.html").read_text("utf-8")
    with (out / "pictures.csv").open(encoding="utf-8", newline="") as file:
        assert {row["picture"] for row in csv.DictReader(file)} == {NAME, "large.png"}


def test_all_tables_and_curves_are_left_behind(out: Path, tiny_codec: Path) -> None:
    names = {path.name for path in out.iterdir()}
    assert names == {"records", "rd.md", "rd.html", "psnr.svg", "ms_ssim.svg",
                     *(f"{name}.csv" for name in rd_page.TABLES)}  # fmt: skip
    counts = {}
    for name in rd_page.TABLES:
        with (out / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            counts[name] = len(list(csv.DictReader(file)))
    assert counts == {
        "pictures": 36,
        "means": 18,
        "equal_bytes": 2,
        "equal_rates": 10,
        "bd_rate": 2,
    }
    text = (out / "rd.md").read_text("utf-8")
    assert text.count("\n## ") + text.startswith("## ") == 4
    assert f"{tiny_codec} 0.33 bpp" in text


def test_a_study_of_nothing_learned_has_no_table_of_ours(
    folder: Path, tmp_path: Path, points: list[Point], out: Path
) -> None:
    standard = [point for point in points if not point.learned]
    shutil.copytree(out / "records", tmp_path / "records")
    rows = rd.run(folder, standard, tmp_path / "records")
    tables = rd_page.tabulate(rows, standard, "no such anchor")
    rd_page.write(tmp_path, tables, standard, [], folder)
    text = (tmp_path / "rd.md").read_text("utf-8")
    assert "## Ours" not in text
    assert "## Bits for the same quality" not in text
    assert "## Every setting" in text
    assert (tmp_path / "bd_rate.csv").read_text() == "\n"
