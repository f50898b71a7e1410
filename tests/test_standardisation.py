"""The running standardisation against PyTorch's own statistics, and its old form against arithmetic by hand."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from talkhead.nets.landmark import LandmarkNet
from talkhead.nets.standardisation import Standardisation


def test_it_is_the_z_score_of_all_batches_seen() -> None:
    data = 3 * torch.randn(8, 50, 4) + torch.tensor([0.0, 5.0, -2.0, 100.0])
    layer = Standardisation(4, limit=2.0)
    for batch in data:
        layer(batch)
    layer.eval()
    x = torch.tensor([[0.0, 5.0, 40.0, 101.0]])
    mean, deviation = data.mean((0, 1)), data.var(1).mean(0).sqrt()
    expected = ((x - mean) / deviation).clamp(-2, 2)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
    assert layer(x)[0, 2] == 2
    before = layer.running_mean.clone()
    layer(data[0] + 50)
    assert torch.equal(layer.running_mean, before)  # in use nothing is learnt


def test_in_training_too_the_batch_itself_does_not_matter() -> None:
    layer = Standardisation(1)
    layer(torch.tensor([[0.0], [2.0]]))  # mean 1, variance 2
    out = layer(torch.tensor([[1.0], [3.0]]))  # mean 2, variance 2: on average 1.5 and 2
    torch.testing.assert_close(out, (torch.tensor([[1.0], [3.0]]) - 1.5) / 2**0.5, rtol=1e-4, atol=1e-4)


# Weight 0.75 of features 2 and 4: weighted sums 0.75 * (2 + 4) / 2 and 0.75 * (4 + 16) / 2; variance 10 - 3^2.
OLD = {"mean": torch.full((22,), 2.25), "square": torch.full((22,), 7.5), "weight": torch.tensor(0.75)}


def test_statistics_under_their_old_names_are_read(tmp_path) -> None:
    net = LandmarkNet(width=32, heads=2, layers=1, portrait_view="summary").eval()
    state = net.state_dict()
    old = {name: value for name, value in state.items() if not name.startswith("standardize.")}
    old |= {f"standardize.{name}": value for name, value in OLD.items()}
    net.load_state_dict(dict(old))
    x = torch.full((1, 22), 4.0)
    torch.testing.assert_close(net.standardize(x), torch.ones(1, 22))
    net.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    assert set(load_file(file)) == set(state)
    save_file({name: value.contiguous() for name, value in old.items()}, file)
    again = LandmarkNet.from_pretrained(tmp_path)
    torch.testing.assert_close(again.standardize(x), torch.ones(1, 22))


@pytest.mark.parametrize("limit", [4.0, 5.0])
def test_the_limit(limit: float) -> None:
    assert Standardisation(1, limit).eval()(torch.tensor([[100.0]])).item() == limit
