import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cdinfer.__main__ import main
from cdinfer.cli import lightning
from cdinfer.cli.configs import find_config, known_baselines, known_tasks
from cdinfer.cli.train import expand, parser
from cdinfer.data.sample import NAME
from cdinfer.models import PatchCResNet, ResNet, TorchvisionNet
from tests.data.masked import write_voc

ROOT = Path(__file__).parents[2]
FAST = ["--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu"]
NO_CODEC = (
    "no trained cae-paper at 0.33 bpp: "
    "run cdinfer train --task codec --codec cae-paper --bpp 0.33, or give --codec RUN"
)

#: What makes each task small enough for a test.
SMALL = {
    "codec": ["--model.codec.width", "0.125", "--data.crop", "32"],
    "cls": ["--model.net.width", "0.125", "--data.crop", "32"],
    "seg": ["--model.net.width", "0.125", "--model.head.width", "0.125", "--data.crop", "32"],
}

#: Overlay -> the network it trains, and what makes that small enough.
BASELINES = {
    "baselines/convnext": (TorchvisionNet, []),
    "baselines/mobilenet": (TorchvisionNet, ["--model.pixel_net.width", "0.25"]),
    "baselines/original": (ResNet, ["--model.pixel_net.width", "0.125"]),
    "baselines/original-strong": (ResNet, ["--model.pixel_net.width", "0.125"]),
    "baselines/patch": (PatchCResNet, ["--model.pixel_net.width", "0.125"]),
}

#: Trained in every run of the tests; the rest in slow ones.
QUICK = [(name, "cls") for name in BASELINES if name != "baselines/convnext"]
QUICK += [("baselines/patch", "seg"), ("baselines/original-strong", "seg")]


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 48 x 64, 45 x 61 and 16 x 16 with masks: 4, 3 and 2."""
    sizes = ((48, 64), (45, 61), (16, 16))
    counts = {"train": 4, "val": 3, "test": 2}
    return write_voc(tmp_path_factory.mktemp("masked"), counts, sizes)


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder: no runs, so no trained codecs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """Return the one line that ``cdinfer train ARGS`` answers with status 2."""
    capsys.readouterr()
    assert main(["train", *map(str, args)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    return line.removeprefix("cdinfer train: ")


def test_its_flags_are_these() -> None:
    flags = [option for action in parser()._actions for option in action.option_strings]
    assert flags == ["-h", "--help", "--task", "--codec", "--bpp", "--data"]


@pytest.mark.parametrize("task", known_tasks())
def test_every_config_trains(
    task: str, tiny_codec: Path, labelled: Path, masked: Path, nowhere: Path
) -> None:
    codec = [] if task == "codec" else ["--codec", str(tiny_codec)]
    data = masked if task == "seg" else labelled
    flags = ["--task", task, *codec, "--data", str(data)]
    assert main(["train", *flags, *SMALL[task], *FAST]) == 0
    assert not (nowhere / "runs").exists()  # a dry run leaves nothing behind


@pytest.mark.parametrize(
    ("name", "task"),
    [
        pytest.param(name, task, marks=() if (name, task) in QUICK else pytest.mark.slow)
        for name in known_baselines()
        for task in ("cls", "seg")
    ],
)
def test_every_baseline_trains(
    name: str, task: str, tiny_codec: Path, labelled: Path, masked: Path, nowhere: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    net, small = BASELINES[name]
    data = masked if task == "seg" else labelled
    flags = ["--task", task, "--data", str(data), "--config", name, *small, *SMALL[task]]
    if name == "baselines/patch":
        flags += ["--codec", str(tiny_codec)]
    if name == "baselines/original-strong" and task == "seg":
        assert "--data.augment" in refusal(capsys, *flags)
        return
    cli = lightning.run(["fit", *expand([*flags, *FAST])])
    assert isinstance(cli.model.net.trunk, net)
    assert cli.model.input == ("decoded" if name == "baselines/patch" else "original")
    assert cli.trainer.global_step == 1
    if task == "seg" and net is not TorchvisionNet:  # the stride that seg.yaml gives
        assert cli.model.net.trunk.reduction == 16


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ("--config baselines/original", True),
        ("--config=baselines/mobilenet", True),
        ("--config baselines/original --model.input decoded", False),
        ("--config baselines/patch --model.init_args.input=original", True),
        ("--config baselines/original --config baselines/patch", False),
    ],
)
def test_the_last_word_on_the_input_counts(options: str, answer: bool) -> None:
    args = expand(["--task", "cls", *options.split()])
    assert ("--model.codec" not in args) == answer


def test_without_data_the_sample_set_is_used(
    tmp_path: Path, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDINFER_CACHE", str(tmp_path / "cache"))
    args = expand(["--task", "codec", "--bpp", "0.0983", *SMALL["codec"], *FAST])
    cli = lightning.run(["fit", *args])
    assert cli.datamodule.root == tmp_path / "cache" / NAME
    assert cli.model.codec.channels == 8
    assert cli.trainer.global_step == 1


def test_train_is_fit_with_a_config(labelled: Path) -> None:
    cls, codec, data = str(find_config("cls")), str(find_config("codec")), str(labelled)
    rest = ["--trainer.max_epochs", "2"]
    assert expand(["--task", "codec", "--bpp", "0.635", "--data", data, *rest]) == [
        "--config", codec, "--data.path", data, "--model.codec.bpp", "0.635", *rest,
    ]  # fmt: skip
    original = ["--model.input", "original"]
    assert expand(["--task", "cls", *original]) == ["--config", cls, *original]


def test_shards_bring_their_codec(shards: Path) -> None:
    cls = ["--config", str(find_config("cls")), "--data.path", str(shards)]
    expected = [*cls, "--model.codec", str(shards)]
    assert expand(["--task", "cls", "--data", str(shards)]) == expected
    assert expand(["--task", "cls", "--data", str(shards), "--bpp", "0.33"]) == expected


def test_shards_behind_a_url_are_trained_on_where_they_lie(
    shards: Path, nowhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CDINFER_CACHE", str(nowhere / "cache"))
    url = f"pipe:cat {shards}/{{}}"
    cls = ["--config", str(find_config("cls")), "--data.path", url]
    assert expand(["--task", "cls", "--data", url]) == [*cls, "--model.codec", url]
    assert main(["train", "--task", "cls", "--data", url, *SMALL["cls"], *FAST]) == 0
    assert "IterableDataset" not in capsys.readouterr().err
    answer = refusal(capsys, "--task", "codec", "--data", url)
    assert answer.endswith("holds latents: a codec is trained on a folder of pictures")
    answer = refusal(capsys, "--task", "cls", "--bpp", "0.635", "--data", url)
    assert answer.endswith("are at 0.33 bpp: give --bpp 0.33")


def test_a_named_codec_is_the_newest_of_its_rate_under_runs(
    tiny_codec: Path, nowhere: Path
) -> None:
    shutil.copytree(tiny_codec, nowhere / "runs" / "codec" / "version_0" / "codec")
    args = expand(["--task", "cls", "--bpp", "0.33"])
    assert args[2:] == ["--model.codec", "cae", "--model.bpp", "0.33"]


@pytest.mark.parametrize("data", [(), ("--data", "DATA")])
def test_a_head_never_trains_without_a_trained_codec(
    data: tuple[str, ...], labelled: Path, nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [str(labelled) if flag == "DATA" else flag for flag in data]
    flags += ["--codec", "cae-paper"]  # of all designs, the one that does not ship trained
    assert refusal(capsys, "--task", "cls", *flags) == NO_CODEC
    fit = ["fit", "--config", str(find_config("cls")), "--data.path", str(labelled)]
    assert main([*fit, "--model.codec", "cae-paper"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"cdinfer fit: {NO_CODEC}"
    (nowhere / "runs" / "codec" / "version_0" / "checkpoints").mkdir(parents=True)
    assert refusal(capsys, "--task", "cls", *flags) == NO_CODEC
    flags[-1] = "runs/codec"
    unfinished = refusal(capsys, "--task", "cls", *flags)
    assert unfinished.startswith("no trained codec in runs/codec: expected codec/codec.json there")


@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        ("--task clss", "unknown --task 'clss'; did you mean 'cls'?"),
        ("--task x", f"unknown --task 'x'; known: {', '.join(known_tasks())}"),
        ("--task codec --bpp 0.3", "known: 0.0983, 0.33, 0.635); use --bpp 0.33"),
        ("--task cls --bpp 0.6", "known: 0.0983, 0.33, 0.635); use --bpp 0.635"),
        ("--task codec --codec caee", "unknown --codec 'caee' to train; use --codec cae"),
        ("--task cls --codec caee", "no codec 'caee': expected a name (cae, cae-lite, cae-paper)"),
        ("--task codec --data phots", "no folder 'phots'; did you mean 'photos'?"),
        ("--task cls --data phots", "no folder 'phots'; did you mean 'photos'?"),
        ("--task codec --data photos", "no training pictures in 'photos': expected files ending"),
        ("--task cls --model.input original --bpp 0.33", "leave out --codec and --bpp"),
        ("--task cls --model.input=original --codec cae", "leave out --codec and --bpp"),
        ("--task cls --config baselines/original --bpp 0.33", "leave out --codec and --bpp"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_type(
    flags: str, answer: str, nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (nowhere / "photos").mkdir()
    assert answer in refusal(capsys, *flags.split())


def test_a_rate_that_is_not_that_of_codec_or_shards_names_the_right_flag(
    tiny_codec: Path, other_codec: Path, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codec = refusal(capsys, "--task", "cls", "--codec", tiny_codec, "--bpp", "0.635")
    assert codec.endswith("give --bpp 0.33, or another --codec")
    data = refusal(capsys, "--task", "cls", "--data", shards, "--bpp", "0.635")
    assert data == f"the shards in {shards} are at 0.33 bpp: give --bpp 0.33"
    other = refusal(capsys, "--task", "cls", "--data", shards, "--codec", other_codec)
    assert other == f"the shards in {shards} were written by another codec: drop --codec"
    task = refusal(capsys, "--task", "codec", "--data", shards)
    assert task == f"'{shards}' holds latents: a codec is trained on a folder of pictures"


def test_mistakes_are_found_before_lightning_is_imported(tmp_path: Path) -> None:
    lines = [
        "--task clss",
        "--task cls --codec cae-paper",
        "--task cls --codec caee",
        "--task codec --bpp 1",
    ]
    lines += ["--task codec --data nowhere", "--task cls --model.input original --bpp 0.33"]
    code = (
        "import sys\n"
        "from cdinfer.__main__ import main\n"
        f"assert all(main(['train', *line.split()]) == 2 for line in {lines})\n"
        "assert 'pytorch_lightning' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == len(lines)


def test_no_task_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train"])
    assert stop.value.code == 2
    assert "--task" in capsys.readouterr().err
