"""Philox4x32-10: random numbers that are a function of a counter and a key, with the same bits on every device.

Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). One call turns a 128-bit counter
(four 32-bit words) and a 64-bit key (two words) into four random 32-bit words through ten rounds of

    (c0, c1, c2, c3) -> (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0)),    k0 += W0,  k1 += W1.

There is no state: whoever asks for the same counter gets the same number, in any order, on any device.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 10
MULTIPLIER_0, MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
WEYL_0, WEYL_1 = 0x9E3779B9, 0xBB67AE85
_WORD = 0xFFFFFFFF

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox4x32(counter: Words, key: tuple[Tensor, Tensor]) -> Words:
    """Return four random 32-bit words for every counter (Philox4x32-10).

    The 32-bit words live in int64 tensors: a product of two of them wraps modulo 2^64 like the unsigned product, and
    its upper half is what an arithmetic shift by 32 leaves below bit 32.

    Args:
        counter: four int64 tensors of one shape (or broadcastable) with values in 0..2^32-1.
        key: two int64 tensors with values in 0..2^32-1 (low word, high word), broadcastable with the counter.

    Returns:
        Four int64 tensors of the broadcast shape with values in 0..2^32-1.

    Example:
        >>> zero = torch.zeros(1, dtype=torch.int64)
        >>> [f"{word.item():08x}" for word in philox4x32((zero, zero, zero, zero), (zero, zero))]
        ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    c0, c1, c2, c3 = (word.clone() for word in torch.broadcast_tensors(*counter, *key)[:4])
    k0, k1 = key
    product0, product1 = torch.empty_like(c0), torch.empty_like(c0)
    for _ in range(ROUNDS):
        torch.mul(c0, MULTIPLIER_0, out=product0)
        torch.mul(c2, MULTIPLIER_1, out=product1)
        c1.bitwise_xor_(k0)
        c3.bitwise_xor_(k1)
        torch.bitwise_right_shift(product1, 32, out=c0).bitwise_xor_(c1).bitwise_and_(_WORD)
        torch.bitwise_right_shift(product0, 32, out=c2).bitwise_xor_(c3).bitwise_and_(_WORD)
        # The old words' memory takes the next round's products: nothing is allocated inside the loop.
        c1, product1 = product1.bitwise_and_(_WORD), c1
        c3, product0 = product0.bitwise_and_(_WORD), c3
        k0, k1 = (k0 + WEYL_0) & _WORD, (k1 + WEYL_1) & _WORD
    return c0, c1, c2, c3


def split_seed(seed: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two 32-bit key words (low, high) of 64-bit seeds.

    Args:
        seed: int64 tensor of any shape; negative values stand for their two's complement.

    Returns:
        Two int64 tensors of the same shape with values in 0..2^32-1.
    """
    return seed & _WORD, (seed >> 32) & _WORD


def uniform(word: Tensor) -> Tensor:
    """Return U(0, 1) numbers from random 32-bit words: the upper 24 bits times 2^-24, exact in float32.

    Args:
        word: int64 tensor with values in 0..2^32-1.

    Returns:
        float32 tensor with values in [0, 1): multiples of 2^-24.
    """
    return (word >> 8).to(torch.float32) * 2.0**-24
