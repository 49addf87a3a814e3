"""One picture file as pixels: what people have, opened with the least of Pillow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from has8.data.listing import open_image
from has8.data.names import crop_of
from has8.errors import BadInput

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "GIF")
"""What is read. Pillow knows forty more, some of which start other programs."""
LARGEST_PIXELS = 50_000_000
"""Most pixels of a picture; a transparent one on its side takes 0.85 GB at most."""
LARGEST_BYTES = 1 << 29
"""Most bytes of a picture's file."""
DEEP_WHITE = 65535
"""The integer that stands for 1.0 in a picture of more than 8 bits."""
ORIENTATION = 0x0112
"""The EXIF entry that says how the camera was held."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What puts a picture upright, for each orientation but the first."""


def read_square(file: Path, size: int, preprocess: str) -> Tensor:
    """Read a picture, of several frames the first, upright, as a square of RGB.

    Pictures of 8 bits give ``uint8[3, size, size]``, where 255 stands for 1. Grey ones of more bits
    give ``float32[3, size, size]`` in [0, 1], a view of one channel: their integers stand for
    65535ths, however many bits are used, so that 12-bit data in 16 bits reach 4095 / 65535; floats
    are taken as they are. Transparent pictures lie on black.

    Args:
        file: the picture; its format is told by what it holds, not by its name.
        size: side in pixels.
        preprocess: see :func:`has8.data.names.crop_of`.

    Raises:
        BadInput: if it is no whole picture of one of FORMATS, too large, or holds values that no
            range is known for: integers outside 0..65535, floats outside [0, 1].
    """
    picture = _read(file)
    crop = crop_of(preprocess)
    assert crop is not None
    resampling = Image.Resampling[crop[0].upper()]
    if crop[1]:
        picture = ImageOps.fit(picture, (size, size), resampling, bleed=(1 - crop[1]) / 2)
    else:
        picture = picture.resize((size, size), resampling)
    if picture.mode == "F":
        grey = torch.from_numpy(np.array(picture)).clamp_(0, 1)  # rounding may step over 1
        return grey.expand(3, size, size)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def _read(file: Path) -> Image.Image:
    """The whole picture in mode RGB, or F in [0, 1] if it is a deep one."""
    try:
        with open_image(file) as opened:
            if (count := os.fstat(opened.fileno()).st_size) > LARGEST_BYTES:
                raise BadInput(
                    f"{file} has {count:,} bytes, expected at most {LARGEST_BYTES:,}: scale it down"
                )
            with Image.open(opened, formats=FORMATS) as image:
                if image.width * image.height > LARGEST_PIXELS:
                    raise _too_many_pixels(file)
                image.load()
                return _plain(_upright(image))
    except BadInput:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels(file) from None
    except UnidentifiedImageError:
        reason = f"it is none of {', '.join(FORMATS)}"
    except Exception as error:  # the decoders raise anything for bytes that are wrong
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    raise BadInput(f"{file} cannot be read as an image ({reason}): replace it, or remove it")


def _too_many_pixels(file: Path) -> BadInput:
    return BadInput(
        f"{file} has more than {LARGEST_PIXELS:,} pixels, the most that has8 reads: scale it down"
    )


def _upright(image: Image.Image) -> Image.Image:
    """The picture as EXIF says it was held; as it is where that cannot be read."""
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # the block is wrong in some way, which is no fault of the pixels
        turn = None
    return image if turn is None else image.transpose(turn)


def _plain(image: Image.Image) -> Image.Image:
    """In mode RGB, or F in [0, 1] if it is a deep one.

    Raises:
        ValueError: for values out of range, or a mode that has no RGB.
    """
    if image.mode == "F":
        _check_range(np.asarray(image), 1)
        return image
    if image.mode.startswith("I"):
        deep = np.asarray(image)
        _check_range(deep, DEEP_WHITE)
        unit = deep.astype(np.float32) / DEEP_WHITE
        if isinstance(clear := image.info.get("transparency"), int):
            unit[deep == clear] = 0
        return Image.fromarray(unit)
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        solid = image.convert("RGBA")
        ground = Image.new("RGB", image.size)
        ground.paste(solid, mask=solid.getchannel("A"))
        return ground
    return image.convert("RGB")


def _check_range(values: np.ndarray[Any, Any], white: int) -> None:
    low, high = values.min(), values.max()
    if not 0 <= low <= high <= white:  # false for NaN, too
        raise ValueError(f"its values reach from {low} to {high}, expected 0 to {white}")
