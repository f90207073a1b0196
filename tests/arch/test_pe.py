"""PE styles: cycles, tables and digits against hand counts."""

from __future__ import annotations

import numpy as np
import pytest

from presilicon.arch.pe import ARRAYS, DotArray, load_array, load_pe, nonzero_digits, pe_styles
from presilicon.arch.yamlfile import read_yaml
from presilicon.errors import SpecError, UnknownNameError


def test_every_style_names_the_source_of_each_number() -> None:
    for style in pe_styles().values():
        assert style.provenance
        assert all(origin.source for origin in style.provenance.values())
        assert "lanes" in style.provenance


@pytest.mark.parametrize(
    ("name", "bits", "cycles"),
    [
        ("fp16-mac", 16, 1),
        ("ant", 5.25, 1),
        ("bitmod", 3.0625, 2),
        ("bitmod", 4, 2),
        ("bitmod", 6.0625, 3),
        ("lut-k4", 1, 1),
        ("lut-k4", 4, 4),
    ],
)
def test_cycles_of_a_dot_product(name: str, bits: float, cycles: float) -> None:
    assert load_pe(name).cycles(bits) == cycles


def test_encoded_digits_equal_a_count_over_all_integers() -> None:
    """Digits of -1, 0, 1, 2 from the last place on, against an independent count over samples' exact probabilities."""

    def digits(value: int) -> int:
        count = 0
        while value:
            digit = ((value + 1) % 4) - 1
            count += digit != 0
            value = (value - digit) // 4
        return count

    values = np.arange(-127, 128)
    weights = np.exp(-0.5 * (values / 12.0) ** 2)
    expected = sum(digits(abs(int(v))) * w for v, w in zip(values, weights, strict=True)) / weights.sum()
    assert nonzero_digits(12.0) == pytest.approx(expected, rel=2e-3), "bins of one against the density at their middle"
    assert load_pe("radix4-digits").cycles(8, nonzero_digits(12.0)) == nonzero_digits(12.0)


def test_iso_area_gives_no_more_area_and_not_a_column_too_few() -> None:
    fp16 = DotArray(load_pe("fp16-mac"), 32, 24, 1, 1, 1)
    other = fp16.iso_area(load_pe("bitmod"))
    assert other.area_m2 <= fp16.area_m2 < other.area_m2 * (other.cols + 1) / other.cols
    assert other.cols == 31


def test_bad_input() -> None:
    with pytest.raises(UnknownNameError, match="bitmod"):
        load_pe("bitmud")
    with pytest.raises(SpecError, match="more than 0 bits"):
        load_pe("bitmod").cycles(0)
    with pytest.raises(SpecError, match="non-zero digits"):
        load_pe("radix4-digits").cycles(8)
    with pytest.raises(SpecError, match="no area"):
        DotArray(load_pe("lut-k4"), 2, 2, 1, 1, 1).area_m2  # noqa: B018
    with pytest.raises(SpecError, match="cols"):
        DotArray(load_pe("ant"), 2, 0, 1, 1, 1)
    with pytest.raises(SpecError, match="no table"):
        load_pe("ant").table_entries(2)
    assert load_pe("lut-k4").table_entries(2) == 16


def test_every_number_of_the_compared_arrays_names_its_source() -> None:
    table = read_yaml(ARRAYS)
    leaves = [table[key] for key in ("weight_sram", "input_sram", "dram_bandwidth")]
    leaves += [leaf for array in table["arrays"].values() for phase in array.values() for leaf in phase.values()]
    assert len(leaves) == 3 + 4 * 2 * 2
    assert all(str(leaf["source"]).partition(":")[0] in table["sources"] for leaf in leaves)


def test_compared_arrays_have_equal_pes_in_both_phases() -> None:
    for name in read_yaml(ARRAYS)["arrays"]:
        prefill, decode = (load_array(name, phase) for phase in ("prefill", "decode"))
        assert prefill.rows * prefill.cols == decode.rows * decode.cols
        assert prefill.pe == load_pe(name)
    with pytest.raises(UnknownNameError, match=r"unknown array 'bitmud'.*did you mean 'bitmod'"):
        load_array("bitmud", "decode")
    with pytest.raises(UnknownNameError, match=r"unknown phase 'decoding'.*did you mean 'decode'"):
        load_array("bitmod", "decoding")
