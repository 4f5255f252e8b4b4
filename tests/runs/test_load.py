from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cdinfer.models import ASPP, CResNet, LightDecoder
from cdinfer.runs import ClassifierRun, SegmenterRun, load_run
from tests.runs.make import HEAD, change, make_segmenter_run


def test_a_run_gives_what_its_task_trained(classifier_run: Path, segmenter_run: Path) -> None:
    assert isinstance(load_run(classifier_run), ClassifierRun)
    assert isinstance(load_run(segmenter_run), SegmenterRun)


def test_a_codecs_run_predicts_nothing(codec_run: Path) -> None:
    expected = (
        r"trained a codec, expected a classifier \(--task cls\) or a segmenter \(--task seg\)"
    )
    with pytest.raises(ValueError, match=expected):
        load_run(codec_run)


def test_a_missing_device_is_not_the_runs_fault(
    classifier_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no CUDA device on this machine: give --device cpu"):
        load_run(classifier_run, "cuda")


@pytest.mark.parametrize(
    "class_path",
    ["subprocess.Popen", "os.system", "mine.CResNet", "cdinfer.models.trunk.Tensor", ""],
)
def test_run_json_cannot_name_other_code(run_copy: Path, class_path: str) -> None:
    change(run_copy, lambda about: about["net"].update(class_path=class_path))
    change(run_copy, lambda about: about["net"].update(init_args={"args": ["touch", "hacked"]}))
    with pytest.raises(ValueError, match=r"not one of cdinfer\.models: use load_run"):
        load_run(run_copy)


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda a: a["net"]["init_args"].update(width=1e9), "does not fit|damaged"),
        (lambda a: a["net"]["init_args"].update(width=1e300), "damaged|cannot use"),
        (lambda a: a["net"]["init_args"].update(width=float("nan")), "damaged|cannot use"),
        (lambda a: a["net"]["init_args"].update(depth=51), "does not fit"),
        (lambda a: a["net"]["init_args"].update(depth=1), "depths .39, 51, 72."),
        (lambda a: a["net"]["init_args"].update(other=1), "damaged run"),
        (lambda a: a.update(classes=[f"{i}" for i in range(10**6)]), "does not fit"),
        (lambda a: a.update(classes=7), "damaged run"),
        (lambda a: a.update(net=[]), "damaged run"),
        (lambda a: a["net"].update(class_path=7), "damaged run"),
        (lambda a: a["net"].update(class_path="cdinfer.models.count_macs"), "damaged run"),
        (lambda a: a.pop("preprocessing"), "damaged run"),
        (lambda a: a["preprocessing"].update(crop="8"), "expected a number of pixels, got '8'"),
        (lambda a: a["preprocessing"].update(resize=-1), "expected a number of pixels, got -1"),
        (lambda a: a["preprocessing"].update(input="all"), "unknown input 'all'"),
        (lambda a: a.update(stream="00000000"), "not that of stream 00000000"),
    ],
)
def test_an_impossible_run_json_is_refused(
    run_copy: Path, edit: Callable[[dict[str, Any]], Any], match: str
) -> None:
    change(run_copy, edit)
    with pytest.raises(ValueError, match=match):
        load_run(run_copy)


def test_a_checkpoint_of_other_layers_or_none_is_refused(run_copy: Path) -> None:
    path = run_copy / "checkpoints" / "best.ckpt"
    torch.save({"state_dict": {"net.fc.weight": torch.zeros(2, 2)}}, path)
    with pytest.raises(ValueError, match=r"does not fit the network of run\.json"):
        load_run(run_copy)
    for content in ({}, {"state_dict": 3}, {"state_dict": {"net.fc.weight": "x"}}):
        torch.save(content, path)
        with pytest.raises(ValueError, match="not a checkpoint"):
            load_run(run_copy)


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda a: a["head"].update(class_path="os.system"), r"use load_run\(RUN, head=YourOwn\)"),
        (lambda a: a["head"].update(class_path="cdinfer.models.CResNet"), "damaged run"),
        (lambda a: a["head"].update(class_path="cdinfer.models.Head"), "damaged run"),
        (lambda a: a["head"].update(class_path="cdinfer.models.ASPP", init_args={}), "not fit"),
        (lambda a: a["head"]["init_args"].update(width=1e12), "does not fit|damaged run"),
        (lambda a: a["head"]["init_args"].update(rates=[1e19]), "expected rates from 1 to"),
        (lambda a: a["head"]["init_args"].update(rates=[6] * 10**4), "4096 characters of options"),
        (lambda a: a["net"]["init_args"].update(note="x" * 10**4), "4096 characters of options"),
        (lambda a: a.pop("head"), "damaged run"),
        (lambda a: a.update(head=None), "damaged run"),
        (lambda a: a.update(head={"class_path": HEAD["class_path"], "init_args": [1]}), "damaged"),
        (lambda a: a["palette"].pop(), "expected a colour for each of 3 classes"),
        (lambda a: a.update(palette={"a": 1}), "expected a colour for each of 3 classes"),
        (lambda a: a["palette"][0].append(1), r"colours as \[255, 0, 0\], got \[128, 64, 128, 1\]"),
        (lambda a: a["palette"].__setitem__(0, [0, 0, 256]), "expected colours as"),
        (lambda a: a["palette"].__setitem__(0, "red"), "expected colours as .* got red"),
        (lambda a: a.update(classes=["x"] * 300), "at most 255 classes of pixels, got 300"),
        (lambda a: a.update(classes=["x"] * 4, palette=[]), "does not fit"),
        (lambda a: a["net"]["init_args"].update(output_stride=7), "expected output_stride 8, 16"),
        (lambda a: a.update(task="cls"), "does not fit"),
    ],
)
def test_an_impossible_run_of_a_segmenter_is_refused(
    segmenter_copy: Path, edit: Callable[[dict[str, Any]], Any], match: str
) -> None:
    change(segmenter_copy, edit)
    with pytest.raises(ValueError, match=match):
        load_run(segmenter_copy)


def test_a_segmenter_without_colours_gets_those_of_voc(segmenter_copy: Path) -> None:
    change(segmenter_copy, lambda about: about.update(palette=[]))
    run = load_run(segmenter_copy)
    assert isinstance(run, SegmenterRun)
    assert run.palette == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]


def test_networks_of_ones_own_are_given_as_classes(tiny_codec: Path, tmp_path: Path) -> None:
    folder = make_segmenter_run(tmp_path / "run", tiny_codec)
    change(folder, lambda about: about["net"].update(class_path="mine.Net"))
    change(folder, lambda about: about["head"].update(class_path="mine.Head"))
    with pytest.raises(ValueError, match=r"the run's net mine\.Net is not one of cdinfer\.models"):
        load_run(folder)
    run = load_run(folder, net=CResNet, head=LightDecoder)
    assert isinstance(run.net.head, LightDecoder)
    with pytest.raises(ValueError, match="damaged run"):
        load_run(folder, net=CResNet, head=ASPP)  # takes no width
