"""What ``predict --save OUT`` writes of masks.

    OUT/NAME.png            palette PNG, whose values are the classes
    OUT/NAME.overlay.jpg    the picture, half covered by the colours of its classes
    OUT/contact.png         a row an input: picture, mask, overlay (``contact_sheet.py``)

For a single input OUT is the mask's own name, or a folder; there is no contact sheet then.
"""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from cdinfer.cli import files
from cdinfer.cli.contact_sheet import ROWS, ContactSheet
from cdinfer.data.masks import colour_mask
from cdinfer.runs import Segmentation, Source

#: Longest side of a JPEG file; longer pictures are shrunk to look at.
JPEG_SIDE = 65_500

#: What errors call the flag.
FLAG = "--save"


class MaskWriter:
    """Writes masks and pictures of them.

    Args:
        out: what ``--save`` said.
        sources: all inputs, none of them read yet.
        sheet: whether to make contact sheets; ``out`` is a folder then.
        overwrite: replace files that exist.
        classes: names.
        palette: colour (red, green, blue) of each.

    Raises:
        ValueError: if ``out`` is no place for them, two inputs would be written over each other,
            or a contact sheet over something.
    """

    def __init__(
        self,
        out: str,
        sources: Sequence[Source],
        sheet: bool,
        overwrite: bool,
        classes: Sequence[str],
        palette: Sequence[Sequence[int]],
    ) -> None:
        for source in sources:
            if source.place.is_absolute() or ".." in source.place.parts:
                raise ValueError(f"{source.file} would be written outside of {out}: give the file")
        inputs = [files.Input(Path(source.file), source.place) for source in sources]
        self._outputs = files.plan_outputs(inputs, out, sheet, (".png",), FLAG)
        self._overwrite, self._palette = overwrite, palette
        self._sheet = ContactSheet(classes, palette) if sheet else None
        count = -(-len(sources) // ROWS) if sheet else 0
        names = ["contact.png", *(f"contact-{number}.png" for number in range(2, count + 1))]
        self._pages = [Path(out) / name for name in names[:count]]
        for page in self._pages:
            if page in self._outputs.values():
                raise ValueError(
                    f"a mask would be written over the contact sheet {page}: rename it"
                )
            files.check_output(Path(out), page, overwrite, FLAG)

    def check(self, source: Source) -> None:
        """Refuse to replace what is there.

        Raises:
            ValueError: naming it.
        """
        path = Path(source.file)
        for output in (self._outputs[path], _beside(self._outputs[path])):
            files.check_output(path, output, self._overwrite, FLAG)

    def write(self, result: Segmentation) -> Path:
        """Write mask and overlay, and return the path of the mask.

        Raises:
            ValueError: if that is impossible, or the picture cannot be read any more.
        """
        output = self._outputs[Path(result.file)]
        picture = Image.fromarray(result.picture())
        mask = colour_mask(result.mask, self._palette)
        overlay = Image.blend(picture, mask.convert("RGB"), 0.5)
        overlay.thumbnail((JPEG_SIDE, JPEG_SIDE))
        files.write_output(output, _encode(mask, "PNG"), FLAG)
        files.write_output(_beside(output), _encode(overlay, "JPEG", quality=90), FLAG)
        if self._sheet is not None:
            self._sheet.add(result.file, picture, mask)
            if self._sheet.full:
                self.finish()
        return output

    def finish(self) -> None:
        """Write the contact sheet of what is not on one yet.

        Raises:
            ValueError: if it cannot be written.
        """
        if self._sheet is not None and self._sheet.rows:
            files.write_output(self._pages.pop(0), _encode(self._sheet.draw(), "PNG"), FLAG)


def _beside(output: Path) -> Path:
    """Return where the overlay of a mask goes."""
    return output.with_suffix(".overlay.jpg")


def _encode(image: Image.Image, kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
