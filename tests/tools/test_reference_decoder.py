import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.test_golden import EXPECTED, GOLDEN, ROOT

DECODER = ROOT / "tools" / "reference_decoder.py"


def run(*args: object) -> subprocess.CompletedProcess[str]:
    """Run the decoder where the package cannot be imported."""
    command = [sys.executable, "-W", "error", "-I", DECODER, *args]
    return subprocess.run([*map(str, command)], capture_output=True, text=True)


@pytest.mark.parametrize("name", EXPECTED)
def test_golden_file_decodes_to_the_same_symbols(name) -> None:
    expected = EXPECTED[name]
    done = run(ROOT / expected["codec"], GOLDEN / name)
    shape = " ".join(map(str, expected["shape"]))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{shape} {expected['sha256'][-1]}\n"


def test_the_first_groups_decode_alone(tmp_path) -> None:
    name = "context/three-groups.cdi"
    expected, data = EXPECTED[name], (GOLDEN / name).read_bytes()
    (tmp_path / "cut.cdi").write_bytes(data[:-2])  # the last group is not whole
    for groups in (1, 2):
        out = tmp_path / f"{groups}.npy"
        folder = ROOT / expected["codec"]
        assert run(folder, tmp_path / "cut.cdi", "--groups", groups, "--npy", out).returncode == 0
        symbols = np.load(out)
        assert symbols.shape == (groups, *expected["shape"][1:])
        assert hashlib.sha256(symbols).hexdigest() == expected["sha256"][groups - 1]


@pytest.mark.parametrize(
    ("at", "new", "message"),
    [
        (0, b"CDI2", "not a CDI1 file"),
        (4, b"HYPR", "another codec"),
        (8, b"\0", "not the folder's"),
        (12, b"\xff\xff\xff\xff", "cannot hold the picture"),
        (-1, b"\xff", "damaged|has not ended|checksum|ends early"),
        (18, b"\0\0\0\0", "checksum"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path, at, new, message) -> None:
    data = bytearray((GOLDEN / "context/one-group.cdi").read_bytes())
    data[at : at + len(new) or None] = new
    (tmp_path / "bad.cdi").write_bytes(data)
    done = run(ROOT / EXPECTED["context/one-group.cdi"]["codec"], tmp_path / "bad.cdi")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"reference_decoder: {tmp_path / 'bad.cdi'}: ")
    assert any(part in done.stderr for part in message.split("|"))


def test_the_decoder_is_short_and_its_own() -> None:
    source = DECODER.read_text("utf-8")
    assert len(source.splitlines()) <= 200
    imports = {line.split()[1].partition(".")[0] for line in source.splitlines()
               if line.startswith(("import ", "from "))}  # fmt: skip
    assert imports - {"numpy"} <= set(sys.stdlib_module_names)
    assert Path(DECODER).name in (ROOT / "cdinfer" / "bitstream" / "FORMAT.md").read_text("utf-8")
