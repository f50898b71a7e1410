import pytest
import torch
from skimage.transform import resize

from talkhead.face.crop import Crop, crop_frames, face_crop, from_crop, paste_crop, to_crop


def test_face_crop_by_hand():
    # Box x 40..140 (100 wide), y 60..140 (80 high): side 1.5 * 100; centre (90, 100) goes up by 10 -> corner (15, 15).
    frame = torch.tensor([[40.0, 60.0], [140.0, 140.0], [90.0, 100.0]])
    assert face_crop(frame) == Crop(15.0, 15.0, 150.0)


def test_face_crop_holds_all_frames_and_leaves_out_missing_ones():
    first = torch.tensor([[40.0, 60.0], [120.0, 140.0]])
    second = first + torch.tensor([20.0, 0.0])
    clip = torch.stack([first, second, torch.full((2, 2), torch.nan)])
    assert face_crop(clip) == face_crop(torch.cat([first, second]))
    crop = face_crop(clip, scale=1.0)
    assert crop.side == 100 and crop.x == 40


@pytest.mark.parametrize(("landmarks", "scale"), [(torch.full((68, 2), torch.nan), 1.5), (torch.ones(68, 2), 0.5)])
def test_face_crop_refuses(landmarks, scale):
    with pytest.raises(ValueError, match="landmarks|scale"):
        face_crop(landmarks, scale)


def test_crop_without_resizing_copies_pixels_and_repeats_the_edge():
    frames = torch.randint(0, 256, (2, 3, 20, 30), dtype=torch.uint8)
    assert torch.equal(crop_frames(frames, Crop(5, 4, 10), 10), frames[..., 4:14, 5:15])
    outside = crop_frames(frames, Crop(-3, -2, 10), 10)
    assert torch.equal(outside[..., 2:, 3:], frames[..., :8, :7])
    assert torch.equal(outside[..., 0, 3:], frames[..., 0, :7])
    assert torch.equal(outside[..., 5, 0], frames[..., 3, 0])


def test_crop_halved_is_the_known_antialiased_average():
    # Halving with an antialiased triangle of half-width 2 px: weights 1, 3, 3, 1 of 8 along each axis.
    frames = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    weights = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    expected = torch.einsum("cij,i,j->c", frames[0, :, 1:5, 1:5].float(), weights, weights)
    small = crop_frames(frames, Crop(0, 0, 8), 4)
    assert (small[0, :, 1, 1].float() - expected).abs().max() <= 0.5 + 1e-3  # rounding to whole grey levels


def test_crop_agrees_with_scikit_image_on_a_smooth_picture():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    image = (127 + 60 * torch.sin(x / 9) + 60 * torch.cos(y / 7)).round().to(torch.uint8).expand(3, 64, 64)
    ours = crop_frames(image, Crop(0, 0, 64), 100)[0].float()
    theirs = torch.from_numpy(resize(image[0].numpy(), (100, 100), order=1, preserve_range=True, mode="edge"))
    assert (ours - theirs).abs().max() <= 1.0  # rounding, and scikit-image's own


def test_points_follow_the_half_pixel_convention():
    # The centre of the crop's 4 top-left px (0.5, 0.5 into the crop) is the centre of px (0, 0) at half size.
    crop = Crop(10, 20, 100)
    assert torch.equal(to_crop(torch.tensor([10.5, 20.5]), crop, 50), torch.zeros(2))
    assert torch.equal(to_crop(torch.tensor([109.0, 119.0]), crop, 100), torch.tensor([99.0, 99.0]))
    points = torch.rand(4, 68, 2) * 200
    assert torch.allclose(from_crop(to_crop(points, crop, 37), crop, 37), points, atol=1e-3)  # float32 at 200 px


@pytest.mark.parametrize("size", [40, 60, 120])
def test_points_and_pictures_move_together(size):
    # A blob drawn at a known place is found at to_crop's place in the resized crop.
    y, x = torch.meshgrid(torch.arange(100.0), torch.arange(100.0), indexing="ij")
    point = torch.tensor([47.3, 52.8])
    blob = 250 * torch.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / 18)
    small = crop_frames(blob.to(torch.uint8).expand(3, 100, 100), Crop(20, 30, 60), size)[0].float()
    grid = torch.arange(float(size))
    centroid = torch.stack([(small.sum(0) * grid).sum(), (small.sum(1) * grid).sum()]) / small.sum()
    expected = to_crop(point, Crop(20, 30, 60), size)
    assert torch.allclose(centroid, expected, atol=0.05)  # px; grey levels are rounded


def test_pasting_back_what_was_cut_changes_nothing():
    picture = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8)
    for crop in (Crop(5, 6, 24), Crop(-8, -4, 30), Crop(35, 25, 30)):
        assert torch.equal(paste_crop(picture, crop_frames(picture, crop, round(crop.side)), crop), picture)


def test_paste_feathers_by_hand():
    # Black picture, white 20-px crop, border of 0.25 * 20 = 5 px: px i from the border has ramp (i + 0.5) / 5.
    picture, white = torch.zeros(3, 30, 30, dtype=torch.uint8), torch.full((3, 20, 20), 255, dtype=torch.uint8)
    pasted = paste_crop(picture, white, Crop(5, 5, 20), feather=0.25)
    steps = (torch.arange(5) + 0.5) / 5
    expected = (255 * steps**2 * (3 - 2 * steps)).round().to(torch.uint8)
    assert torch.equal(pasted[0, 15, 5:10], expected)
    assert torch.equal(pasted[0, 15, 20:25], expected.flip(0))
    assert (pasted[0, 10:20, 10:20] == 255).all() and pasted[0, 15, 4] == 0 and (picture == 0).all()


def test_paste_hard_resized_and_clipped():
    picture, white = torch.zeros(3, 30, 30, dtype=torch.uint8), torch.full((3, 7, 7), 255, dtype=torch.uint8)
    pasted = paste_crop(picture, white, Crop(-10, 20, 20), feather=0.0)
    assert (pasted[:, 20:, :10] == 255).all() and pasted.float().sum() == 255 * 3 * 100
    assert torch.equal(paste_crop(picture, white, Crop(100, 0, 20)), picture)
    assert paste_crop(picture, white.expand(4, 3, 7, 7), Crop(0, 0, 20)).shape == (4, 3, 30, 30)


def test_crop_refuses_fractions_and_other_pictures():
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match="whole px"):
        crop_frames(image, Crop(0.5, 0, 4), 4)
    with pytest.raises(ValueError, match="frames must be"):
        crop_frames(image.float(), Crop(0, 0, 4), 4)
    with pytest.raises(ValueError, match="feather"):
        paste_crop(image, image, Crop(0, 0, 8), feather=0.7)
