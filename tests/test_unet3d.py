"""The U-Net's parts against what they stand for."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from talkhead.nets.unet3d import Block, StepClassEmbedding, TemporalAttention, TemporalConv, UNet3D
from talkhead.ops.group_norm import group_normed
from talkhead.ops.patches import block_means, fold, unfold


def small(**changes) -> UNet3D:
    """A small network whose zero-initialised layers have been woken up."""
    net = UNet3D(5, 3, **{"widths": (8, 16, 16), "patch": 2, "embedding": 16, **changes}).eval()
    for parameter in net.parameters():
        if parameter.count_nonzero() == 0:
            torch.nn.init.normal_(parameter, std=0.1)
    return net


def uniform(batch: int) -> torch.Tensor:
    return torch.full((batch, 8), 1 / 8)


def test_the_papers_network():
    net = UNet3D()
    assert tuple(net.config.widths) == (32, 64, 128, 256)
    assert net.embed.classes.in_features == 8
    assert [m.out_channels for m in net.shrink] == [64, 128, 256]


def test_temporal_convolution_is_conv3d():
    layer = TemporalConv(6)
    torch.nn.init.normal_(layer.taps)
    video = torch.randn(2, 6, 5, 4, 4)
    padded = F.pad(video, (0, 0, 0, 0, 1, 1), mode="replicate")
    truth = F.conv3d(padded, layer.taps.T[:, None, :, None, None], groups=6)
    frames = video.permute(0, 2, 1, 3, 4).flatten(0, 1)
    torch.testing.assert_close(layer(frames, 5).unflatten(0, (2, 5)).permute(0, 2, 1, 3, 4), truth)
    single = layer(frames[:1], 1)
    torch.testing.assert_close(single[0], frames[0] * layer.taps.sum(0)[:, None, None])


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("learns", [False, True])
def test_folding_is_pixel_unshuffle_and_unfolding_its_inverse(patch, dtype, learns):
    """Both ways, a row of a block as one word and number by number, which gradients pass."""
    video = torch.randn(2, 5, 3, 8, 12).to(dtype).requires_grad_(learns)
    parts = [video[:, :2], video[:, 2:]]
    folded = fold(parts, patch)
    assert torch.equal(folded, F.pixel_unshuffle(rearrange(video, "b c t h w -> (b t) c h w"), patch))
    assert folded.is_contiguous(memory_format=torch.channels_last) and folded.requires_grad == learns
    back = unfold(folded, patch, 3)
    assert torch.equal(back, video)
    if learns:
        back.square().sum().backward()
        assert torch.equal(video.grad, 2 * video)


def test_channels_that_are_left_out_are_zeros():
    net, x = small(), torch.randn(1, 5, 3, 16, 16)
    x[:, 3:] = 0
    with torch.no_grad():
        whole = net(x, torch.tensor([10]), uniform(1))
        torch.testing.assert_close(net(x[:, :3], torch.tensor([10]), uniform(1), absent=2), whole)
    with pytest.raises(ValueError, match=r"sample must be \(B, 3, T, H, W\)"):
        net(x, torch.tensor([10]), uniform(1), absent=2)


def test_what_nobody_asks_for_is_not_answered():
    net, x = small(), torch.randn(1, 5, 3, 16, 16)
    with torch.no_grad():
        whole = net(x, torch.tensor([10]), uniform(1))
        torch.testing.assert_close(net(x, torch.tensor([10]), uniform(1), unasked=2), whole[:, :1])


@pytest.mark.parametrize("size", [(2, 64, 16, 16), (3, 32, 5, 7), (1, 128, 4, 4), (1, 16, 40, 40)])
def test_sums_normalise_as_the_norm_does(size):
    x = (3 + 2 * torch.randn(size)).bfloat16().contiguous(memory_format=torch.channels_last)
    norm = torch.nn.GroupNorm(8, size[1])
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    truth = norm.double()(x.double())
    norm.float()
    with torch.no_grad():
        ours = group_normed(norm, x)
    assert ours.dtype == torch.bfloat16 and ours.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours.double(), truth, rtol=2**-8, atol=2**-8)
    assert group_normed(norm, x.float()).requires_grad  # where it learns, the norm itself


@pytest.mark.parametrize("side", [1, 2, 3])
def test_means_of_blocks_are_average_pooling(side):
    x = torch.rand(2, 12, 18, 3).permute(0, 3, 1, 2)
    torch.testing.assert_close(block_means(x, side), F.avg_pool2d(x, side))


def test_attention_over_time_by_hand():
    """One head, one pixel: softmax(q k / sqrt(d) + bias(j - i)) v, added to the input."""
    layer = TemporalAttention(8, heads=1, reach=2)
    torch.nn.init.normal_(layer.bias)
    torch.nn.init.normal_(layer.out.weight)
    x = torch.randn(4, 8, 1, 1)
    tokens = layer.norm(x)[:, :, 0, 0]
    query, key, value = layer.qkv(tokens).chunk(3, -1)
    scores = query @ key.T / 8**0.5
    for i in range(4):
        for j in range(4):
            scores[i, j] = scores[i, j] + layer.bias[0, max(-2, min(2, i - j)) + 2]
    truth = x[:, :, 0, 0] + layer.out(scores.softmax(-1) @ value)
    torch.testing.assert_close(layer(x, 4)[:, :, 0, 0], truth)


def test_equation_3_concatenates_step_and_class():
    embed = StepClassEmbedding(8, 16)
    one = embed(torch.tensor([3]), F.one_hot(torch.tensor([2]), 8).float())
    other_step = embed(torch.tensor([900]), F.one_hot(torch.tensor([2]), 8).float())
    other_class = embed(torch.tensor([3]), F.one_hot(torch.tensor([5]), 8).float())
    assert one.shape == (1, 32)
    assert torch.equal(one[:, 16:], other_step[:, 16:]) and not torch.equal(one[:, :16], other_step[:, :16])
    assert torch.equal(one[:, :16], other_class[:, :16]) and not torch.equal(one[:, 16:], other_class[:, 16:])


def test_probabilities_mix_the_class_embeddings():
    embed = StepClassEmbedding(8, 16)
    torch.nn.init.normal_(embed.null)
    step = torch.zeros(1)
    happy, sad = (F.one_hot(torch.tensor([i]), 8).float() for i in (4, 6))
    mixed = embed(step, 0.25 * happy + 0.75 * sad)
    torch.testing.assert_close(mixed, 0.25 * embed(step, happy) + 0.75 * embed(step, sad))
    torch.testing.assert_close(embed(step, torch.zeros(1, 8))[0, 16:], embed.null)


def test_an_untrained_block_is_its_skip():
    block = Block(8, 8, 32, attend=True)
    x = torch.randn(6, 8, 4, 4)
    torch.testing.assert_close(block(x, torch.randn(6, 32), 3), x)


@pytest.mark.parametrize("frames", [1, 2, 7, 40])
def test_any_number_of_frames(frames):
    net = small()
    with torch.no_grad():
        out = net(torch.randn(1, 5, frames, 16, 16), torch.tensor([10]), uniform(1))
    assert out.shape == (1, 3, frames, 16, 16)


def test_a_still_input_gives_a_still_video():
    net = small()
    x = torch.randn(1, 5, 1, 16, 16)
    with torch.no_grad():
        still = net(x.expand(-1, -1, 6, -1, -1), torch.tensor([10]), uniform(1))
        single = net(x, torch.tensor([10]), uniform(1))
    torch.testing.assert_close(still, single.expand_as(still), atol=1e-5, rtol=1e-4)


def test_samples_of_a_batch_do_not_mix():
    net = small()
    x, t = torch.randn(3, 5, 4, 16, 16), torch.tensor([0, 400, 999])
    with torch.no_grad():
        together = net(x, t, uniform(3))
        alone = torch.cat([net(x[i : i + 1], t[i : i + 1], uniform(1)) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_checkpointing_changes_no_gradient():
    plain = small().train()
    saving = small(gradient_checkpointing=True).train()
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(1, 5, 3, 16, 16)
    for net in (plain, saving):
        net(x, torch.tensor([10]), uniform(1)).square().mean().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_saved_and_loaded_it_is_the_same(tmp_path):
    net = small()
    net.save_pretrained(tmp_path)
    loaded = UNet3D.from_pretrained(tmp_path).eval()
    x = torch.randn(1, 5, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(net(x, torch.tensor([7]), uniform(1)), loaded(x, torch.tensor([7]), uniform(1)))
    assert (tmp_path / "diffusion_pytorch_model.safetensors").exists()


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="side of sample must be a multiple of 8 px; got 12: take 8 or 16"):
        small()(torch.randn(1, 5, 2, 12, 16), torch.tensor([0]), uniform(1))
    with pytest.raises(ValueError, match=r"sample must be \(B, 5, T, H, W\)"):
        small()(torch.randn(1, 4, 2, 16, 16), torch.tensor([0]), uniform(1))


@pytest.mark.parametrize("patch", [2, 4])
def test_finer_weights_do_the_same_with_finer_pixels(patch: int):
    net = small(widths=(8, 16), patch=patch, coarse_channels=2, still_channels=3)
    finer = small(widths=(8, 16), patch=2 * patch, coarse_channels=2, still_channels=3)
    finer.load_state_dict(net.finer_weights(2))
    picture = torch.randn(2, 5, 3, 32, 32)  # any pixels: the network sees their means
    coarse, still = torch.randn(2, 2, 3, 16, 16), torch.randn(2, 3, 32, 32)
    told = torch.tensor([3, 900]), uniform(2)
    with torch.no_grad():
        answer = finer(picture, *told, coarse, still)
        before = net(block_means(picture, 2), *told, block_means(coarse, 2), block_means(still, 2))
    torch.testing.assert_close(answer, before.repeat_interleave(2, -1).repeat_interleave(2, -2), atol=1e-5, rtol=1e-4)
