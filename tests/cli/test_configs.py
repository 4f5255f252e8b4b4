from pathlib import Path

import pytest

from cdinfer.__main__ import main
from cdinfer.cli.configs import find_config, folder, known_baselines, name_files, options

CONFIGS = sorted(str(p.relative_to(folder()).with_suffix("")) for p in folder().rglob("*.yaml"))


def test_configs_of_ours_are_given_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    patch, seg = str(find_config("baselines/patch")), str(find_config("seg"))
    args = ["--config", "baselines/patch", "--config=seg", "--data.path", "seg", "-c", "seg"]
    assert name_files(args) == [
        "--config", patch, f"--config={seg}", "--data.path", "seg", "-c", seg,
    ]  # fmt: skip
    assert name_files(["--config", patch]) == ["--config", patch]
    assert name_files(["--config", "data: {crop: 32}"]) == ["--config", "data: {crop: 32}"]
    Path("seg").touch()
    assert name_files(["--config", "seg"]) == ["--config", "seg"]  # a file of the user's


def test_options_come_in_order_however_they_are_written() -> None:
    said = options(["fit", "--a", "1", "--b=2=3", "--c", "--a", "4"])
    assert list(said) == [("--a", "1"), ("--b", "2=3"), ("--c", "--a"), ("--a", "4")]


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("baselines/pach", "no config 'baselines/pach': expected a file, or a name: baselines/pat"),
        ("x", f"no config 'x': expected a file, or a name: {CONFIGS[0]}, {CONFIGS[1]}"),
        ("../seg", "no config '../seg'"),
    ],
)
def test_an_unknown_config_is_one_line(
    word: str, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for args in (["fit"], ["train", "--task", "cls"]):
        assert main([*args, "--config", word]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert answer in line


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_says_in_thirty_lines_what_to_type(name: str) -> None:
    lines = find_config(name).read_text().splitlines()
    assert len(lines) <= 30
    head = [line for line in lines if line.startswith("#")]
    assert lines[: len(head)] == head
    command = "train --task " + (name if "/" not in name else "")
    assert any(command in line for line in head)
    if "/" in name:
        assert any(f"--config {name}" in line for line in head)
    if name.startswith("paper/"):
        assert any("NOT RUN HERE" in line for line in head)
        assert any("torchrun" in line for line in head)


def test_baselines_are_these() -> None:
    names = ("convnext", "mobilenet", "original", "original-strong", "patch")
    assert known_baselines() == [f"baselines/{name}" for name in names]


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("cls", ["lr: 0.025", "decay_every: 8", "max_epochs: 28", "depth: 51", "v1: true"]),
        ("seg", ["output_stride: 8", "cdinfer.models.ASPP", "max_steps: 20000", "head_rate: 10.0"]),
    ],
)
def test_recipes_of_the_paper_fit_the_tasks(
    task: str, settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "--task", task, "--config", f"paper/{task}", "--print_config"])
    assert not stop.value.code
    printed = capsys.readouterr().out
    assert all(setting in printed for setting in settings)
