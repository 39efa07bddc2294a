"""The random numbers of TensorFlow's stateless functions, computed with NumPy.

The generator is Philox 4x32-10 of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3",
SC11. A seed is a pair of whole numbers.
"""

import math
from collections.abc import Sequence

import numpy as np

_ROUNDS = 10


def uniform(
    shape: Sequence[int], seed: Sequence[int], low: float = 0.0, high: float = 1.0
) -> np.ndarray:
    """Compute `tf.random.stateless_uniform` of a CPU: float32 in low <= x < high."""
    bits = _bits(math.prod(shape), seed)
    # The low 23 bits are the fraction of a float in 1..2.
    unit = ((bits & np.uint32(0x7FFFFF)) | np.uint32(127 << 23)).view(np.float32) - np.float32(1)
    lowest, highest = np.float32(low), np.float32(high)
    return (unit * (highest - lowest) + lowest).reshape(shape)


def integers(count: int, seed: Sequence[int]) -> np.ndarray:
    """Compute `tf.random.stateless_uniform` of int64 with `minval=None, maxval=None`."""
    bits = _bits(2 * count, seed).astype(np.uint64)
    return (bits[::2] | bits[1::2] << np.uint64(32)).view(np.int64)


def fold_in(seed: Sequence[int], number: int) -> tuple[int, int]:
    """Compute `tf.random.experimental.stateless_fold_in` of a whole number."""
    return int(_bits(1, seed).view(np.int32)[0]), number


def _bits(count: int, seed: Sequence[int]) -> np.ndarray:
    """Return `count` random uint32."""
    words = np.array(seed, np.int64).view(np.uint32)  # the low half of each number comes first
    key = np.array([0x3EC8F720, 0x02461E29], np.uint32)
    mixed = _philox(words[np.newaxis], key)[0]
    groups = -(-count // 4)
    counters = np.zeros((groups, 4), np.uint32)
    numbers = np.arange(groups, dtype=np.uint64)
    counters[:, 0], counters[:, 1] = numbers & np.uint64(0xFFFFFFFF), numbers >> np.uint64(32)
    counters[:, 2:] = mixed[2:]
    return _philox(counters, mixed[:2]).ravel()[:count]


def _philox(counters: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Map counters uint32 (n, 4) -> random numbers uint32 (n, 4). The key is uint32 (2,)."""
    c0, c1, c2, c3 = counters.T.astype(np.uint64)
    k0, k1 = (int(word) for word in key)
    low = np.uint64(0xFFFFFFFF)
    for _ in range(_ROUNDS):
        first, second = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0 = (second >> np.uint64(32)) ^ c1 ^ np.uint64(k0)
        c2 = (first >> np.uint64(32)) ^ c3 ^ np.uint64(k1)
        c1, c3 = second & low, first & low
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)
