"""The folder of what is kept between runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from presilicon.explore.cache import default_cache
from presilicon.files import cache_folder
from presilicon.kernel_memo import load, memo_folder, store


def test_one_folder_for_all_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PRESILICON_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "presilicon"
    monkeypatch.setenv("PRESILICON_CACHE", str(tmp_path / "own"))
    assert default_cache() == tmp_path / "own" / "points.sqlite"
    assert memo_folder() == tmp_path / "own" / "results"


def test_off_keeps_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRESILICON_CACHE", "off")
    assert cache_folder() is default_cache() is memo_folder() is None
    assert not store("key", {"time_s": 1.0})
    assert load("key") is None
    assert not list(tmp_path.iterdir())
