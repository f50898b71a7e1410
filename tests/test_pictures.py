"""One picture decoder for files, bytes and PIL images: what a viewer shows, or one sentence."""

import io
import struct
import zlib

import numpy as np
import pillow_heif
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from talkhead.media.read import MediaWarning, read_image
from talkhead.tracking.detectors import DlibDetector
from talkhead.tracking.portrait import find_face, read_portrait

pillow_heif.register_heif_opener()


def scene(height=48, width=64):
    """A smooth picture without symmetry: red grows to the right, green downwards, the top left corner is blue."""
    y, x = np.mgrid[:height, :width]
    blue = 200.0 * ((x < width // 3) & (y < height // 3))
    return np.stack([x * 200 / width + 20, y * 200 / height + 20, blue], -1).astype(np.uint8)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def hwc(tensor):
    return tensor.permute(1, 2, 0).numpy()


def difference(read, expected):
    assert read.shape == np.asarray(expected).shape
    return np.abs(read.astype(float) - np.asarray(expected).astype(float)).mean()


LOSSY = {"JPEG": {"quality": 95}, "WEBP": {"quality": 95}, "AVIF": {"quality": 95}, "HEIF": {"quality": 95}}
LOSSLESS = {"PNG": {}, "TIFF": {}, "BMP": {}, "PPM": {}, "TGA": {}, "JPEG2000": {}, "GIF": {}, "ICO": {}}


@pytest.mark.parametrize("kind", [*LOSSY, *LOSSLESS])
def test_every_format_through_every_door(tmp_path, kind):
    picture = Image.fromarray(scene(64, 64))
    data = saved(picture, kind, **LOSSY.get(kind, LOSSLESS.get(kind)))
    (tmp_path / "%03d.txt").write_bytes(data)  # the content counts, not the name
    read = read_image(tmp_path / "%03d.txt")
    assert difference(hwc(read), scene(64, 64)) < (4 if kind in LOSSY or kind == "GIF" else 0.01)
    with Image.open(io.BytesIO(data)) as opened:
        for door in (data, bytearray(data), str(tmp_path / "%03d.txt"), opened):
            assert torch.equal(read_portrait(door), read)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(scene())
    # EXIF 2.32: what has to be done to the stored picture; numpy alone says it.
    half, mirror = (lambda a: np.rot90(a, 2)), (lambda a: a.transpose(1, 0, 2))
    right, left = (lambda a: np.rot90(a, -1)), (lambda a: np.rot90(a, 1))
    turns = [np.copy, np.fliplr, half, np.flipud, mirror, right, lambda a: half(mirror(a)), left]
    data = saved(stored, kind, exif=exif, **LOSSY.get(kind, {}))
    assert difference(hwc(read_image(data)), turns[orientation - 1](scene())) < 4


def test_a_damaged_exif_block_is_told_with_the_pictures_name(tmp_path):
    exif, path = Image.Exif(), tmp_path / "phone.jpg"
    exif[0x0112], exif[0x010E] = 6, "a description that does not fit into the entry"
    data = saved(Image.fromarray(scene()), "JPEG", exif=exif)
    entries = data.index(b"Exif\0\0") + 6 + 8  # how many follow: 2; now 48, which there is no room for
    path.write_bytes(data[:entries] + b"\0\x30" + data[entries + 2 :])
    with pytest.warns(MediaWarning, match=r"phone\.jpg.*EXIF") as told:
        read_image(path)
    assert len(told) == 1


def test_a_heic_of_tiles_is_one_picture():
    data = saved(Image.fromarray(scene(256, 384)), "HEIF", quality=90, tile_size=128)
    assert data.count(b"hvc1") >= 6  # as phones write it
    assert difference(hwc(read_image(data)), scene(256, 384)) < 4


def test_the_primary_picture_of_a_heic():
    pictures = [Image.fromarray(np.full((64, 64, 3), level, np.uint8)) for level in (0, 128, 255)]
    data = saved(pictures[0], "HEIF", save_all=True, append_images=pictures[1:], primary_index=1, quality=95)
    assert abs(float(read_image(data).float().mean()) - 128) < 3


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_the_first_frame_of_an_animation(kind):
    frames = [Image.fromarray(np.full((32, 32, 3), level, np.uint8)) for level in (200, 40)]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    assert abs(float(read_image(data).float().mean()) - 200) < 3


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_transparency_shows_one_plain_background(kind):
    generator = np.random.default_rng(0)
    rgba = generator.integers(0, 256, (64, 64, 4), dtype=np.uint8)  # what no viewer shows
    rgba[..., 3] = 0
    rgba[20:40, 20:40] = (10, 200, 30, 255)
    rgba[50:60, 20:40] = (0, 0, 0, 128)
    options = {"WEBP": {"lossless": True, "exact": True}, "AVIF": {"quality": 100}, "HEIF": {"quality": 100}}
    read = hwc(read_image(saved(Image.fromarray(rgba), kind, **options.get(kind, {})))).astype(float)
    outside = np.ones((64, 64), bool)
    outside[16:64, 16:44] = False
    assert read[outside].std() < 1 and abs(read[outside].mean() - 255) < 1
    assert np.abs(read[25:35, 25:35] - (10, 200, 30)).max() < 6
    assert np.abs(read[53:57, 25:35] - 127).max() < 6


@pytest.mark.parametrize("mode", ["LA", "P", "L", "RGB", "1"])
def test_transparency_of_every_mode(mode):
    grey = Image.fromarray(np.full((16, 16), 60, np.uint8)).convert(mode)
    if mode == "LA":
        grey.putalpha(Image.fromarray(np.triu(np.full((16, 16), 255, np.uint8))))
        read = read_image(saved(grey, "PNG"))
        assert read[0, 12, 2] == 255 and read[0, 2, 12] == 60
    else:  # the one colour there is means "transparent"
        assert read_image(saved(grey, "PNG", transparency=grey.getpixel((0, 0)))).min() == 255


def test_opacity_on_request_leaves_the_colours():
    rgba = np.dstack([scene(), np.zeros((48, 64), np.uint8)])
    read = hwc(read_image(saved(Image.fromarray(rgba), "PNG"), opacity=True))
    assert np.array_equal(read, rgba)
    assert read_image(saved(Image.fromarray(scene()), "PNG"), opacity=True)[3].min() == 255


def test_colour_profiles_become_srgb():
    # Of a profile whose three primaries are sRGB's but whose curve is a square: 0.5 means 0.25 of the light.
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    as_bytes = with_curve(profile.tobytes(), 2.0)
    read = hwc(read_image(saved(Image.fromarray(np.full((8, 8, 3), 128, np.uint8)), "PNG", icc_profile=as_bytes)))
    light = (128 / 255) ** 2
    assert np.abs(read - (1.055 * light ** (1 / 2.4) - 0.055) * 255).max() < 2
    plain = saved(Image.fromarray(scene()), "PNG", icc_profile=profile.tobytes())
    assert difference(hwc(read_image(plain)), scene()) < 1
    grey = saved(Image.fromarray(scene()[..., 0]), "PNG", icc_profile=as_bytes)  # phones put RGB's on grey pictures
    assert read_image(grey).shape == (3, 48, 64)
    with pytest.warns(MediaWarning, match="colour profile"):
        damaged = saved(Image.fromarray(scene()), "PNG", icc_profile=b"no profile" * 20)
        assert np.array_equal(hwc(read_image(damaged)), scene())


def with_curve(profile, gamma):
    """Replace the tone curves of a matrix profile by a power (ICC.1: type curv with one entry of 8.8 bits)."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    table = bytearray(profile)
    for index in range(struct.unpack(">I", profile[128:132])[0]):
        at = 132 + 12 * index
        if profile[at : at + 4] in (b"rTRC", b"gTRC", b"bTRC"):
            table[at + 4 : at + 12] = struct.pack(">II", len(profile), len(curve))
    table[:4] = struct.pack(">I", len(profile) + len(curve))
    return bytes(table) + curve


def test_a_png_of_linear_light_is_brightened():
    light = np.full((8, 8, 3), 55, np.uint8)  # 0.2157 of the light is grey level 127
    data = saved(Image.fromarray(light), "PNG")
    gamma = struct.pack(">I", 100_000)
    assert abs(float(read_image(data[:33] + chunk(b"gAMA", gamma) + data[33:]).float().mean()) - 127) < 2
    assert read_image(data).float().mean() == 55


def test_sixteen_bits():
    wide = (scene()[..., 0].astype(np.uint16)) * 257
    for kind in ("PNG", "TIFF", "PPM", "JPEG2000"):
        read = read_image(saved(Image.fromarray(wide), kind))
        assert np.array_equal(read[0].numpy(), scene()[..., 0]) and torch.equal(read[0], read[2]), kind
    pixels = struct.pack(">6H", 0x8000, 0xFFFF, 0x1234, 0xFFFF, 0x4000, 0x0000)  # grey, alpha
    read = read_image(png(3, 1, 16, 4, b"\0" + pixels))
    assert read[0].flatten().tolist() == [128, 18, 255]
    pixels = struct.pack(">8H", 0x8000, 0x4000, 0xFF00, 0xFFFF, 0x8000, 0x4000, 0xFF00, 0x0000)
    assert read_image(png(2, 1, 16, 6, b"\0" + pixels))[:, 0].T.tolist() == [[128, 64, 255], [255, 255, 255]]


def test_sixteen_bits_of_tiff():
    """0 is white, or the channels lie apart: what Pillow reads without a word as another picture."""
    wide = scene()[..., 0].astype(np.uint16) * 257
    data = saved(Image.fromarray(65535 - wide), "TIFF", tiffinfo={262: 0})
    assert np.array_equal(read_image(data)[0].numpy(), scene()[..., 0])
    tifffile = pytest.importorskip("tifffile")
    apart = io.BytesIO()
    tifffile.imwrite(apart, scene().transpose(2, 0, 1).astype(np.uint16) * 257, photometric="rgb", planarconfig=2)
    with pytest.raises(ValueError, match="16-bit colours in separate planes"):
        read_image(apart.getvalue())


# ITU-R BT.2100's signal of a grey, and what BT.709 makes of it: 18 % grey of HLG's camera;
# 100 cd/m2, half of reference white (203), is 0.508 of PQ's signal.
HDR = {18: ((3 * 0.18 * 0.265) ** 0.5, 1.099 * 0.18**0.45 - 0.099), 16: (0.508, (100 / 203) ** (1 / 2.4))}


@pytest.mark.parametrize("transfer", HDR)
@pytest.mark.parametrize("kind", ["PNG", "AVIF", "HEIF"])
def test_hdr_stills_are_turned_into_standard_range(kind, transfer):
    signal, right = HDR[transfer]
    grey = Image.fromarray(np.full((32, 32, 3), round(signal * 255), np.uint8))
    if kind == "PNG":  # its chunk says the code points of ITU-T H.273
        data = saved(grey, "PNG")
        data = data[:33] + chunk(b"cICP", bytes([9, transfer, 0, 1])) + data[33:]
    elif kind == "HEIF":
        told = {"color_primaries": 9, "transfer_characteristics": transfer, "matrix_coefficients": 9}
        data = saved(grey, "HEIF", quality=95, full_range_flag=1, save_nclx_profile=True, **told)
    else:
        data = saved(grey, "AVIF", quality=95)
        at = data.index(b"colrnclx") + 8
        data = data[:at] + struct.pack(">2H", 9, transfer) + data[at + 4 :]
    with pytest.warns(MediaWarning, match="HDR"):
        read = read_image(data)
    assert abs(read.float().mean() / 255 - right) < 0.02


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width, height, depth, colour, rows):
    """Write a PNG from its filtered rows: the standard library alone."""
    header = struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_cmyk_and_lab():
    cmyk = Image.fromarray(scene()).convert("CMYK")
    assert difference(hwc(read_image(saved(cmyk, "JPEG", quality=95))), scene()) < 4
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(Image.fromarray(scene()), to_lab)
    assert difference(hwc(read_image(saved(lab, "TIFF"))), scene()) < 3


def test_grey_of_floats_is_refused(tmp_path):
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif.*8 or 16 bits"):
        read_image(tmp_path / "a.tif")


# GIF and TIFF are read in rows, WebP, AVIF and HEIF as a whole; none says nothing.
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "HEIF", "PPM", "TGA"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_picture_cut_off_is_refused_by_name(tmp_path, kind, share):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8))
    data = saved(noise, kind, **LOSSY.get(kind, {}))
    path = tmp_path / "cut.picture"
    path.write_bytes(data[: round(len(data) * share)])
    with pytest.raises(ValueError, match=r"cut\.picture") as error:
        read_image(path)
    assert "\n" not in str(error.value)


def test_a_pil_image_cut_off_is_refused():
    data = saved(Image.fromarray(scene(256, 256)), "JPEG", quality=95)
    with Image.open(io.BytesIO(data[: len(data) // 2])) as picture, pytest.raises(ValueError, match="cut off"):
        read_portrait(picture)


def test_bombs_are_refused_before_they_are_decoded(tmp_path):
    # 12 GB of pixels in 12 kB; decoding them would take minutes and all memory.
    rows = zlib.compressobj().compress(b"")
    path = tmp_path / "bomb.png"
    path.write_bytes(png(64000, 64000, 8, 2, rows))
    with pytest.raises(ValueError, match=r"bomb\.png.*pixels"):
        read_image(path)
    with pytest.raises(ValueError, match="at most 89478485 pixels; got 10000x9000 px"):
        read_image(png(10000, 9000, 8, 2, rows))


def test_what_is_no_picture(tmp_path):
    for name, content in {
        "a.png": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        "b.jpg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "c.heic": b"\0\0\0\x18ftypheic" + bytes(200),
        "d.png": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "e.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name) as error:
            read_image(tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", [np.zeros((2, 2, 3), np.uint8), None, 7])
def test_what_is_no_file_is_refused(source):
    with pytest.raises(ValueError, match="^image: read_image takes a file, its bytes or a PIL image; got "):
        read_image(source)


def test_small_faces():
    """A face 25 px high in a thumbnail is found; one that is not is told how large it must be."""
    skimage = pytest.importorskip("skimage")
    face = Image.fromarray(skimage.data.astronaut()).crop((100, 0, 356, 256))
    detector = DlibDetector()
    tiny = torch.from_numpy(np.array(face.resize((60, 60), Image.Resampling.LANCZOS))).permute(2, 0, 1)
    points = find_face(tiny, detector, "largest")
    large = find_face(torch.from_numpy(np.array(face)).permute(2, 0, 1), detector, "largest")
    assert (points - ((large + 0.5) * 60 / 256 - 0.5)).norm(dim=1).mean() < 1.5  # px of 60
    blank = torch.full((3, 30, 30), 128, dtype=torch.uint8)
    with pytest.raises(ValueError, match="at least 40 px high"):
        find_face(blank, detector, "largest")


def test_pillow_agrees_on_a_photograph(shared_data):
    path = sorted(shared_data("london_faces").glob("*_neutral.jpg"))[0]
    with Image.open(path) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    assert difference(hwc(read_image(path)), expected) < 1.5  # the profile apart
