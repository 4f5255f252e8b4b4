"""What training leaves: weights, tables, ``codec.json``, settings, ``run.json``, checkpoints."""

import contextlib
import hashlib
import io
import json
import struct
import zipfile
from pathlib import Path
from random import Random

import torch
import yaml  # type: ignore[import-untyped]

from cdinfer.__main__ import main
from cdinfer.cli.evaluate import find_validation
from cdinfer.codecs.stored import FILES, read_codec
from cdinfer.codecs.zoo import find_codec
from cdinfer.runs import load_run, read_about
from tools.fuzz.kinds import Case, FolderKind, Wrong
from tools.fuzz.mutate import spoil, spoil_json


def spoil_safetensors(data: bytes, rng: Random) -> bytes:
    """Return a safetensors file whose header says something else, or whose length is another."""
    (length,) = struct.unpack_from("<Q", data)
    header = spoil_json(data[8 : 8 + length].decode(), rng).encode("utf-8")
    length = rng.choice((len(header),) * 6 + (len(header) - 1, 0, 2**31, 2**63, 2**64 - 1))
    return struct.pack("<Q", length) + header + data[8 + length :][: 2**23]


class Weights(FolderKind):
    """A codec's folder; its description vouches for the damaged files half of the time."""

    name, first = "weights", "tables.safetensors"

    def __init__(self, folder: Path, other: Path) -> None:
        super().__init__(folder)
        self.others = {name: (other / name).read_bytes() for name in FILES}
        self.codec = read_codec(folder)

    def make(self, rng: Random) -> Case:
        name = rng.choice((*FILES, "tables.safetensors", "codec.json"))
        if name == "codec.json":
            text = self.whole[name].decode()
            spoilt = rng.choice((spoil(text.encode(), rng), spoil_json(text, rng).encode("utf-8")))
            return Case({name: spoilt}, name)
        data = self.whole[name]
        how = rng.random()
        if how < 0.4:
            spoilt, about = spoil(data, rng, self.others[name]), "blind"
        elif how < 0.95:
            spoilt, about = spoil_safetensors(data, rng), "header"
        else:
            spoilt, about = self.others[rng.choice(FILES)], "another codec's"
        files = {name: spoilt}
        if rng.random() < 0.7:
            meta = json.loads(self.whole["codec.json"])
            meta["sha256"][name] = hashlib.sha256(spoilt).hexdigest()
            files["codec.json"] = json.dumps(meta).encode()
            about += ", vouched for"
        return Case(files, f"{name}: {about}")

    def read(self, case: Case) -> None:
        with contextlib.suppress(ValueError):
            find_codec(str(self.folder.parent))
        codec = read_codec(self.folder)
        assert codec.model is not None
        assert self.codec.model is not None
        same = codec.model.pack() == self.codec.model.pack()
        if codec.stream == self.codec.stream and not (
            same and torch.equal(codec.centers, self.codec.centers)
        ):
            raise Wrong("other tables under the same stream id")
        x = torch.linspace(0, 1, 3 * 16 * 24).reshape(1, 3, 16, 24)
        if not torch.equal(codec.unpack(codec.compress(x))["y"], codec.symbols(x)):
            raise Wrong("what this codec writes it does not read")


#: YAML that no editor makes.
YAML = (
    "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(
        f"{b}: &{b} [{','.join(9 * [f'*{a}'])}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "model: &m\n  <<: *m\n",
    "model: &m [*m]\n",
    "model: !!python/object/apply:os.system ['false']\n",
    "model:\n  class_path: os.system\n  init_args: {command: 'false'}\n",
    "model: {class_path: " + "x." * 3000 + "y}\n",
    "trainer: {max_epochs: " + "9" * 5000 + "}\n",
    "seed_everything: .nan\n",
    "data: {batch_size: .inf}\n",
    "? [a, b]\n: c\n",
    "--- 1\n--- 2\n",
    "\t- a",
    "\ufeffmodel: 1",
    "%YAML 9.9\n---\na: 1",
    "model: " + "[" * 3000 + "]" * 3000,
    "model: " + "{a: " * 3000 + "1" + "}" * 3000,
    "- " * 3000 + "x",
)


class Configs(FolderKind):
    """``config.yaml``, as ``cdinfer fit`` and ``eval`` parse it, and ``run.json``."""

    name, first = "config", "config.yaml"

    def make(self, rng: Random) -> Case:
        how = rng.random()
        if how < 0.4:
            text = self.whole["run.json"].decode()
            spoilt = rng.choice((spoil(text.encode(), rng), spoil_json(text, rng).encode("utf-8")))
            return Case({"run.json": spoilt}, "run.json")
        text = self.whole["config.yaml"].decode()
        if how < 0.5:
            return Case({"config.yaml": rng.choice(YAML).encode("utf-8")}, "strange YAML")
        if how < 0.6:
            return Case({"config.yaml": spoil(text.encode(), rng)}, "config.yaml: blind")
        spoilt = spoil_json(json.dumps(yaml.safe_load(text)), rng).encode("utf-8")
        return Case({"config.yaml": spoilt}, "config.yaml: values")

    def read(self, case: Case) -> None:
        if "run.json" in case.files:
            read_about(self.folder)
            load_run(self.folder)
            return
        with contextlib.suppress(ValueError, OSError):
            find_validation(self.folder)
        out, err = io.StringIO(), io.StringIO()
        config = str(self.folder / "config.yaml")
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = main(["fit", "--config", config, "--print_config"])
        except SystemExit as stop:
            status = int(stop.code or 0)
        lines = err.getvalue().splitlines()
        if status and (status != 2 or len(lines) != 1):
            raise RuntimeError(f"status {status}, {len(lines)} lines: {err.getvalue()[:300]}")
        if status:
            raise ValueError(f"{self.folder}: {lines[0]}")


class Checkpoints(FolderKind):
    """``best.ckpt``: the zip, the pickle in it, the storages."""

    name, first = "checkpoint", "checkpoints/best.ckpt"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.weights = load_run(folder).net.state_dict()

    def make(self, rng: Random) -> Case:
        name = self.first
        data = self.whole[name]
        if rng.random() < 0.5:
            tail = rng.choice((len(data), 3000, 100))
            spoilt = data[:-tail] + spoil(data[-tail:], rng, data)
            return Case({name: spoilt}, f"blind, in the last {tail} bytes", self.weights)
        parts = _unzip(data)
        part = rng.choice([*([next(n for n in parts if n.endswith("data.pkl"))] * 3), *parts])
        parts[part] = spoil(parts[part], rng, data[-2000:])
        kind = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        return Case({name: _zip(parts, kind)}, f"{part}, zipped again ({kind})")

    def read(self, case: Case) -> None:
        run = load_run(self.folder)
        assert run.codec is not None
        p = run.probabilities(torch.zeros(1, run.codec.channels, 4, 4))
        if p.shape != (1, len(run.classes)):
            raise Wrong(f"probabilities {p.shape}")
        weights = run.net.state_dict()
        if case.truth and not all(torch.equal(w, weights[n]) for n, w in case.truth.items()):
            raise Wrong(f"other weights than were saved ({case.about})")


def _unzip(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zip(parts: dict[str, bytes], kind: int) -> bytes:
    """Zip parts as torch does: members start at multiples of 64 bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, content in parts.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = kind
            info.extra = b"FB" + struct.pack("<H", (-file.tell() - 34 - len(name)) % 64)
            info.extra += bytes(struct.unpack("<H", info.extra[2:4])[0])
            archive.writestr(info, content)
    return file.getvalue()
