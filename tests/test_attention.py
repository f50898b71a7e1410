"""Attention with relative positions against a plain computation, in one call and in several."""

import pytest
import torch

from talkhead.nets import attention


@pytest.mark.parametrize("most", [2, 5, 2**15])
def test_it_is_softmax_over_scores_and_biases(most: int, monkeypatch) -> None:
    monkeypatch.setattr(attention, "_MOST", most)
    projected, bias = torch.randn(5, 7, 3 * 8, dtype=torch.float64), torch.randn(2, 2 * 3 + 1, dtype=torch.float64)
    expected = torch.zeros(5, 7, 8, dtype=torch.float64)
    for head in range(2):
        query, key, value = (projected[..., 8 * i + 4 * head : 8 * i + 4 * head + 4] for i in range(3))
        for after in range(7):
            near = torch.tensor([bias[head, min(max(other - after, -3), 3) + 3] for other in range(7)])
            share = (key @ query[:, after, :, None] / 2).squeeze(-1).add(near).softmax(-1)  # 2: the root of 4 channels
            expected[:, after, 4 * head : 4 * head + 4] = (share[..., None] * value).sum(1)
    assert torch.allclose(attention.relative_attention(projected, bias), expected, atol=1e-12)
