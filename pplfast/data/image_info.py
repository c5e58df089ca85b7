"""What is known of an image before it is decoded, and which decoder is the one for it."""

from dataclasses import dataclass

from pplfast.data.bad_image import BadImage

DALI = "dali"  # JPEG, and what else it decodes to the same pixels as the libraries do
PILLOW = "pillow"
TIFFFILE = "tifffile"  # with the codecs of imagecodecs
IMAGECODECS = "imagecodecs"
DECODERS = (DALI, PILLOW, TIFFFILE, IMAGECODECS)

AUTO, FULL = "auto", "full"  # words of --range
Values = tuple[float, float]  # of images deeper than 8 bits: what becomes black, and what white


@dataclass(frozen=True)
class ImageInfo:
    """Of the file as stored: an EXIF orientation is not applied."""

    width: int
    height: int
    mode: str  # Pillow's word for its channels: "L", "RGB", "LA", "RGBA", "RGBX", "P", "CMYK", "1"
    orientation: int = 1  # EXIF; 1 is upright
    format: str = "JPEG"  # Pillow's word
    bits: int = 8  # of a channel
    sample: str = "uint"  # of a channel: "uint", "int" or "float"
    frames: int = 1  # 2: two or more, of which the first is used
    alpha: bool = False  # parts of it are transparent, or may be
    inverted: bool = False  # its lowest value is white
    decoder: str = DALI

    @property
    def kind(self) -> str:
        """Format, mode and depth in words, like "PNG RGB 8 bit"."""
        if self.mode == "1":
            return f"{self.format} 1 bit"
        return f"{self.format} {self.mode} {self.bits} bit{'' if self.sample == 'uint' else f' {self.sample}'}"

    @property
    def deep(self) -> bool:
        """Whether its values need a range to become 8 bits."""
        return self.bits > 8 or self.sample != "uint"


def value_range(info: ImageInfo, values: Values | None) -> Values:
    """What of a deep image becomes black, and what white: the data set's range, or without one all that its unsigned
    whole numbers can be. Raises BadImage where there is no such limit: nothing is guessed from a single image."""
    if values is not None:
        return values
    if info.sample == "uint" and info.bits <= 16:
        return 0.0, 2.0**info.bits - 1
    raise BadImage(
        "range",
        f"holds {info.bits}-bit {'numbers with a sign' if info.sample == 'int' else info.sample + ' values'}, which "
        "have no black and white of their own; give --range LOW,HIGH (`pplfast data check` measures it)",
    )
