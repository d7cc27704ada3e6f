"""Encoded pictures (PNG, JPEG, ...) to arrays.

Decoding is Pillow's everywhere, so that one file gives the same array, and the same digest, whatever else is
installed.
"""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from robustbench_jax.types import UserError

DEEP = ("I", "F")  # Pillow's modes of more than 8 bits a channel begin so; converting them would clip


def decode(file: Path | BinaryIO, source: str, *, grey: bool) -> np.ndarray:
    """uint8 [H, W, 1] or [H, W, 3]; transparency is dropped. Raises UserError, naming `source`."""
    try:
        with Image.open(file) as picture:
            mode = picture.mode
            image = np.asarray(picture.convert("L" if grey else "RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{source} is no picture, or cut short: {error}") from None
    if mode.startswith(DEEP):
        raise UserError(f"{source} has more than 8 bits a channel (mode {mode}); 8 bits are needed")
    return image.reshape(*image.shape[:2], 1 if grey else 3)


def centre_crop(image: np.ndarray, size: int, resize: int) -> np.ndarray:
    """uint8 [size, size, C]: the shorter side resized to `resize` (bilinear), then the centre cut out."""
    channels = image.shape[-1]
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    scale = resize / min(picture.size)
    wide, high = (max(resize, round(side * scale)) for side in picture.size)
    if (wide, high) != picture.size:
        picture = picture.resize((wide, high), Image.Resampling.BILINEAR)
    left, top = (wide - size) // 2, (high - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size))).reshape(size, size, channels)
