import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from cdinfer.codecs import load_codec, save_codec
from cdinfer.codecs.classical import STANDARDS
from cdinfer.studies import rd_points
from cdinfer.studies.rd_points import TRANSCODE, default_names, find_points
from tests.conftest import random_codec

Pictures = list[npt.NDArray[np.uint8]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in its own empty folder, with nothing shipped."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rd_points, "shipped_codecs", list)


@pytest.mark.parametrize("name", STANDARDS)
def test_standard_codecs_have_a_point_for_each_level_of_their_grid(name: str) -> None:
    points = find_points([name])
    assert [point.codec.level for point in points] == list(STANDARDS[name].grid)
    assert len({json.dumps(point.settings) for point in points}) == len(points)
    assert {(point.curve, point.learned) for point in points} == {(name, False)}


def test_the_transcode_is_one_point_without_a_codec() -> None:
    (point,) = find_points([TRANSCODE])
    assert (point.curve, point.setting, point.codec) == ("jxl-transcode", "lossless", None)


def test_codecs_come_in_the_order_given_each_once() -> None:
    points = find_points(["webp", "jpeg", "webp"])
    assert list(dict.fromkeys(point.curve for point in points)) == ["webp", "jpeg"]
    assert len(points) == len(STANDARDS["webp"].grid) + len(STANDARDS["jpeg"].grid)


@pytest.mark.parametrize(
    "name", ["runs/codec", "runs/codec/version_0", "runs/codec/version_0/codec"]
)
def test_a_run_is_one_point_named_by_its_path(tiny_codec: Path, name: str) -> None:
    shutil.copytree(tiny_codec, "runs/codec/version_0/codec")
    (point,) = find_points([name])
    assert (point.curve, point.setting, point.learned) == (name, "0.33 bpp", True)
    assert point.settings["stream"] == f"{load_codec(str(tiny_codec)).stream:08x}"
    assert json.loads(json.dumps(point.settings)) == point.settings


def test_a_folder_of_codecs_is_a_curve(tiny_codec: Path) -> None:
    for place in ("cae-0.33", "other"):
        shutil.copytree(tiny_codec, f"weights/{place}")
    points = find_points(["weights"])
    assert [point.curve for point in points] == ["weights cae"] * 2


def test_a_name_stands_for_shipped_rates_and_then_for_runs(
    tiny_codec: Path, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = random_codec(3, pictures)
    save_codec(newer, Path("runs/codec/version_0/codec"), {})
    (point,) = find_points(["cae"])
    assert (point.curve, point.codec.stream) == ("cae", newer.stream)
    monkeypatch.setattr(rd_points, "shipped_codecs", lambda: [tiny_codec])
    (point,) = find_points(["cae"])
    assert point.codec.stream == load_codec(str(tiny_codec)).stream
    assert default_names() == [*STANDARDS, TRANSCODE, "cae"]


def test_anything_changed_in_a_codec_changes_its_settings(
    tiny_codec: Path, other_codec: Path
) -> None:
    folder = Path(shutil.copytree(tiny_codec, "codec"))
    (before,), (other,) = find_points(["codec"]), find_points([str(other_codec)])
    assert find_points(["codec"])[0].settings == before.settings != other.settings
    meta = json.loads((folder / "codec.json").read_text())
    (folder / "codec.json").write_text(json.dumps(meta | {"card": {"decoder": "retrained"}}))
    (after,) = find_points(["codec"])
    assert after.settings != before.settings
    assert after.settings["stream"] == before.settings["stream"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "jpge",
            r"no codec 'jpge'; did you mean 'jpeg'\? \(a codec of your own: give its folder\)",
        ),
        ("jpeg200", "did you mean 'jpeg2000'"),
        ("xyzzy", "known: jpeg, jpeg-444, .*, jxl-transcode, cae"),
        ("cae", "no trained cae, neither shipped nor under runs/: run cdinfer train --task codec"),
        (".", "no trained codec in ."),
    ],
)
def test_unknown_codecs_are_refused_with_a_remedy(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_points(["jpeg", name])
