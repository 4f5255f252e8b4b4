import contextlib
import io
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cdinfer.codecs import read_codec
from cdinfer.runs import find_run, load_run, read_trunk


def test_the_newest_version_is_found_and_a_missing_run_is_named(tmp_path: Path) -> None:
    for number in (2, 9, 10):
        (tmp_path / "cls" / f"version_{number}").mkdir(parents=True)
        (tmp_path / "cls" / f"version_{number}" / "run.json").write_text("{}")
    assert find_run(tmp_path / "cls").name == "version_10"
    assert find_run(tmp_path / "cls" / "version_2").name == "version_2"
    with pytest.raises(ValueError, match=r"no run in .*seg': expected run\.json or version_N"):
        find_run(tmp_path / "seg")


def test_a_run_without_a_checkpoint_says_so(run_copy: Path) -> None:
    shutil.rmtree(run_copy / "checkpoints")
    with pytest.raises(ValueError, match=r"no checkpoint in .*: train for longer"):
        load_run(run_copy)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"task": 1}', "[" * 100_000, "\xff"])
def test_a_damaged_run_json_is_named(run_copy: Path, text: str) -> None:
    (run_copy / "run.json").write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match=r"damaged .*run\.json"):
        load_run(run_copy)


class Hostile:
    """Runs a command when it is unpickled without care."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_cannot_run_code(run_copy: Path, tmp_path: Path, zipped: bool) -> None:
    hostile = {"state_dict": Hostile(f"touch {tmp_path}/hacked")}
    path = run_copy / "checkpoints" / "best.ckpt"
    if zipped:
        torch.save(hostile, path)
    else:
        path.write_bytes(pickle.dumps(hostile))
    with pytest.raises(ValueError, match=r"damaged .*best\.ckpt: not a checkpoint; train again"):
        load_run(run_copy)
    assert not (tmp_path / "hacked").exists()
    os.system(f"touch {tmp_path}/hacked")  # the command would have worked
    assert (tmp_path / "hacked").exists()


def test_weights_larger_than_the_file_are_refused(run_copy: Path) -> None:
    path = run_copy / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    state = {name: torch.zeros(()).expand(v.shape) for name, v in checkpoint["state_dict"].items()}
    torch.save({"state_dict": state}, path)
    with pytest.raises(ValueError, match="its weights are larger than the file"):
        load_run(run_copy)


def test_a_damaged_checkpoint_is_named_wherever_the_damage_is(run_copy: Path) -> None:
    path = run_copy / "checkpoints" / "best.ckpt"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for cut in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="not a checkpoint"):
            load_run(run_copy)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        info, size = archive.getinfo(name), len(archive.read(name))
    for _ in range(20):  # in the pickle: a clean refusal, or a load of what is left
        broken = bytearray(whole)
        broken[info.header_offset + 100 + int(rng.integers(size))] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        with contextlib.suppress(ValueError):
            load_run(run_copy)


def test_a_trunk_is_read_without_its_head(segmenter_run: Path, tiny_codec: Path) -> None:
    trunk = read_trunk(segmenter_run.parent)
    run = load_run(segmenter_run)
    state = run.net.trunk.state_dict()
    assert trunk.weights.keys() == state.keys()
    assert all(torch.equal(trunk.weights[name], state[name]) for name in state)
    assert trunk.folder == segmenter_run
    assert trunk.net == "CResNet, width 0.125, output_stride 16"
    assert trunk.stream == f"{read_codec(tiny_codec).stream:08x}"


def test_a_codecs_run_has_no_trunk(codec_run: Path) -> None:
    with pytest.raises(ValueError, match=r"trained a codec, which has no trunk: give the run of"):
        read_trunk(codec_run)


@pytest.mark.parametrize("text", ['{"task": "seg"}', '{"task": "seg", "net": 3}'])
def test_a_trunk_of_a_damaged_run_is_refused(
    segmenter_run: Path, tmp_path: Path, text: str
) -> None:
    (tmp_path / "checkpoints").symlink_to(segmenter_run / "checkpoints")
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match="damaged run"):
        read_trunk(tmp_path)
