"""Decode one picture, from whatever door it comes: a file, bytes or a PIL image (Pillow and pillow-heif).

What is returned is what a viewer shows: upright, in sRGB (HDR in standard range), 8 bits a channel, transparency laid
over white, of several pictures the first (of a HEIC the primary one). Damaged files are refused, and large ones before
they are decoded.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from talkhead.media.colours import HLG, PQ, say_hdr, standard_range
from talkhead.media.write import MediaWarning
from talkhead.one_line import one_line

# Formats whose decoders read the picture's own bytes and nothing else; EPS, for one, would start Ghostscript.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "JPEG2000", "ICO", "PPM", "AVIF", "TGA")

_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51")
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

_BITS, _PHOTOMETRIC, _PLANES = 258, 262, 284
"""Tags of TIFF: bits of a channel, whether 0 is white, whether the channels lie apart."""

PLAIN = (255, 255, 255)
"""The colour that transparent pictures are laid over."""


def decode_picture(source: Any, name: str, opacity: bool = False) -> Tensor | None:
    """Decode a picture as a viewer shows it.

    EXIF orientation 1 to 8 and a HEIC's own rotation are applied; an embedded colour profile is turned into sRGB, HDR
    (HLG, PQ) into standard range with a ``MediaWarning``; 16-bit channels are reduced to 8; transparency is laid over
    ``PLAIN``; of an animation the first frame is taken.

    Args:
        source: a path, the bytes of a file, or a PIL image.
        name: what to call it in messages.
        opacity: return the opacity as a fourth channel, and the colours as they are under it.

    Returns:
        (3 or 4, H, W) uint8 RGB, or None where the content is no picture at all (a video, a sound, a text).

    Raises:
        ValueError: if it is cut off, damaged, has more pixels than ``PIL.Image.MAX_IMAGE_PIXELS`` (89 million, unless
            it has been set to another number), or holds numbers that are no 8- or 16-bit colours.
        OSError: if a file cannot be opened.
    """
    with _named_warnings(name):
        return _decode(source, name, opacity)


_LISTENING = threading.Lock()  # Python keeps one list of filters for all threads


@contextmanager
def _named_warnings(name: str) -> Iterator[None]:
    """Give Pillow's warnings, such as that of a damaged EXIF block, the picture's name, and say each once."""
    with _LISTENING, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    ours = {str(warning.message): issubclass(warning.category, MediaWarning) for warning in caught}
    for said, named in ours.items():
        warnings.warn(said if named else f"{name}: {' '.join(said.split())}", MediaWarning, stacklevel=5)


def _decode(source: Any, name: str, opacity: bool) -> Tensor | None:
    import PIL.Image

    if isinstance(source, PIL.Image.Image):
        return _decoded(source, name, opacity)
    with io.BytesIO(source) if isinstance(source, bytes | bytearray | memoryview) else Path(source).open("rb") as file:
        start = file.read(16)
        file.seek(0)
        brand = start[8:12] if start[4:8] == b"ftyp" else b""
        picture = _opened(file, name, brand in _HEIF)
        if picture is not None:
            return _decoded(picture, name, opacity, _transfer_told(picture, file))
    if start.startswith(_STARTS) or start[8:12] == b"WEBP" or brand in (*_HEIF, b"avif", b"avis"):
        what = "is a damaged picture, or of a kind that is not read, such as floating-point colours"
        raise ValueError(f"image: {name} {what}; save it anew as PNG or JPEG")
    return None


def _transfer_told(picture: Any, file: Any) -> int | None:
    """Return the number of a picture's transfer function (ITU-T H.273), which Pillow passes over; None: not told."""
    if picture.format == "HEIF":
        return (picture.info.get("nclx_profile") or {}).get("transfer_characteristics")
    file.seek(0)
    head = file.read(2**16)
    if picture.format == "PNG":
        at = head.partition(b"IDAT")[0].find(b"cICP")
        return head[at + 5] if 0 < at < len(head) - 5 else None
    # A picture with a gain map holds two colour spaces; the one that is decoded is the standard one.
    boxes = head.split(b"colr")[1:] if picture.format == "AVIF" else []
    told = {int.from_bytes(box[6:8], "big") if box.startswith(b"nclx") else None for box in boxes}
    return told.pop() if len(told) == 1 else None


def _opened(file: Any, name: str, heif: bool) -> Any:
    """Read a picture's header; None where it is none."""
    import PIL.Image

    formats: tuple[str, ...] = _FORMATS
    if heif:
        import pillow_heif

        pillow_heif.register_heif_opener()
        formats = ("HEIF", "AVIF")  # mif1 says "a picture", of either codec
    try:
        return PIL.Image.open(file, formats=formats)
    except PIL.UnidentifiedImageError:
        return None
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        raise ValueError(_too_large(name)) from None
    except Exception as error:  # decoders raise whatever a damaged header leads them to
        raise ValueError(_damaged(name, error)) from None


def _decoded(picture: Any, name: str, opacity: bool, transfer: int | None = None) -> Tensor:
    import PIL.Image

    limit = PIL.Image.MAX_IMAGE_PIXELS
    if limit is not None and picture.width * picture.height > limit:
        raise ValueError(_too_large(name, picture.size))
    try:
        picture.load()
        upright = _upright(picture, name)
        colours, alpha = _in_srgb(_eight_bits(upright, name, getattr(picture, "tag_v2", {})), name)
        if transfer in (HLG, PQ):
            colours = PIL.Image.fromarray(standard_range(np.asarray(colours).astype(np.uint16) * 257, transfer))
            say_hdr(name, transfer)
    except MemoryError:
        raise ValueError(_too_large(name, picture.size)) from None
    except _RefusedError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # decoders raise whatever damaged bytes lead them to
        raise ValueError(_damaged(name, error)) from None
    if opacity:
        colours.putalpha(alpha or PIL.Image.new("L", colours.size, 255))
    elif alpha is not None:
        plain = PIL.Image.new("RGB", colours.size, PLAIN)
        plain.paste(colours, mask=alpha)
        colours = plain
    return torch.from_numpy(np.array(colours).transpose(2, 0, 1).copy())


class _RefusedError(ValueError):
    """The picture is whole, but of a kind that is not read."""


def _too_large(name: str, size: tuple[int, int] | None = None) -> str:
    import PIL.Image

    got = f"{size[0]}x{size[1]} px" if size else "more than that"
    return f"image: {name} must have at most {PIL.Image.MAX_IMAGE_PIXELS} pixels; got {got}, make it smaller first"


def _damaged(name: str, error: Exception) -> str:
    reason = one_line(error, 200)
    return f"image: {name} is cut off or damaged ({reason}); give an undamaged file"


def _upright(picture: Any, name: str) -> Any:
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(picture)
    except Exception as error:  # an EXIF block is a file of its own, and may be damaged in as many ways
        reason = one_line(error)
        warnings.warn(f"{name}: its EXIF data cannot be read ({reason}); shown as stored", MediaWarning, stacklevel=2)
        return picture


def _eight_bits(picture: Any, name: str, tags: Mapping[int, Any]) -> Any:
    """Turn one channel of 16 or 32 bits into 8; Pillow's own conversion clips some of these at 255.

    Args:
        picture: a PIL image.
        name: what to call it in messages.
        tags: TIFF's, of the file that it was read from.
    """
    import PIL.Image

    if not picture.mode.startswith(("I", "F")):
        if tags.get(_PLANES) == 2 and max(tags.get(_BITS, [8])) > 8:  # Pillow reads them as 8-bit
            raise _RefusedError(f"image: {name} holds its 16-bit colours in separate planes; save it as PNG")
        return picture
    values = np.asarray(picture)
    if tags.get(_PHOTOMETRIC) == 0 and picture.mode.startswith("I;16"):  # 0 is white; Pillow turns 8 bits alone
        values = 65535 - values
    if picture.mode == "F" or values.min() < 0 or values.max() > 65535:
        kind = "floating-point" if picture.mode == "F" else "32-bit"
        raise _RefusedError(f"image: {name} holds {kind} grey values; save it with 8 or 16 bits a channel")
    return PIL.Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _in_srgb(picture: Any, name: str) -> tuple[Any, Any]:
    """Return the colours in sRGB, and the transparency where there is any."""
    alpha, profile, gamma = None, picture.info.get("icc_profile"), picture.info.get("gamma")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA" if picture.mode not in ("La", "LA") else "LA")
        alpha = picture.getchannel("A")
        picture = picture.convert("RGB" if picture.mode == "RGBA" else "L")
    if profile:
        return _profiled(picture, profile, name), alpha
    colours = picture.convert("RGB")
    # A PNG's gamma of 1/2.2 is sRGB's; PNG's specification has decoders follow others.
    if gamma and 0.1 < gamma < 10 and abs(gamma * 2.2 - 1) > 0.05:
        curve = (np.linspace(0, 1, 256) ** (1 / (2.2 * gamma)) * 255).round().astype(int).tolist()
        colours = colours.point(curve * 3)
    return colours, alpha


def _profiled(picture: Any, profile: bytes, name: str) -> Any:
    """Turn a picture with an embedded colour profile into sRGB."""
    from PIL import ImageCms

    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = embedded.profile.xcolor_space.strip()
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}[space]
        # Grey pictures often carry a profile of RGB; the others must be of their profile's kind.
        fitting = picture if picture.mode == mode else picture.convert(mode) if mode == "RGB" else None
        if fitting is None:
            raise ValueError(f"it is of {space}, the picture of {picture.mode}")
        return ImageCms.profileToProfile(fitting, embedded, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except Exception as error:  # a profile is a file of its own, and may be damaged in as many ways
        message = f"{name}: its colour profile cannot be used ({error}); its colours are taken as sRGB"
        warnings.warn(message, MediaWarning, stacklevel=2)
        return picture.convert("RGB")
