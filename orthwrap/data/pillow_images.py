"""Images decoded by Pillow and resized by NumPy, as TensorFlow does it, for where that is not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orthwrap.errors import FileFault, OrthwrapError, is_installed
from orthwrap.stores.regular import open_regular
from orthwrap.text import first_line

_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def check_pillow() -> None:
    """Raises OrthwrapError where Pillow is not installed."""
    if not is_installed("PIL"):
        raise OrthwrapError(
            "images need TensorFlow or Pillow, and neither is installed here: pip install pillow"
        )


def decoded(path: str, channels: int) -> NDArray[np.uint8]:
    """An image file's pixels, height × width × channels; of an animation, the first picture.

    Of a JPEG they may differ by little from what TensorFlow decodes.

    Raises:
        FileFault: it cannot be decoded.
    """
    from PIL import Image

    try:
        with open_regular(path) as file, Image.open(file, formats=_FORMATS) as opened:
            image: Image.Image = opened
            if image.mode.startswith("I"):  # 16 bits, of which Pillow would keep the lower ones
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            pixels = np.asarray(image.convert(_MODES[channels]))
    except Exception as e:  # of Pillow, zlib and struct, each with its own
        raise FileFault(
            f"image {path} cannot be decoded ({first_line(e)}): mend it or remove it"
        ) from e
    return pixels.reshape(*pixels.shape[:2], channels)


def resized(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float32]:
    """Bilinear between the centres of pixels, without smoothing: as `tf.image.resize`."""
    done = image.astype(np.float32)
    for axis, size in enumerate((height, width)):
        there = done.shape[axis]
        if there == size:
            continue
        at = ((np.arange(size) + 0.5) * (there / size) - 0.5).clip(0, there - 1)
        low = at.astype(np.intp)
        part = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        first, second = (done.take(i, axis) for i in (low, np.minimum(low + 1, there - 1)))
        done = first + (second - first) * part
    return done
