import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from cdinfer.cli.configs import folder
from cdinfer.studies.cells import with_needs
from tools.experiments.__main__ import choose, main
from tools.experiments.arms import TABLES, plan

ROOT = Path(__file__).parents[3]

EVERY = [(name, preset) for name, table in TABLES.items() for preset in table.presets]


@pytest.mark.parametrize(("name", "preset"), EVERY)
def test_every_table_has_cells_of_their_own_name_that_need_only_each_other(
    name: str, preset: str
) -> None:
    required, everything = plan(name, preset, [0, 1])
    names = [cell.name for cell in everything]
    assert len(set(names)) == len(names)
    before: set[str] = set()
    for cell in with_needs(required, everything):
        assert set(cell.needs) <= before, "cells stand before those that need them"
        before.add(cell.name)
    for cell in everything:
        assert (cell.about["table"], cell.about["preset"]) == (name, preset)


def test_the_required_trainings_are_those_of_the_issue() -> None:
    for name in ("rsscn7", "camvid"):
        required, _ = plan(name, "cpu", range(5))
        arms = {(cell.about["arm"], cell.about["bpp"]) for cell in required}
        both = {(arm, rate) for arm in ("latents", "decoded", "patch") for rate in (0.0983, 0.33)}
        assert arms == both | {("original", None), ("webp", 0.33)}
        assert len(required) == 40


def test_arms_differ_in_what_they_read_and_in_nothing_else() -> None:
    _, everything = plan("rsscn7", "cpu", [3])
    trainings = [cell.commands[0] for cell in everything if "arm" in cell.about]
    options = ("--data.crop", "--trainer.max_epochs", "--trainer.precision", "--data.seed")
    for option in options:
        assert len({line[line.index(option) + 1] for line in trainings}) == 1, option
    widths = {a for line in trainings for w, a in pairwise(line) if w.endswith(".width")}
    assert widths == {"0.25"}


def test_every_overlay_is_there() -> None:
    for name, preset in EVERY:
        for cell in plan(name, preset, [0])[1]:
            for line in cell.commands:
                if "--config" in line:
                    assert (folder() / f"{line[line.index('--config') + 1]}.yaml").is_file()


def test_cells_are_chosen_by_pattern_with_what_they_need() -> None:
    names = [cell.name for cell in choose("rsscn7", "cpu", "2,4", ["webp-0.635-*"])]
    assert names == ["set-0.635", "as-webp-0.635", "webp-0.635-2", "webp-0.635-4"]


@pytest.mark.parametrize(
    ("flags", "remedy"),
    [
        (["--preset", "tpu"], "no preset 'tpu' of rsscn7: give one of cpu, gpu"),
        (["--seeds", "1,x"], "expected seeds as 0,1,2, got --seeds 1,x"),
        (["--only", "latent-*"], "no cell is called 'latent-*'"),
        (["--jobs", "0"], "expected --jobs of at least 1, got 0"),
    ],
)
def test_mistakes_are_one_line(
    flags: list[str], remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "rsscn7", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("run: ")
    assert remedy in line


def test_a_plan_needs_no_torch_and_makes_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from tools.experiments.__main__ import main; "
        f"main(['run', 'rsscn7', '--dry-run', '--out', {str(tmp_path / 'out')!r}]); "
        "sys.exit('torch' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "CDINFER_TEST_DATA": "nowhere"},
    ).stdout  # fmt: skip
    assert re.search(r"\| original +\| [0-5] of 5 \|", said)
    assert re.search(r"\d+ of 45 cells to do: about", said)
    assert not (tmp_path / "out").exists()
