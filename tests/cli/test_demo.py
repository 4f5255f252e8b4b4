import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from cdinfer.__main__ import main
from cdinfer.cli.demo import Budget, plan, show, tell
from cdinfer.codecs import load_codec
from cdinfer.data.images import find_images, read_image, to_tensor
from cdinfer.runs import load_run
from cdinfer.studies.demo import Places
from tests.conftest import draw

CLASSES = ("arcs", "bars", "cups")


class Told(NamedTuple):
    """A demo of a few steps on few pictures: where, what it said and returned."""

    home: Path
    budget: Budget
    said: str
    result: dict[str, Any]

    @property
    def out(self) -> Path:
        return self.home / "runs" / "demo"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    home = tmp_path_factory.mktemp("home")
    seed = 0
    for split, count in {"train": 4, "val": 1, "test": 2}.items():
        for label in CLASSES:
            (home / "pictures" / split / label).mkdir(parents=True)
            for number in range(count):
                picture = Image.fromarray(draw(64, 64, seed)).convert("L")
                picture.save(home / "pictures" / split / label / f"{number}.png")
                seed += 1
    budget = Budget(network_steps=1, pictures=home / "pictures")
    said: list[str] = []
    result = tell(home / "runs" / "demo", said.append, budget)
    return Told(home, budget, "\n".join(said), result)


def test_a_demo_leaves_table_picture_and_figures(told: Told) -> None:
    table = (told.out / "table.md").read_text("utf-8")
    assert table.strip() in told.said
    assert json.loads((told.out / "demo.json").read_text("utf-8")) == told.result
    with Image.open(told.out / "picture.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300
    assert told.result["classes"] == list(CLASSES)
    assert [step["kept"] for step in told.result["steps"].values()] == [False] * 3


def test_bytes_are_those_on_disk(told: Told) -> None:
    rows = {row["stored_as"]: row["bytes"] for row in told.result["storage"]}

    def mean(folder: Path, *patterns: str) -> float:
        files = [path for pattern in patterns for path in folder.rglob(pattern)]
        return sum(path.stat().st_size for path in files) / 21

    shards = told.out / "data" / "shards"
    assert rows["PNG, grey: the originals"] == pytest.approx(
        mean(told.home / "pictures", "*.png"), abs=0.1
    )
    assert rows[".cdi files"] == pytest.approx(mean(told.out / "data" / "cdi", "*.cdi"), abs=0.1)
    assert rows["shards, all their bytes"] == pytest.approx(
        mean(shards, "*.tar", "index.json"), abs=0.1
    )
    assert rows[".cdi files"] - rows[".cdi without headers"] == pytest.approx(22, abs=0.1)


def test_files_taken_out_of_shards_are_those_the_codec_writes(told: Told) -> None:
    codec = load_codec("cae", 0.33)
    pictures = find_images(told.home / "pictures")
    assert len(pictures) == 21
    files = codec.compress(torch.stack([to_tensor(read_image(path)) for path in pictures]))
    for path, file in zip(pictures, files, strict=True):
        key = path.relative_to(told.home / "pictures").with_suffix(".cdi")
        assert (told.out / "data" / "cdi" / key).read_bytes() == file


def test_networks_predict_from_their_own_runs(told: Told) -> None:
    for name, folder, row in zip(
        ("latents", "originals"),
        (told.out / "data" / "cdi" / "test", told.home / "pictures" / "test"),
        told.result["networks"],
        strict=True,
    ):
        predictions = list(load_run(told.out / name).predict([folder]))
        right = [p.name == Path(p.file).parent.name for p in predictions]
        assert row["top1"] == np.mean(right)
    first, second = told.result["networks"]
    assert (first["reads"], second["reads"]) == (".cdi files", ".png files")
    assert first["macs"] == pytest.approx(second["macs"], rel=0.05)


def test_a_second_demo_keeps_what_the_first_trained(told: Told) -> None:
    made = {
        path: path.stat().st_mtime_ns
        for name in ("data", "latents", "originals")
        for path in (told.out / name).rglob("*")
    }
    said: list[str] = []
    result = tell(told.out, said.append, told.budget)
    assert [step["kept"] for step in result["steps"].values()] == [True] * 3
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert "\n".join(said).count("kept from an earlier run") == 3
    assert result["storage"] == told.result["storage"]


def test_shown_commands_are_the_ones_that_run(told: Told) -> None:
    out = Path("runs/my demo")
    names = ("data/shards", "data/cdi", "latents", "originals")
    places = Places(told.home / "pictures", *(out / name for name in names))
    for step in plan(places, Budget()):
        text = show(step.command)
        assert max(map(len, text.splitlines())) <= 100 + len(str(told.home))
        shell = f'cdinfer() {{ printf "%s\\n" "$@"; }}; {text.replace("$ cdinfer", "cdinfer", 1)}'
        words = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
        assert words.stdout.splitlines() == step.command


def test_something_in_the_way_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine").touch()
    assert main(["demo", "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"cdinfer demo: '{tmp_path / 'data'}' is in the way")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["mine"]


def start(home: Path, *flags: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "cdinfer", "demo", *flags]
    environment = os.environ | {"CDINFER_CACHE": str(home / "cache")}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=home, env=environment, stdout=pipe, stderr=pipe, text=True)


def wait_for(condition: Callable[[], object], child: "subprocess.Popen[str]") -> None:
    while not condition():
        assert child.poll() is None, child.communicate()
        time.sleep(0.05)


@pytest.mark.slow
def test_the_demo_as_a_newcomer_meets_it(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "demo"

    child = start(tmp_path)
    wait_for(lambda: (out / "data" / "shards" / "index.json").exists(), child)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate()
    assert (child.returncode, errors) == (130, "cdinfer demo: interrupted\n")

    child = start(tmp_path)
    wait_for(lambda: (out / "latents" / "version_0" / "metrics.csv").exists(), child)
    child.kill()
    child.communicate()
    shards = (out / "data" / "shards" / "index.json").stat().st_mtime_ns

    child = start(tmp_path)
    said, errors = child.communicate()
    assert (child.returncode, errors) == (0, "")
    assert (out / "data" / "shards" / "index.json").stat().st_mtime_ns == shards
    assert said.count("kept from an earlier run") == 1
    assert "cdinfer predict runs/demo/latents runs/demo/data/cdi/test" in said
    result = json.loads((out / "demo.json").read_text("utf-8"))
    check_figures(result)

    child = start(tmp_path, "--json")
    said, errors = child.communicate()
    assert (child.returncode, errors, len(said.splitlines())) == (0, "", 1)
    again = json.loads(said)
    assert all(step["kept"] for step in again["steps"].values())
    assert again["storage"] == result["storage"]


def check_figures(result: dict[str, Any]) -> None:
    rows = {row["stored_as"]: row for row in result["storage"]}
    (jpeg,) = (row for name, row in rows.items() if name.startswith("JPEG, grey, quality"))
    ours, shards = rows[".cdi files"], rows["shards, all their bytes"]
    assert 0.2 < ours["bpp"] < 0.5  # the nominal rate is that of photographs
    assert (
        shards["bytes"] < ours["bytes"] < jpeg["bytes"] < rows["PNG, grey: the originals"]["bytes"]
    )
    assert jpeg["psnr"] >= ours["psnr"] > 20
    latents, originals = result["networks"]
    assert 0.80 <= originals["top1"] <= 0.97
    assert latents["top1"] >= originals["top1"] - 0.12
