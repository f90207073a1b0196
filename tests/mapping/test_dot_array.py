"""Products on arrays of dot-product PEs, against hand counts."""

from __future__ import annotations

import pytest

from presilicon.arch.pe import DotArray, load_pe
from presilicon.errors import MappingError
from presilicon.mapping.dot_array import Product, product_cycles, total_cycles

ARRAY = DotArray(load_pe("bitmod"), rows=8, cols=4, weight_sram_bytes=1024, input_sram_bytes=1024, dram_bytes_per_clk=4)


def test_compute_is_tiles_times_cycles() -> None:
    found = product_cycles(Product(outputs=17, depth=10, tokens=5, weight_bits=6), ARRAY)
    assert found.compute == 3 * 3 * 2 * 3, "ceil(17/8) x ceil(10/4) x ceil(5/4) tiles of three cycles"


def test_dram_moves_whole_bytes_a_row() -> None:
    found = product_cycles(Product(outputs=2, depth=5, tokens=3, weight_bits=3), ARRAY)
    assert found.dram == (2 * 2 + 10 * 3 + 4 * 3) // 4
    assert found.fetches == (1, 1)


def test_what_does_not_fit_is_fetched_again_on_the_cheaper_side() -> None:
    many_weights = Product(outputs=64, depth=64, tokens=10, weight_bits=8)  # 4096 B of weights, 1280 B of inputs
    found = product_cycles(many_weights, ARRAY)
    assert found.fetches == (1, 4), "weights twice: 8192 + 1280 B; inputs four times: 5120 + 4096 B"
    assert found.dram == (4096 + 4 * 1280 + 1280) // 4
    more_inputs = Product(outputs=64, depth=64, tokens=16, weight_bits=8)  # 2048 B of inputs
    assert product_cycles(more_inputs, ARRAY).fetches == (2, 1), "weights twice: 8192 + 2048 B; inputs four times: 8192 + 4096 B"


def test_totals_count_repeats() -> None:
    one, three = Product(8, 8, 8, 4), Product(8, 8, 8, 4, count=3)
    assert total_cycles([one, three], ARRAY) == 4 * total_cycles([one], ARRAY)


def test_bad_input() -> None:
    with pytest.raises(MappingError, match="tokens"):
        Product(1, 1, 0, 4)
