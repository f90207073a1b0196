"""Errors name the place, what was found, what is allowed and the nearest valid name."""

from __future__ import annotations

import inspect

import pytest

from presilicon import errors
from presilicon.errors import PresiliconError, UnknownNameError


def test_every_error_has_one_base_and_says_when_it_is_raised() -> None:
    kinds = [k for _, k in inspect.getmembers(errors, inspect.isclass) if issubclass(k, Exception)]
    assert len(kinds) > 5
    for kind in kinds:
        assert issubclass(kind, PresiliconError)
        assert kind.__doc__


@pytest.mark.parametrize(("name", "nearest"), [
    ("h100-sxn", "h100-sxm"), ("H100-SXM", "h100-sxm"), ("h100", "h100-pcie"), ("a100", "a100-sxm-80gb"), ("l40",
        "l40s"),
])
def test_nearest_name(name: str, nearest: str) -> None:
    error = UnknownNameError("system", name, ["h100-sxm", "h100-pcie", "l40s", "a100-sxm-80gb"])
    assert nearest in error.nearest
    assert str(error).startswith(f"unknown system {name!r}; did you mean ")
    assert error.name == name


def test_without_a_near_name_it_lists_what_is_known() -> None:
    error = UnknownNameError("system", "zzz", {"h100-sxm", "l40s"}, where="--system")
    assert str(error) == "--system: unknown system 'zzz'; known: h100-sxm, l40s"
    assert error.nearest == []


def test_a_long_list_is_cut_and_an_empty_one_left_out() -> None:
    assert str(UnknownNameError("op", "?", [f"name{i:02d}" for i in range(20)])).endswith("name11, ...")
    assert str(UnknownNameError("op", "?", [])) == "unknown op '?'"
