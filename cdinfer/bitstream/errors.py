"""The one error of the bitstream layer."""


class BitstreamError(ValueError):
    """Bytes that do not decode: foreign, truncated, damaged or absurd.

    The message is one line and ends with what to do; whoever knows the file's name puts it in
    front.

    Args:
        message: what was expected, what came, what to do.
        index: position of the offending stream in its batch, or None.
    """

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index
