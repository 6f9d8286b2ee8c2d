"""Images of Pillow. They are lent if Pillow's pixels have the stored layout, else unpacked. They can be written to.

Pillow itself copies an image over a buffer before a write.
"""

from __future__ import annotations

import pickle
from typing import Any

from PIL import Image

from zray.serialization.views.reducer import Reducer

_AS_IN_MEMORY = frozenset(("L", "P", "RGBX", "RGBA", "CMYK", "I;16"))


def reducers() -> dict[type, Reducer]:
    """See ``zray.serialization.views``."""
    return {Image.Image: _reduce_image}


def _reduce_image(image: Any) -> Any:
    *state, data = image.__getstate__()
    return load_image, (state, pickle.PickleBuffer(data))


def load_image(state: list[Any], data: memoryview) -> Any:
    """Undoes ``_reduce_image``."""
    info, mode, size, palette = state
    if mode not in _AS_IN_MEMORY or not all(size):
        image = Image.Image()
        image.__setstate__([*state, data])
        return image
    image = Image.frombuffer(mode, size, data, "raw", mode, 0, 1)
    image.info = info
    if mode in ("L", "P") and palette:
        image.putpalette(palette)
    return image
