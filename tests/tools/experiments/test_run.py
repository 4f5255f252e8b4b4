import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.experiments import keep
from tools.experiments.summary import summarise

ROOT = Path(__file__).parents[3]

#: The command, with a table of pictures of 48 x 64.
TINY = """
import sys
from tools.experiments.__main__ import main
from tools.experiments.arms import CPU, TABLES, Preset

preset = Preset(None, 32, 0.125, 2, (*CPU, "--data.batch_size", "4"), 1)
TABLES["rsscn7"] = TABLES["rsscn7"]._replace(
    data="labelled", splits=None, presets={"cpu": preset}
)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_end_and_its_records_make_a_table(
    labelled: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arms = ["latents-0.33-0", "decoded-0.33-0", "patch-0.33-0", "webp-0.33-0", "original-0"]
    command = [sys.executable, "-c", TINY, "run", "rsscn7", "--jobs", "2", "--out", str(out)]
    command += ["--only", *arms]
    options = {"cwd": ROOT, "env": {**os.environ, "CDINFER_TEST_DATA": str(labelled.parent)}}
    killed = subprocess.Popen(command, start_new_session=True, **options)
    while not (out / "as-decoded-0.33.json").exists():
        assert killed.poll() is None
        time.sleep(0.1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.json")}
    assert {"set-0.33.json", "as-decoded-0.33.json"} <= before.keys()
    assert len(before) < 8
    said = subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout
    assert "set-0.33 ..." not in said
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.json")}
    assert len(after) == 8
    assert {name: after[name] for name in before} == before
    records = [json.loads((out / name).read_text()) for name in after]
    for record in records:
        keep.check(record, out)
    summary = summarise(records)
    assert list(summary.scores) == [
        *[(arm, 0.33) for arm in ("latents", "decoded", "patch", "webp")],
        ("original", None),
    ]
    assert all(0 <= spread.mean <= 100 for spread in summary.scores.values())
    assert summary.bytes["webp", 0.33] <= summary.bytes["latents", 0.33]
    assert {cost.batch for cost in summary.costs.values()} == {4}
    assert {cost.steps for cost in summary.costs.values()} == {6}
