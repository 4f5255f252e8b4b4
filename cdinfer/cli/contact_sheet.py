"""Contact sheets: many inputs and their masks on one page.

    picture or reconstruction | mask | overlay        a row an input, its name above
    ...
    classes and their colours

A page holds forty rows of small pictures, so that a folder of any size needs little memory.
"""

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

#: Rows of a page.
ROWS = 40

#: Longest side of a picture on the page, space around it, and height of a line of text, in pixels.
SIDE, SPACE, LINE = 320, 8, 20

#: Narrowest column, which its title fits into.
WIDE = 180

#: Side of a colour in the legend.
SWATCH = 12

TITLES = ("picture or reconstruction", "mask", "overlay")

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Row(NamedTuple):
    """One input: its name, and three small pictures of one size."""

    name: str
    pictures: tuple[Image.Image, Image.Image, Image.Image]


class ContactSheet:
    """Collects rows and draws pages of them.

    Args:
        classes: names.
        palette: colour (red, green, blue) of each.

    Attributes:
        rows: of the page to come.
    """

    def __init__(self, classes: Sequence[str], palette: Sequence[Sequence[int]]) -> None:
        self.classes, self.palette = [_one_line(name) for name in classes], palette
        self.rows: list[Row] = []
        self._present: set[int] = set()

    @property
    def full(self) -> bool:
        """Whether the page to come has all its rows."""
        return len(self.rows) == ROWS

    def add(self, name: str, picture: Image.Image, mask: Image.Image) -> None:
        """Add a row.

        Args:
            name: what to write above it.
            picture: RGB.
            mask: palette picture of the same size.
        """
        self._present |= {k for k, count in enumerate(mask.histogram()) if count}
        small = picture.copy()
        small.thumbnail((SIDE, SIDE))
        classes = mask.resize(small.size, Image.Resampling.NEAREST).convert("RGB")
        overlay = Image.blend(small, classes, 0.5)
        self.rows.append(Row(_one_line(name), (small, classes, overlay)))

    def draw(self) -> Image.Image:
        """Return the page, with a legend of the classes on it, and start another."""
        font = ImageFont.load_default(LINE * 0.65)
        step = SPACE + max(WIDE, *(row.pictures[0].width for row in self.rows))
        width = SPACE + len(TITLES) * step
        legend = _lay_out([self.classes[k] for k in sorted(self._present)], font, width)
        tall = sum(LINE + row.pictures[0].height + SPACE for row in self.rows)
        height = SPACE + LINE + tall + LINE * (1 + max(row for _, row in legend))
        page = Image.new("RGB", (width, height + SPACE), "white")
        draw, y = ImageDraw.Draw(page), SPACE
        for column, title in enumerate(TITLES):
            draw.text((SPACE + column * step, y), title, "black", font)
        y += LINE
        for name, pictures in self.rows:
            room = len(name)
            while font.getlength(name[-room:]) > width - 2 * SPACE:  # the end tells more
                room -= max(1, room // 10)
            draw.text((SPACE, y), name[-room:], "black", font)
            for column, picture in enumerate(pictures):
                page.paste(picture, (SPACE + column * step, y + LINE))
            y += LINE + pictures[0].height + SPACE
        for k, (x, row) in zip(sorted(self._present), legend, strict=True):
            corner = x, y + row * LINE
            box = (*corner, corner[0] + SWATCH, corner[1] + SWATCH)
            draw.rectangle(box, tuple(self.palette[k]), "black")
            draw.text((x + SWATCH + SPACE, corner[1]), self.classes[k], "black", font)
        self.rows, self._present = [], set()
        return page


def _lay_out(names: Sequence[str], font: Font, width: int) -> list[tuple[int, int]]:
    """Return place from the left, in pixels, and line of each name in the legend."""
    places, x, row = [], SPACE, 0
    for name in names:
        needed = SWATCH + 3 * SPACE + round(font.getlength(name))
        if x > SPACE and x + needed > width:
            x, row = SPACE, row + 1
        places.append((x, row))
        x += needed
    return places


def _one_line(name: str) -> str:
    return " ".join(name.split())
