import pytest

from cdinfer.__main__ import main
from cdinfer.cli import files
from cdinfer.codecs import stored


def test_codecs_that_flags_name_are_all_there_are() -> None:
    assert files.CODECS == stored.CODECS


@pytest.mark.parametrize("command", ["encode", "decode", "export", "bench", "train"])
def test_help_tells_what_may_be_given_as_codec(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"{', '.join(stored.CODECS)}, the folder of a run or set, or its URL (default: " in text
