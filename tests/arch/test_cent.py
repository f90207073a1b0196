"""Numbers of CENT's devices: read with their sources, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from presilicon.arch.cent import PATH, cent_numbers
from presilicon.errors import SpecError, UnknownNameError


def test_numbers_are_in_si_units_and_have_sources() -> None:
    found = cent_numbers()
    assert (found.near_clock, found.lane, found.lanes) == (2e9, 4 * 2**30, 144)
    assert found.hop == pytest.approx(4 * 25e-9 + 2 * 30e-9 + 20e-9)
    assert set(found.sources) == {name for name in vars(found) if name != "sources"}
    assert all(len(source) > 2 for source in found.sources.values())


@pytest.mark.parametrize(("old", "new", "error", "says"), [
    ("hop:", "hops:", UnknownNameError, "did you mean 'hop'"),
    ("value: 180 ns", "value: -180 ns", SpecError, "above zero"),
    ("value: 180 ns", "value: 180 W", SpecError, "W"),
    ("hop: {value: 180 ns, unit: s,", "hop: {value: 180 ns,", SpecError, "unit"),
])
def test_wrong_files_are_refused(tmp_path: Path, old: str, new: str, error: type[Exception], says: str) -> None:
    text = PATH.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "cent.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(error, match=says):
        cent_numbers(tmp_path / "cent.yaml")
