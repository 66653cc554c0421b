"""Randomness without a history: any point of a series is computed from its index alone.

Only integer operations and the four IEEE operations are used, so a seed gives the same numbers on every machine.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bits = NDArray[np.uint64]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_LOW = np.uint64(0xFFFF)
_NORMAL_MEAN = 131_070.0  # of the sum of four 16-bit numbers
_NORMAL_SD = 37_837.22
_LN2 = 0.6931471805599453


def key_of(text: str) -> np.uint64:
    """A 64-bit key for a name such as "1:BTCUSDT:price"."""
    return np.uint64(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))


def scramble(key: np.uint64, index: Ints) -> Bits:
    """64 random bits for each index (the finaliser of splitmix64)."""
    z = index.astype(np.uint64) * _STEP + key
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return np.asarray(z ^ (z >> np.uint64(31)))


def lane(bits: Bits, number: int) -> Ints:
    """One of the four 16-bit numbers, 0 to 65535, that 64 random bits hold."""
    return ((bits >> np.uint64(16 * number)) & _LOW).astype(np.int64)


def normal(bits: Bits) -> Floats:
    """Nearly normal numbers (mean 0, deviation 1): the sum of the four 16-bit parts."""
    total = lane(bits, 0) + lane(bits, 1) + lane(bits, 2) + lane(bits, 3)
    return np.asarray((total - _NORMAL_MEAN) / _NORMAL_SD, dtype=np.float64)


def power_of_two(x: Floats) -> Floats:
    """2**x by a polynomial: the library's exp may differ in the last bit from machine to machine."""
    whole = np.floor(x + 0.5)
    f = (x - whole) * _LN2
    y = np.full_like(f, 1.0 / 362_880)
    for divisor in (40_320, 5_040, 720, 120, 24, 6, 2, 1, 1):
        y = y * f + 1.0 / divisor
    return np.asarray(np.ldexp(y, whole.astype(np.int32)))


class Walk:
    """A random walk that can be entered anywhere: a Brownian bridge built by halving intervals.

    The value at a whole number of steps depends on the key and that number only. The walk is tied to 0 at about every
    two million steps, so that it does not drift away for ever.
    """

    LEVELS = 20
    _LARGEST = 0.16  # the most that one halving may add, so that coarse levels stay within reason
    _TOP = 0.25

    def __init__(self, name: str, deviation: float) -> None:
        self._keys = [key_of(f"{name}:{level}") for level in range(self.LEVELS + 1)]
        self._scale = [
            min(deviation * 2.0 ** ((level - 1) / 2), self._LARGEST) for level in range(self.LEVELS)
        ]

    def values(self, first: int, last: int) -> Floats:
        """Values at the steps `first` to `last`, both included."""
        start = first >> self.LEVELS
        index = np.arange(start, (last >> self.LEVELS) + 2, dtype=np.int64)
        values = normal(scramble(self._keys[self.LEVELS], index)) * self._TOP
        for level in reversed(range(self.LEVELS)):
            middle_index = 2 * np.arange(start, start + len(values) - 1, dtype=np.int64) + 1
            shift = normal(scramble(self._keys[level], middle_index)) * self._scale[level]
            finer = np.empty(2 * len(values) - 1)
            finer[0::2] = values
            finer[1::2] = (values[:-1] + values[1:]) * 0.5 + shift
            start *= 2
            skip = max(0, (first >> level) - start)
            values = finer[skip : (last >> level) + 2 - start]
            start += skip
        return values[: last - first + 1]
