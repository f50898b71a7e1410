"""The landmark detectors that come with the library; their public door is ``talkhead.tracking.track``."""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from talkhead.devices import chosen_device
from talkhead.short_repr import short_repr

Box = tuple[float, float, float, float]


@short_repr
@dataclass(frozen=True, eq=False)
class Detection:
    """One face.

    Attributes:
        landmarks: (68, 2) float32 px, (x, y), origin at the centre of the top-left pixel.
        confidence: how sure the face detector is, 0..1; comparable within one detector only.
        box: (x0, y0, x1, y1) px around the face as its detector draws it.
    """

    landmarks: Tensor
    confidence: float
    box: Box


class DlibDetector:
    """dlib's HOG face detector and its 68-point regression trees (Kazemi and Sullivan, 2014); offline.

    The model file comes with the package ``face_recognition_models`` and is for research use only (iBUG 300-W).

    dlib rounds points to whole pixels and starts from the detector's box, which moves in coarse steps. So the face is
    enlarged, the trees are run from a box refitted to a first result, and the mean over slightly shifted boxes is
    taken: see ``docs/measurements/tracking.md`` for what each step gains.
    """

    name = "dlib"
    threshold = 0.3
    """Least HOG score of a face in a whole picture; speakers' frontal faces score 0.5 to 2.5, patterns up to 0.15."""
    face_size = 400
    """px to which the face's box is enlarged before the trees see it."""
    shifts = ((0.0, 0.0), (-0.04, 0.0), (0.04, 0.0), (0.0, -0.04), (0.0, 0.04))
    """Places of the box, in box sides, over which the trees' results are averaged."""

    def __init__(self) -> None:
        """Load the models.

        Raises:
            ImportError: if dlib or its model file is not installed.
        """
        hint = "detector 'dlib' needs {}; run: pip install dlib-bin face-recognition-models"
        if importlib.util.find_spec("dlib") is None:
            raise ImportError(hint.format("the package dlib"))
        model = dlib_model("shape_predictor_68_face_landmarks.dat")
        if model is None:
            raise ImportError(hint.format("the model file of face-recognition-models"))
        import dlib

        self._dlib = dlib
        self._faces = dlib.get_frontal_face_detector()
        self._predictor = dlib.shape_predictor(str(model))

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave dlib's objects out: a worker process loads them again."""
        return type(self), ()

    def __call__(self, image: Tensor, face: str | int = "largest") -> Detection | None:
        """Find one face in a picture; see ``LandmarkDetector``.

        Faces are searched at growing resolutions until one is found, from 80 px at a picture scaled to 640 px.

        Raises:
            ValueError: if the picture or ``face`` is of another kind.
        """
        _check_request(image, face)
        grey = _grey(image)
        for scale in _search_scales(image.shape[-2:], face):
            found = self._search(grey, scale)
            chosen = _choose([box for box, _ in found], face, image.shape[-2:])
            if chosen is not None:
                return self._fit(grey, *found[chosen])
        return None

    def follow(self, image: Tensor, previous: Detection) -> Detection | None:
        """Find the face of the frame before, near where it was.

        Args:
            image: (3, H, W) uint8 RGB.
            previous: the face in the frame before.

        Returns:
            The face, or None where it is not there any more.
        """
        x0, y0, x1, y1 = previous.box
        side = (x1 - x0 + y1 - y0) / 2
        grey = _grey(image)
        # HOG sees faces of 80 px and more; at 100 px the box may shrink by a fifth from one frame to the next.
        patch, zoom, corner = _zoomed(grey, ((x0 + x1) / 2, (y0 + y1) / 2), 2 * side, 200)
        found = [(_back(box, zoom, corner), score) for box, score in self._hog(patch, 0.0)]
        found = [(box, score) for box, score in found if _overlap(box, previous.box) > 0.3]
        if not found:
            return None
        return self._fit(grey, *max(found, key=lambda item: _overlap(item[0], previous.box)))

    def _search(self, grey: Tensor, scale: float) -> list[tuple[Box, float]]:
        height, width = grey.shape
        size = (max(round(height * scale), 1), max(round(width * scale), 1))
        picture = grey if scale == 1 else F.interpolate(grey[None, None], size, mode="bilinear", antialias=True)[0, 0]
        return [(_back(box, scale, (0, 0)), score) for box, score in self._hog(picture, self.threshold)]

    def _hog(self, grey: Tensor, threshold: float) -> list[tuple[Box, float]]:
        rectangles, scores, _ = self._faces.run(grey.round().to(torch.uint8).numpy(), 0, threshold)
        return [((r.left(), r.top(), r.right(), r.bottom()), s) for r, s in zip(rectangles, scores, strict=True)]

    def _fit(self, grey: Tensor, box: Box, score: float) -> Detection:
        side = (box[2] - box[0] + box[3] - box[1]) / 2
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        patch, zoom, corner = _zoomed(grey, middle, 2.2 * side, round(2.2 * self.face_size))
        array = patch.round().to(torch.uint8).numpy()
        centre = torch.tensor(middle)
        start = (centre + 0.5 - torch.tensor(corner)) * zoom - 0.5
        points = self._points(array, start, side * zoom)
        points = self._refine(array, points)
        landmarks = (points + 0.5) / zoom - 0.5 + torch.tensor(corner)
        return Detection(landmarks.float(), _confidence(score), box)

    def _refine(self, array: Any, points: Tensor) -> Tensor:
        centre, side = _box_of_points(points)
        runs = [self._points(array, centre + side * torch.tensor(shift), side) for shift in self.shifts]
        return torch.stack(runs).mean(0)

    def _points(self, array: Any, centre: Tensor, side: float) -> Tensor:
        (x0, y0), (x1, y1) = (centre - side / 2).round().tolist(), (centre + side / 2).round().tolist()
        shape = self._predictor(array, self._dlib.rectangle(int(x0), int(y0), int(x1), int(y1)))
        return torch.tensor([(p.x, p.y) for p in shape.parts()], dtype=torch.float32)


def _box_of_points(points: Tensor) -> tuple[Tensor, float]:
    """Return centre and side of the box that dlib's detector would draw around these landmarks.

    Fitted to 100 boxes of 10 people: side / spread of the inner points 3.44 +- 0.26, centre 0.027 sides below theirs.
    """
    inner = points[17:]
    spread = float((inner - inner.mean(0)).square().sum(-1).mean().sqrt())
    side = 3.44 * spread
    return inner.mean(0) + torch.tensor([0.0, 0.027 * side]), side


def _zoomed(
    image: Tensor, centre: tuple[float, float], side: float, size: int
) -> tuple[Tensor, float, tuple[int, int]]:
    """Cut a square from (..., H, W) and resize it; returns it, the exact zoom and the square's corner in px."""
    width = max(round(side), 8)
    left, top = round(centre[0] - width / 2), round(centre[1] - width / 2)
    rows = torch.arange(top, top + width).clamp(0, image.shape[-2] - 1)
    columns = torch.arange(left, left + width).clamp(0, image.shape[-1] - 1)
    square = image[..., rows[:, None], columns].reshape(1, -1, width, width)
    resized = F.interpolate(square, (size, size), mode="bilinear", antialias=size < width)
    return resized.reshape(*image.shape[:-2], size, size), size / width, (left, top)


def _back(box: Box, zoom: float, corner: tuple[int, int]) -> Box:
    """Turn a box of a resized square into px of the picture (half-pixel convention)."""
    left, top = corner
    x0, y0, x1, y1 = ((value + 0.5) / zoom - 0.5 for value in box)
    return (x0 + left, y0 + top, x1 + left, y1 + top)


class FaceAlignmentDetector:
    """The face-alignment package: S3FD finds faces, a 2D-FAN network their landmarks (Bulat and Tzimiropoulos, 2017).

    The package itself returns whole px. Here its networks are run on a crop resampled with the half-pixel convention,
    and each heat map's peak is interpolated, so that points are sub-pixel.

    The two weight files (180 MB) are looked for in torch's hub cache before anything else is done; where they are
    missing they are downloaded, unless ``HF_HUB_OFFLINE`` or ``TALKHEAD_OFFLINE`` is set.
    """

    name = "face-alignment"
    weights = ("2DFAN4-11f355bf06.pth.tar", "s3fd-619a316812.pth")
    url = "https://www.adrianbulat.com/downloads/python-fan/"

    def __init__(self, device: str | torch.device = "auto") -> None:
        """Load the networks.

        Args:
            device: where they run, see ``chosen_device``.

        Raises:
            ImportError: if face-alignment is not installed.
            FileNotFoundError: if the weights are neither in the cache nor can be downloaded.
        """
        self._device = str(chosen_device(device))
        if importlib.util.find_spec("face_alignment") is None:
            raise ImportError(
                "detector 'face-alignment' needs the package face-alignment; run: pip install face-alignment"
            )
        _ensure_weights(self.weights, self.url)
        import face_alignment

        kind = face_alignment.LandmarksType.TWO_D
        # compile=True (the default) would spend minutes and write to the user's home on first use.
        self._net = face_alignment.FaceAlignment(kind, device=self._device, compile=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the networks out: a worker process loads them again."""
        return type(self), (self._device,)

    def __call__(self, image: Tensor, face: str | int = "largest") -> Detection | None:
        """Find one face in a picture; see ``LandmarkDetector``.

        Raises:
            ValueError: if the picture or ``face`` is of another kind.
        """
        _check_request(image, face)
        found = self._search(image)
        chosen = _choose([box for box, _ in found], face, image.shape[-2:])
        if chosen is None:
            return None
        box, confidence = found[chosen]
        return Detection(self._fit(image, box), confidence, box)

    def follow(self, image: Tensor, previous: Detection) -> Detection | None:
        """Find the face of the frame before: the one whose box overlaps most with where it was.

        Args:
            image: (3, H, W) uint8 RGB.
            previous: the face in the frame before.

        Returns:
            The face, or None where it is not there any more.
        """
        found = self._search(image)
        near = [f for f in found if _overlap(f[0], previous.box) > 0.3]
        if not near:
            return None
        box, confidence = max(near, key=lambda f: _overlap(f[0], previous.box))
        return Detection(self._fit(image, box), confidence, box)

    def _search(self, image: Tensor) -> list[tuple[Box, float]]:
        array = image.permute(1, 2, 0).contiguous().cpu().numpy()
        found = self._net.face_detector.detect_from_image(array)
        return [((float(f[0]), float(f[1]), float(f[2]), float(f[3])), float(f[4])) for f in found]

    def _fit(self, image: Tensor, box: Box) -> Tensor:
        from face_alignment.utils import flip

        width, height = box[2] - box[0], box[3] - box[1]
        # The place of the crop that 2D-FAN was trained with: 12 % of the box above its middle, 200 px for 195 of box.
        centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2 - 0.12 * height)
        side = (width + height) * 200 / 195
        patch, zoom, corner = _zoomed(image.cpu().float(), centre, side, 256)
        patch = patch[None].to(self._device) / 255
        heat = self._heat(patch) + flip(self._heat(flip(patch)), is_label=True)
        points = _peaks(heat[0].float().cpu())
        return (points + 0.5) * (patch.shape[-1] / heat.shape[-1] / zoom) - 0.5 + torch.tensor(corner)

    @torch.no_grad()
    def _heat(self, patch: Tensor) -> Tensor:
        """Return (1, 68, 64, 64) heat maps; some versions of the network return one per hourglass."""
        heat = self._net.face_alignment_net(patch)
        return heat[-1] if isinstance(heat, list | tuple) else heat


def _peaks(heat: Tensor) -> Tensor:
    """Return (K, 2) places (x, y) of the peaks of (K, H, W) heat maps, exact where a peak is a Gaussian."""
    count, height, width = heat.shape
    best = heat.flatten(1).argmax(1)
    x, y = (best % width).clamp(1, width - 2), (best // width).clamp(1, height - 2)
    log, k, step = heat.clamp(min=1e-6).log(), torch.arange(count), torch.tensor([-1, 0, 1])
    # The logarithm of a Gaussian is a parabola: its vertex lies at (a - c) / 2(a - 2b + c) from the middle sample.
    rows, columns = log[k[:, None], y[:, None], x[:, None] + step], log[k[:, None], y[:, None] + step, x[:, None]]
    shifts = [(v[:, 0] - v[:, 2]) / (2 * (v[:, 0] - 2 * v[:, 1] + v[:, 2]).clamp(max=-1e-6)) for v in (rows, columns)]
    return torch.stack([x, y], -1) + torch.stack(shifts, -1).clamp(-1, 1)


def _choose(boxes: list[Box], face: str | int, size: torch.Size) -> int | None:
    """Return which of the boxes is meant, or None."""
    if not boxes or (isinstance(face, int) and not 0 <= face < len(boxes)):
        return None
    indices = range(len(boxes))
    if isinstance(face, int):
        return sorted(indices, key=lambda i: boxes[i][0] + boxes[i][2])[face]
    if face == "largest":
        return max(indices, key=lambda i: (boxes[i][2] - boxes[i][0]) * (boxes[i][3] - boxes[i][1]))
    height, width = size
    middle = torch.tensor([(width - 1) / 2, (height - 1) / 2])
    centres = [torch.tensor([(b[0] + b[2]) / 2, (b[1] + b[3]) / 2]) for b in boxes]
    return min(indices, key=lambda i: float((centres[i] - middle).norm()))


def _check_request(image: Tensor, face: str | int) -> None:
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image must be (3, H, W) uint8 RGB; got {tuple(image.shape)}, {image.dtype}")
    check_face(face)


def check_face(face: str | int) -> None:
    """Raise a ValueError unless ``face`` says which face is meant; see ``LandmarkDetector``."""
    if face not in ("largest", "center") and (not isinstance(face, Integral) or face < 0):
        raise ValueError(f"face must be 'largest', 'center' or an index from 0 (the leftmost); got {face!r}")


def _grey(image: Tensor) -> Tensor:
    """Return (H, W) float32 grey, 0..255: the plain mean of the channels, as dlib's trees take it."""
    return image.cpu().float().mean(0)


def _search_scales(size: torch.Size, face: str | int) -> list[float]:
    """Return the zooms at which to look for faces: HOG sees those of 80 px and more, large pictures cost seconds."""
    longest = max(size)
    if face != "largest":
        # To count faces, or to find the middle one, all of them must be seen at once.
        return [min(1280 / longest, 2.0)]
    # In a thumbnail, which costs nothing to enlarge, faces of 20 px are still found.
    return sorted(
        {min(640 / longest, 1.0), min(1280 / longest, 2.0), min(2560 / longest, 2.0 if longest > 160 else 4.0)}
    )


def _confidence(score: float) -> float:
    """Squash a HOG score (0: at the threshold, 2: a clear frontal face) into 0..1."""
    return float(1 - torch.exp(torch.tensor(-score)))


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (a, b)]
    return width * height / max(sum(areas) - width * height, 1e-6)


def dlib_model(name: str) -> Path | None:
    """Find one of dlib's model files without importing their package, whose import fails beside a new setuptools."""
    spec = importlib.util.find_spec("face_recognition_models")
    places = [Path(folder) / "models" / name for folder in (spec and spec.submodule_search_locations) or []]
    return next((path for path in places if path.exists()), None)


def weights_folder() -> Path:
    """Return the folder in which torch keeps downloaded weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def missing_weights(names: Iterable[str]) -> list[str]:
    """Return those of the weight files that are not in torch's folder."""
    return [name for name in names if not (weights_folder() / name).exists()]


def offline() -> bool:
    """Say whether downloads are forbidden (``HF_HUB_OFFLINE`` or ``TALKHEAD_OFFLINE`` is set)."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in ("HF_HUB_OFFLINE", "TALKHEAD_OFFLINE"))


def _ensure_weights(names: Iterable[str], url: str) -> None:
    """Download missing weight files; one try, ten seconds of silence at most."""
    missing = missing_weights(names)
    if not missing:
        return
    sentence = (
        f"face-alignment's weights are missing; download {', '.join(url + n for n in missing)} into {weights_folder()}"
    )
    if offline():
        raise FileNotFoundError(sentence)
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)
    try:
        weights_folder().mkdir(parents=True, exist_ok=True)
        for name in missing:
            prefix = name.split("-")[1].split(".")[0]
            torch.hub.download_url_to_file(url + name, str(weights_folder() / name), prefix)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(f"{sentence} ({error})") from None
    finally:
        socket.setdefaulttimeout(patience)
