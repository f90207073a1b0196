"""`presilicon pim gemv`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from .conftest import Outcome

SHAPE = ("pim", "gemv", "--rows", 4096, "--cols", 4096)


def test_the_answer_in_words_and_as_data(run: Callable[..., Outcome], tmp_path: Path) -> None:
    out, commands = tmp_path / "gemv.json", tmp_path / "commands.tsv"
    outcome = run(*SHAPE, "--no-refresh", "--compare", "-o", out, "--commands", commands)
    assert outcome.status == 0
    for words in ("9665 cycles", "closed form +0.00 %", "% of the 16.4 TB/s", "a multiply-add: cell", "loop order outputs: 13057",
                  "closed form of every layout", f"wrote {out}", f"wrote {commands}"):
        assert words in outcome.out
    told = json.loads(out.read_text())
    assert (told["cycles"], told["analytic_cycles"], told["order"], told["bits"]) == (9665, 9665, "inputs", 16)
    assert sum(told["energy_j"].values()) == told["total_energy_j"] > 0
    assert {(other["order"], other["split"]) for other in told["others"]} == {
        (order, split) for order in ("inputs", "outputs") for split in (1, 2, 4, 8, 16, 32)} - {("inputs", 1)}
    lines = commands.read_text().splitlines()
    assert len(lines) == 1 + sum(told["commands"].values())


def test_widths_orders_and_splits(run: Callable[..., Outcome]) -> None:
    whole, half = (run(*SHAPE, "--fidelity", "analytic", "--bits", bits).out for bits in (16, 8))
    assert "of 8 bits" in half
    assert "multiply the 32 weights of a step" in half
    assert whole != half
    assert "loop order outputs\n" in run(*SHAPE, "--fidelity", "analytic", "--order", "outputs").out
    assert "inputs over 4 channels\n" in run("pim", "gemv", "--rows", 128, "--cols", 8192, "--split", 4).out
    upmem = run(*SHAPE, "--system", "upmem").out
    assert "its cores run instructions" in upmem
    assert "states no energies" in upmem


def test_what_is_refused(fails: Callable[..., str], tmp_path: Path) -> None:
    assert "--split: expected a whole number of channels" in fails(*SHAPE, "--split", "half")
    assert "allowed are 1, 2, 4" in fails(*SHAPE, "--split", 5)
    assert "up to 16 bits" in fails(*SHAPE, "--bits", "nan")
    assert "one loop order" in fails(*SHAPE, "--system", "newton-hbm2", "--order", "inputs")
    assert "closed form issues none" in fails(*SHAPE, "--fidelity", "analytic", "--commands", tmp_path / "c")
    assert "closed form only" in fails(*SHAPE, "--system", "upmem", "--commands", tmp_path / "c")
    assert str(tmp_path) in fails(*SHAPE, "--out", tmp_path)
