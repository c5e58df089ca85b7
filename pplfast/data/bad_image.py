"""The one exception for an image that cannot be used."""


class BadImage(Exception):
    """A file that cannot be used as an image. `kind` is one of missing, unreadable, empty, not-image, rare-jpeg,
    truncated, channels, range, too-large; of jobs also name, too-small, rotated, memory, damaged, failed."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind
