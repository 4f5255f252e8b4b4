"""What a user installs is the wheel, not the checkout."""

import email
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("build") is None, reason="needs build, which the dev extra brings")
def test_the_wheel_carries_what_the_commands_need(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("cdinfer-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        fields = email.message_from_bytes(archive.read(metadata))
        licence = next(name for name in names if name.endswith("/licenses/LICENSE"))
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
    assert fields["License-Expression"] == "Apache-2.0"
    assert {name.split("/")[0] for name in names} == {"cdinfer", Path(metadata).parent.name}
    configs = {name for name in names if name.startswith("cdinfer/configs/")}
    assert configs == {f"cdinfer/{p.relative_to(ROOT)}" for p in (ROOT / "configs").rglob("*.yaml")}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "cdinfer").rglob("*.py")}
    assert modules <= set(names)
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(target)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    command = [sys.executable, "-m", "cdinfer", "train", "--task", "codec", "--print_config"]
    env = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run(
        command, cwd=elsewhere, env=env, check=True, capture_output=True, text=True
    )
    assert "class_path: cdinfer.tasks.CompressionTask" in done.stdout
    assert "max_steps: 20000" in done.stdout
    where = [sys.executable, "-c", "from cdinfer.cli.configs import folder; print(folder())"]
    done = subprocess.run(where, cwd=elsewhere, env=env, check=True, capture_output=True, text=True)
    assert Path(done.stdout.strip()) == target / "cdinfer" / "configs"
