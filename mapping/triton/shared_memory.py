"""Shared memory as far as it decides control: bytes that the code stored and that are known."""

from __future__ import annotations

from typing import Any

import numpy as np

from .group import Lanes
from .values import M32, Partial, Unknown, Value, from_bytes

_ATOMICS: dict[str, Any] = {"OR": np.bitwise_or, "AND": np.bitwise_and, "XOR": np.bitwise_xor, "ADD": np.add}


class SharedMemory:
    """The shared memory of some CTAs.

    Parameters
    ----------
    ctas, threads
        How many CTAs, and threads of each; thread ids count through all CTAs.
    size
        Bytes of each.
    reserved
        Bytes at the start that the system clears before the kernel runs.
    """

    def __init__(self, ctas: int, threads: int, size: int, reserved: int) -> None:
        self.threads = threads
        self.contents = np.zeros((ctas, size), dtype=np.uint8)
        self.known = np.zeros((ctas, size), dtype=bool)
        self.known[:, :reserved] = True
        self.reserved = reserved
        self.low, self.high = (0, reserved) if reserved else (1 << 24, 0)

    def forget(self) -> None:
        """Something was written to where only data says."""
        self.known[:, self.reserved:] = False

    def _places(self, lanes: Lanes, address: Value, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        many = address if type(address) is np.ndarray else np.full(lanes.count, address, dtype=np.uint64)
        places = (many & np.uint64(0xFFFFFF)).astype(np.int64)
        if (places[mask] >= self.contents.shape[1] - 16).any():
            return None
        return lanes.ids // self.threads, np.where(mask, places, 0)

    def put(self, lanes: Lanes, guard: Value, address: Value, data: tuple[Value, ...], size: int) -> None:
        """Store `size` bytes a thread, given as words."""
        if guard is False:
            return
        if type(address) is Unknown or type(guard) is Unknown:
            self.forget()
            return
        if all(type(value) is Unknown for value in data):
            low, high = (address, address) if type(address) is int else (int(address.min()), int(address.max()))
            if (low & 0xFFFFFF) > self.high or (high & 0xFFFFFF) + size <= self.low:
                return  # nothing is known there, and nothing gets known
        mask = guard if type(guard) is np.ndarray else np.ones(lanes.count, dtype=bool)
        found = self._places(lanes, address, mask)
        if found is None or not mask.any():
            return
        cta, places = found[0][mask], found[1][mask]
        if any(type(value) is not Unknown for value in data):
            self.low, self.high = min(self.low, int(places.min())), max(self.high, int(places.max()) + size)
        for k in range(max(1, size // 4)):
            value = data[min(k, len(data) - 1)]
            for byte in range(min(size, 4)):
                at = places + 4 * k + byte
                self.known[cta, at] = value.known[mask] if type(value) is Partial else type(value) is not Unknown
                if type(value) is not Unknown:
                    part = (value.value if type(value) is Partial else value) >> 8 * byte & 0xFF
                    self.contents[cta, at] = part if type(part) is int else part[mask].astype(np.uint8)

    def get(self, lanes: Lanes, guard: Value, address: Value, count: int, size: int, signed: bool,
            unknown: Unknown) -> tuple[Value, ...]:
        """Load `count` words a thread (one of fewer bytes, if `size` is less than 4)."""
        if type(address) is Unknown or type(guard) is Unknown:
            return (unknown,) * count
        mask = guard if type(guard) is np.ndarray else np.ones(lanes.count, dtype=bool)
        found = self._places(lanes, address, mask)
        if found is None or not mask.any():
            return (unknown,) * count
        cta, places = found
        words: list[Value] = []
        for k in range(count):
            spots = [places + 4 * k + byte for byte in range(min(size, 4))]
            known = np.logical_and.reduce([self.known[cta, at] for at in spots]) | ~mask
            raw = from_bytes([self.contents[cta, at] for at in spots], signed)
            if known.all():
                words.append(int(raw[mask][0]) if (raw[mask] == raw[mask][0]).all() else raw)
            else:
                words.append(Partial(raw, known, unknown) if (known & mask).any() else unknown)
        return tuple(words)

    def atomic(self, lanes: Lanes, guard: Value, address: Value, value: Value, modifiers: tuple[str, ...],
               unknown: Unknown) -> None:
        """A reduction into one known word of each CTA; anything else leaves the place unknown."""
        if guard is False:
            return
        function = next((_ATOMICS[name] for name in modifiers if name in _ATOMICS), None)
        plain = type(address) is int and type(guard) is not Unknown and type(value) in (int, np.ndarray) and function is not None
        old = self.get(lanes, guard, address, 1, 4, False, unknown)[0] if plain else unknown
        if not plain or type(old) not in (int, np.ndarray):
            self.put(lanes, guard, address, (unknown,), 4)
            return
        mask = guard if type(guard) is np.ndarray else np.ones(lanes.count, dtype=bool)
        before = old if type(old) is np.ndarray else np.full(lanes.count, old, dtype=np.uint64)
        operands = value if type(value) is np.ndarray else np.full(lanes.count, value, dtype=np.uint64)
        cta = lanes.ids // self.threads
        result = before.copy()
        for number in np.unique(cta[mask]):
            here = mask & (cta == number)
            result[cta == number] = function.reduce(operands[here], initial=before[here][0])  # type: ignore[union-attr]
        self.put(lanes, guard, address, (result & np.uint64(M32),), 4)
