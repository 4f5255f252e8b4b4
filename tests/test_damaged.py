"""Inputs that ``tools/fuzz`` found to break something once; each ends in one line now.

``tests/golden/damaged`` may only grow. Large files are stored packed.
"""

import bz2
import json
import multiprocessing
import resource
import time
from pathlib import Path

import pytest
import torch

from cdinfer.__main__ import main
from cdinfer.bitstream import BitstreamError
from cdinfer.bitstream.files import read_files
from cdinfer.cli.evaluate import find_validation
from cdinfer.codecs import load_codec
from cdinfer.runs import load_run, read_about
from tests.test_golden import GOLDEN

DAMAGED = GOLDEN / "damaged"


def read_in_child(name, tables, out) -> None:
    """Send the error, and what it took in seconds and bytes."""
    data = bz2.decompress((DAMAGED / name).read_bytes())
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    try:
        read_files([data], *tables)
    except BitstreamError as error:
        seconds = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base
        out.send((str(error), seconds, peak * 1024))


@pytest.mark.parametrize("name", ["huge-wide.cdi.bz2", "huge-tall.cdi.bz2"])
def test_a_file_that_claims_512_megapixels_in_300_kb_costs_little(name) -> None:
    codec = load_codec("cae-lite", 0.0983)
    tables = ("CAE_", codec.stream, codec.model, codec.stride)
    read_files(codec.compress(torch.zeros(1, 3, 8, 8)), *tables)  # compiles the decoder
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=read_in_child, args=(name, tables, theirs))
    child.start()
    theirs.close()
    message, seconds, peak = ours.recv()
    child.join()
    assert message.startswith("damaged or truncated: the entropy-coded payload does not decode")
    assert seconds < 2
    assert peak < 200e6


@pytest.mark.parametrize("name", ["aliases", "deep"])
def test_a_config_that_unfolds_without_end_is_refused_at_once(name, tmp_path, capsys) -> None:
    """Its aliases stand for 9**8 values, or its lists are 3000 deep."""
    path = tmp_path / "config.yaml"
    path.write_bytes((DAMAGED / f"{name}.yaml").read_bytes())
    assert main(["fit", "--config", str(path), "--print_config"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"cdinfer fit: cannot use {path}: ")
    assert line.endswith("; correct it, or give another")
    assert len(line) < 300
    with pytest.raises(ValueError, match=r"damaged .*config\.yaml: give --data FOLDER"):
        find_validation(tmp_path)


def test_settings_whose_path_is_a_number_are_damaged(tmp_path) -> None:
    (tmp_path / "config.yaml").write_bytes((DAMAGED / "path-number.yaml").read_bytes())
    with pytest.raises(ValueError, match=r"damaged .*config\.yaml: give --data FOLDER"):
        find_validation(tmp_path)


def test_a_task_is_a_word(tmp_path) -> None:
    (tmp_path / "run.json").write_bytes((DAMAGED / "task-lines.json").read_bytes())
    with pytest.raises(ValueError, match=r"^damaged .*run\.json: .* task; train again$"):
        read_about(tmp_path)


def test_a_stream_of_two_lines_is_refused_in_one(classifier_run: Path, tmp_path: Path) -> None:
    about = json.loads((classifier_run / "run.json").read_text())
    about |= json.loads((DAMAGED / "stream-lines.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(about))
    (tmp_path / "codec").symlink_to(classifier_run / "codec")
    with pytest.raises(ValueError, match=r"^cannot use run [^\n]*not that of stream[^\n]*\Z"):
        load_run(tmp_path)


def test_one_wrong_bit_in_the_weights_of_a_checkpoint_is_noticed(
    classifier_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "run.json").write_bytes((classifier_run / "run.json").read_bytes())
    (tmp_path / "codec").symlink_to(classifier_run / "codec")
    place = tmp_path / "checkpoints" / "best.ckpt"
    damaged = (DAMAGED / "weights-bit.ckpt").read_bytes()
    place.write_bytes(damaged)
    assert set(torch.load(place, weights_only=True)) == {"state_dict"}  # torch does not notice
    with pytest.raises(ValueError, match=r"damaged .*best\.ckpt: not a checkpoint; train again"):
        load_run(tmp_path)
