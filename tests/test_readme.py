"""README's Python runs as printed."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdinfer.__main__ import main
from cdinfer.codecs import load_codec
from cdinfer.codecs.zoo import find_codec
from cdinfer.data.export import Plan, export
from cdinfer.data.images import to_tensor
from cdinfer.data.layout import find_pictures

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"<!-- python -->\n```python\n(.*?)```", re.S)


@pytest.mark.slow
def test_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Path("scenes", name).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 255, (192, 200, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(f"scenes/{name}/{number}.png")
    Image.fromarray(pixels).save("photo.jpg")
    export(find_pictures(Path("scenes")), Path("shards"), find_codec("cae"), Plan())
    Path("bits").mkdir()
    Path("bits/photo.cdi").write_bytes(load_codec().compress(to_tensor(pixels)[None])[0])
    fit = ["--data", "shards", "--trainer.max_epochs", "1", "--model.net.width", "0.125"]
    assert main(["train", "--task", "cls", *fit]) == 0
    capsys.readouterr()

    api, loop = BLOCK.findall(README.read_text("utf-8"))
    names: dict[str, object] = {}
    exec(api, names)
    assert names["x_hat"].shape == names["x"].shape
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "photo.jpg",
        "bits/photo.cdi",
    ]
    exec(loop, names)
    assert names["loss"].isfinite()
