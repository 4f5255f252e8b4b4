"""Where the YAML files are: beside the package in a checkout, inside it in a wheel."""

from pathlib import Path

PLACES = (Path(__file__).parents[1] / "configs", Path(__file__).parents[2] / "configs")


def folder() -> Path:
    """Return the folder of task configs."""
    return next(place for place in PLACES if (place / "codec.yaml").is_file())


def known_tasks() -> list[str]:
    """Return the words ``--task`` takes: the names of the YAML files."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def find_config(task: str) -> Path:
    """Return the YAML file of a known task."""
    return folder() / f"{task}.yaml"
