"""CENT's closed form: monotone, bounded by the units, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from presilicon.arch import dram
from presilicon.errors import MappingError
from presilicon.mapping.cent import Llama, token

AIM = dram.load("aim-gddr6")
SMALL, LARGE = Llama(32, 4096, 11008, 32, 32), Llama(80, 8192, 28672, 64, 8)


@pytest.mark.parametrize(("model", "devices"), [(SMALL, 8), (LARGE, 32)])
def test_a_token_takes_longer_than_reading_its_weights(model: Llama, devices: int) -> None:
    found = token(AIM, model, devices, 2048)
    kv = model.kv_heads * model.head_dim
    block = 2.0 * model.hidden * (2 * model.hidden + 2 * kv + 3 * model.ffn)
    channels = 32 // -(-model.blocks // devices)
    assert block / (channels * 512e9) < found.block_s < 4 * block / (channels * 512e9)
    assert found.time_s > model.blocks * (found.block_s + found.near_s + found.link_s)
    assert found.stages == model.blocks


def test_longer_contexts_and_fewer_channels_take_longer() -> None:
    times = [token(AIM, SMALL, 8, keys).time_s for keys in (1, 128, 129, 1024, 4096)]
    assert times == sorted(times)
    assert token(AIM, SMALL, 16, 512).block_s < token(AIM, SMALL, 8, 512).block_s
    half = replace(AIM, organisation=replace(AIM.organisation, channels=16))
    assert token(half, SMALL, 16, 512).block_s == pytest.approx(token(AIM, SMALL, 8, 512).block_s, rel=0.1)


def test_tensor_parallelism_trades_throughput_for_time() -> None:
    ways = [token(AIM, SMALL, 8, 1024, tensor=n) for n in (1, 2, 4, 8)]
    assert [w.time_s for w in ways] == sorted((w.time_s for w in ways), reverse=True)
    assert [w.tokens_per_s for w in ways] == sorted((w.tokens_per_s for w in ways), reverse=True)
    assert [w.stages for w in ways] == [8, 4, 2, 1]
    assert ways[-1].energy_j > ways[0].energy_j


@pytest.mark.parametrize(("devices", "tensor", "says"), [
    (8, 3, "do not lie"), (1, 0, "do not lie|do not fit"), (4, 4, "do not fit"), (0, 0, "devices")])
def test_what_does_not_fit_is_refused(devices: int, tensor: int, says: str) -> None:
    model = LARGE if devices == 4 else SMALL
    with pytest.raises(MappingError, match=says):
        token(AIM, replace(model, blocks=33) if devices == 1 else model, devices, 512, tensor=tensor)
