"""Look-up cores: tables, the best number of lanes, density by weight bits."""

from __future__ import annotations

import pytest

from presilicon.arch.lut_area import TABLE, LookUpCore, part_um2
from presilicon.arch.pe import load_pe
from presilicon.arch.yamlfile import read_yaml
from presilicon.errors import SpecError, UnknownNameError


def test_tables_are_halved_and_agree_with_the_pe_style() -> None:
    core = LookUpCore()
    assert core.entries == 2**4 // 2
    assert core.table_entries == 16 == load_pe("lut-k4").table_entries(2)


def test_area_of_one_lane_is_an_adder_and_the_table() -> None:
    assert LookUpCore(2, 64, 1).area_um2 == pytest.approx(128 * part_um2("adder") + 2 * part_um2("entry"))


@pytest.mark.parametrize("cols", [16, 64, 256])
def test_four_lanes_are_densest(cols: int) -> None:
    density = {lanes: LookUpCore(2, cols, lanes).density_ratio(1) for lanes in range(1, 13)}
    assert max(density, key=lambda lanes: density[lanes]) == 4
    assert density[12] < density[1]  # tables grow by 2^K


def test_more_columns_share_a_table() -> None:
    assert LookUpCore(cols=64).density_ratio(1) > LookUpCore(cols=4).density_ratio(1)


def test_density_falls_with_weight_bits() -> None:
    core = LookUpCore()
    assert [core.density_ratio(1) / core.density_ratio(bits) for bits in (2, 4, 8)] == pytest.approx([2, 4, 8])


def test_bad_sizes() -> None:
    with pytest.raises(SpecError, match="lanes: expected 1 or more, found 0"):
        LookUpCore(lanes=0)
    with pytest.raises(SpecError, match="weights of 1 bit or more"):
        LookUpCore().density_ratio(0)


def test_parts_are_those_of_the_table() -> None:
    table = read_yaml(TABLE)
    for name in ("adder", "multiply_add", "entry"):
        assert table[name]["value"] == f"{part_um2(name):g} um2"
        assert str(table[name]["source"]).partition(":")[0] in table["sources"]
    with pytest.raises(UnknownNameError, match=r"unknown part 'adders'.*did you mean 'adder'"):
        part_um2("adders")
