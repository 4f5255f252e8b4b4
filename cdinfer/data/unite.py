"""Class lists of sets that become one.

labels    united by name; those of the first set keep their numbers, the others get new ones
masks     no mask is renumbered: one list begins with the other, and colours agree
"""

from typing import Any, NamedTuple

from cdinfer.data.edit import Edit


class Classes(NamedTuple):
    """The classes of a set.

    Attributes:
        where: the set, for errors.
        names: in the order of their numbers.
        masks: what the index says of masks; ``None`` without.
    """

    where: str
    names: list[str]
    masks: dict[str, Any] | None


def unite(edit: Edit, other: Classes, new: bool) -> None:
    """Add classes to those of a set.

    Args:
        edit: the set.
        other: what comes to it.
        new: let names be new; they come behind those of the set.

    Raises:
        ValueError: if they do not fit together, or some are missing and ``new`` is false.
    """
    raw = edit.raw
    check_classes(Classes(str(edit.root), raw["classes"], raw.get("masks")), other)
    edit.add_classes(other.names, new)
    if other.masks is not None:
        palette = raw["masks"]["palette"]
        palette += other.masks["palette"][len(palette) :]


def check_classes(one: Classes, other: Classes) -> None:
    """Refuse sets whose classes do not fit together.

    Raises:
        ValueError: saying how they differ.
    """
    if bool(one.names) != bool(other.names):
        raise ValueError(
            f"'{one.where}' has {len(one.names)} classes and '{other.where}' {len(other.names)}: "
            "expected both labelled, or neither"
        )
    if (one.masks is None) != (other.masks is None):
        having, bare = (one, other) if one.masks is not None else (other, one)
        raise ValueError(
            f"'{having.where}' has masks and '{bare.where}' has labels: expected the same of both"
        )
    if one.masks is None or other.masks is None:
        return
    for number, pair in enumerate(zip(one.names, other.names, strict=False)):
        if pair[0] != pair[1]:
            raise ValueError(
                f"class {number} is '{pair[0]}' in '{one.where}' and '{pair[1]}' in "
                f"'{other.where}': masks are not renumbered, so one list of classes has to begin "
                "with the other; renumber the masks and export them again"
            )
    palettes = one.masks["palette"], other.masks["palette"]
    for name, *colours in zip(one.names, *palettes, strict=False):
        if colours[0] != colours[1]:
            raise ValueError(
                f"class '{name}' has the colour {colours[0]} in '{one.where}' and {colours[1]} in "
                f"'{other.where}': give both one palette and export one of them again"
            )
    mine, theirs = one.masks["ignore_index"], other.masks["ignore_index"]
    if mine != theirs:
        raise ValueError(
            f"pixels without a class are {mine} in '{one.where}' and {theirs} in '{other.where}': "
            "renumber the masks of one and export them again"
        )
