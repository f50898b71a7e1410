"""Philox4x32-10 against Random123's published answers and against scalar arithmetic on Python integers."""

import pytest
import torch

from talkhead.ops.philox import philox4x32, split_seed, uniform

# kat_vectors of Random123 (Salmon et al., SC 2011): counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor([int(word, 16)]) for word in text.split())


def scalar_philox(counter: list[int], key: list[int]) -> list[int]:
    """Return the four words by unbounded integers, straight from the paper's definition."""
    (a, b, c, d), (k0, k1) = counter, key
    for _ in range(10):
        first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (second >> 32) ^ b ^ k0, second % 2**32, (first >> 32) ^ d ^ k1, first % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [a, b, c, d]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_published_vectors(counter: str, key: str, answer: str) -> None:
    result = philox4x32(words(counter), words(key))
    assert " ".join(f"{word.item():08x}" for word in result) == answer


def test_equals_scalar_arithmetic() -> None:
    counter, key = torch.randint(0, 2**32, (4, 50)), torch.randint(0, 2**32, (2, 50))
    before = counter.clone()
    result = torch.stack(philox4x32(tuple(counter), tuple(key)))
    for i in range(50):
        assert result[:, i].tolist() == scalar_philox(counter[:, i].tolist(), key[:, i].tolist())
    assert torch.equal(counter, before)


def test_broadcasts_counter_and_key() -> None:
    x, zero, key = torch.arange(5), torch.zeros((), dtype=torch.int64), torch.tensor([[7], [8], [9]])
    result = philox4x32((x, zero, zero, zero), (key, zero))
    assert all(word.shape == (3, 5) for word in result)
    assert [word[2, 4].item() for word in result] == scalar_philox([4, 0, 0, 0], [9, 0])


def test_seed_words() -> None:
    low, high = split_seed(torch.tensor([-1, 5, 2**40 + 3]))
    assert low.tolist() == [2**32 - 1, 5, 3]
    assert high.tolist() == [2**32 - 1, 0, 2**8]


def test_uniform_is_exact_and_below_one() -> None:
    word = torch.tensor([0, 255, 256, 2**31, 2**32 - 1])
    assert uniform(word).double().tolist() == [0.0, 0.0, 2.0**-24, 0.5, 1 - 2.0**-24]
