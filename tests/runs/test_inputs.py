import shutil
from pathlib import Path

import pytest
import torch

from cdinfer.codecs import read_codec
from cdinfer.data.shards import ShardDataset
from cdinfer.runs import load_run
from cdinfer.runs.inputs import Sample


def test_a_file_a_picture_a_folder_and_shards_are_predicted_in_order(
    classifier_run: Path, files: list[Path], shards: Path
) -> None:
    run = load_run(classifier_run)
    predicted = list(run.predict([files[2], files[0].parent, shards]))
    names = [Path(prediction.file).name for prediction in predicted]
    assert names[:4] == ["2.cdi", "0.cdi", "1.png", "2.cdi"]
    assert len(predicted) == 4 + 22
    assert {prediction.name for prediction in predicted} <= {"bark", "leaf"}
    assert all(0.5 <= prediction.probability <= 1 for prediction in predicted)
    alone = [next(run.predict([file])) for file in files]
    for one, among in zip(alone, predicted[1:4], strict=True):
        assert one.name == among.name
        assert one.probability == pytest.approx(among.probability, abs=1e-5)


def test_what_cannot_be_read_is_reported_and_the_rest_predicted(
    classifier_run: Path, files: list[Path], shards: Path, other_codec: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.cdi"
    damaged.write_bytes(files[0].read_bytes()[:-1] + b"\0")
    foreign = tmp_path / "foreign.cdi"
    foreign.write_bytes(read_codec(other_codec).compress(torch.zeros(1, 3, 48, 64))[0])
    text = tmp_path / "text.png"
    text.write_text("no picture")
    broken = Path(shutil.copytree(shards, tmp_path / "broken"))
    (broken / "index.json").write_text("{")
    (tmp_path / "empty").mkdir()
    bad = [tmp_path / "missing.cdi", damaged, foreign, text, broken, tmp_path / "empty"]
    failed: dict[str, str] = {}
    inputs = [files[0], *bad, files[1]]
    run = load_run(classifier_run)
    predicted = list(run.predict(inputs, lambda file, error: failed.update({file: str(error)})))
    assert [prediction.file for prediction in predicted] == [str(files[0]), str(files[1])]
    assert list(failed) == [str(path) for path in bad]
    assert "wrong stream" in failed[str(foreign)]
    assert "damaged" in failed[str(damaged)]
    for path in bad:
        with pytest.raises(ValueError, match=path.name):
            list(run.predict([path]))


def test_shards_of_another_stream_are_one_error(
    classifier_run: Path, labelled: Path, other_codec: Path, tmp_path: Path
) -> None:
    from cdinfer.__main__ import main

    other = tmp_path / "set"
    assert main(["export", str(labelled), str(other), "--codec", str(other_codec)]) == 0
    with pytest.raises(ValueError, match=r"these shards hold stream .* this run reads stream"):
        list(load_run(classifier_run).predict([other]))


def test_a_damaged_bitstream_in_shards_costs_that_sample_alone(
    classifier_run: Path, shards: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(shards, tmp_path / "broken"))
    data = ShardDataset(shards, "test", None)
    payload = data.file(2)[-20:]
    tar = broken / "test-00000.tar"
    content = tar.read_bytes()
    assert content.count(payload) == 1
    tar.write_bytes(content.replace(payload, payload[:-1] + bytes([payload[-1] ^ 1])))
    failed: list[str] = []
    run = load_run(classifier_run)
    predicted = list(run.predict([broken], lambda file, error: failed.append(file)))
    assert failed == [str(broken / data.keys()[2])]
    assert len(predicted) == 21


def test_what_was_found_can_be_chosen_from_and_then_read(
    classifier_run: Path, files: list[Path], shards: Path
) -> None:
    run = load_run(classifier_run)
    found = list(run.inputs.find([files[0].parent, files[1], shards]))
    assert [str(source.place) for source in found[:4]] == ["0.cdi", "1.png", "2.cdi", "1.png"]
    assert found[4].place.parts[0] in ("train", "val", "test")
    chosen = [found[2], found[-1]]
    assert [p.file for p in run.predict(chosen)] == [source.file for source in chosen]


def test_inputs_of_one_size_are_read_together_but_not_too_many(
    segmenter_run: Path, files: list[Path]
) -> None:
    inputs, seen = load_run(segmenter_run).inputs, []

    def work(batch: list[Sample]) -> list[str]:
        seen.append(len(batch))
        return [sample.file for sample in batch]

    names = [files[0]] * 33 + [files[2], files[1], files[0]]
    assert list(inputs.answer(names, work, None)) == [str(name) for name in names]
    assert seen == [32, 1, 1, 2]


def test_too_little_memory_is_the_input_s_error_and_other_errors_are_ours(
    segmenter_run: Path, files: list[Path]
) -> None:
    inputs, failed = load_run(segmenter_run).inputs, []

    def fail(batch: list[Sample]) -> list[str]:
        raise RuntimeError(message)

    message = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    assert not list(inputs.answer(files, fail, lambda file, error: failed.append(file)))
    assert failed == [str(file) for file in files]
    with pytest.raises(ValueError, match=r"0\.cdi: not enough memory for its size"):
        list(inputs.answer(files, fail, None))
    message = "shapes do not match"
    with pytest.raises(RuntimeError, match=message):
        list(inputs.answer(files, fail, lambda file, error: None))
