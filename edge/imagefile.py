"""Pictures from the user: PNG, JPEG and what else Pillow reads, as plain RGB.

``read_image`` gives uint8 [height, width, 3] whatever the file holds: grey becomes three equal channels, transparency is
laid over white, 16-bit values are scaled, the camera's own rotation is applied, of several frames the first is taken.
Raises InputError for a file that is missing, damaged, not a picture or far too large, MissingDependencyError without
Pillow.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge.dependencies import require
from edge.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

#: Pixels: twice a large camera's; what claims more is damaged or meant to exhaust memory.
LARGEST = 100_000_000


def read_image(path: Path | None) -> np.ndarray:
    """uint8 [height, width, 3] of the picture at ``path``."""
    if path is None:
        raise InputError("this task looks at a picture: pass one with --image FILE.")
    require("image", "reading a picture", "PIL")
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not path.exists():
        raise InputError(f"there is no picture at {path}: check the path.")
    if path.is_dir():
        raise InputError(f"{path} is a folder: pass one picture in it.")
    try:
        with warnings.catch_warnings():
            # Pillow remarks on odd metadata; the size is checked here, before anything is decoded.
            warnings.simplefilter("ignore")
            with Image.open(path) as opened:
                if opened.width * opened.height > LARGEST:
                    raise InputError(
                        f"{path} is {opened.width} x {opened.height} pixels, more than {LARGEST // 1_000_000} million: "
                        "scale it down first."
                    )
                return np.asarray(_as_rgb(ImageOps.exif_transpose(opened)))
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is not a picture that Pillow knows: pass a PNG or a JPEG.") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} claims far more pixels than a picture has: scale it down first.") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # A SyntaxError is how Pillow calls a broken PNG.
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"{path} is damaged or cannot be read ({reason}): save or copy it again.") from error


def _as_rgb(image: Image) -> Image:
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        # 16 bits of grey, which Pillow would cut off at 255; other depths are taken as they are.
        scaled = values / 257.0 if values.max(initial=0.0) > 255.0 else values
        image = Image.fromarray(np.clip(np.round(scaled), 0, 255).astype(np.uint8))
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
