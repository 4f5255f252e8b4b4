import importlib.util
import os
import subprocess
import sys

import pytest

import cdinfer
from cdinfer.__main__ import COMMANDS, describe, main

HEAVY = {"torch", "numpy", "numba", "PIL", "pytorch_lightning"}


def python(code: str) -> str:
    """Run code in a fresh interpreter and return what it printed."""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return ran.stdout


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"]])
def test_help_names_every_command(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    words = capsys.readouterr().out.split()
    assert set(COMMANDS) <= set(words)


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["encoed"]])
def test_the_dispatcher_is_the_standard_library_alone(argv: list[str]) -> None:
    modules = python(
        f"import sys; from cdinfer.__main__ import main; main({argv}); print(*sys.modules)"
    )
    assert "cdinfer.__main__" in modules.split()
    assert not HEAVY & set(modules.split())


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"cdinfer {cdinfer.__version__}\n"


@pytest.mark.parametrize(
    ("word", "hint"),
    [("encoed", "did you mean 'encode'?"), ("xyzzy", "known: demo, train, encode")],
)
def test_an_unknown_command_names_the_nearest(
    word: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word]) == 2
    assert capsys.readouterr().err.startswith(f"cdinfer: unknown command '{word}'; {hint}")


@pytest.mark.parametrize("command", ["encode", "decode", "info"])
def test_help_of_a_command_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert f"example: cdinfer {command} " in text
    assert "--json" in text


@pytest.mark.parametrize("command", ["encode", "decode", "info"])
def test_a_command_without_input_shows_its_usage(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([command])
    assert exit_.value.code == 2
    assert f"usage: cdinfer {command} " in capsys.readouterr().err


def test_flags_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["decode", "x.cdi", "--over"])
    assert "unrecognized arguments: --over" in capsys.readouterr().err


def test_an_error_is_one_line() -> None:
    assert describe(ValueError("expected\n  this")) == "expected this"
    assert describe(FileNotFoundError(2, "No such file", "a.cdi")) == "a.cdi: No such file"


def test_what_cannot_be_printed_is_one_line_and_no_success() -> None:
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "cdinfer", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert ran.returncode == 2
    assert ran.stderr == "cdinfer: No space left on device\n"


def test_a_reader_that_leaves_early_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "cdinfer", "--help"]
    ran = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (ran.returncode, ran.stderr) == (141, b"")


@pytest.mark.parametrize("module", sorted({module for module, _ in COMMANDS.values()}))
def test_every_command_has_a_module(module: str) -> None:
    assert importlib.util.find_spec(f"cdinfer.cli.{module}") is not None
