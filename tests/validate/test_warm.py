"""Warm batches: who runs, how far, and in which channel."""

from __future__ import annotations

import numpy as np
import pytest

from presilicon.errors import CaseError
from presilicon.validate.cases.warm import Lengths, lengths_of, warm_batch

SHAREGPT = Lengths((80.3, 17.0), (295.0, 261.0))


def test_lengths_have_the_mean_and_median_asked_for() -> None:
    prompt, output = SHAREGPT.draw(200_000, np.random.default_rng(0))
    assert np.median(prompt) == pytest.approx(17, abs=1)
    assert np.median(output) == pytest.approx(261, rel=0.02)
    assert output.mean() == pytest.approx(295, rel=0.02)
    assert min(prompt.min(), output.min()) >= 1
    assert max(prompt.max(), output.max()) <= 2048


def test_a_warm_batch_is_met_in_proportion_to_its_steps() -> None:
    batches = [warm_batch(SHAREGPT, 256, 32, "round-robin", None, seed) for seed in range(4)]
    rng = np.random.default_rng(1)
    prompt, output = SHAREGPT.draw(100_000, rng)
    seen = rng.choice(100_000, 100_000, p=output / output.sum())  # length-biased, anywhere in its life
    expected = np.minimum(prompt[seen] + rng.random(100_000) * output[seen], 2048).mean()
    assert np.mean([b.contexts.mean() for b in batches]) == pytest.approx(expected, rel=0.1)
    assert all(b.contexts.min() >= 1 and b.contexts.max() <= 2048 for b in batches)


def test_packing_on_arrival_is_less_even_than_packing_at_once() -> None:
    turns, least = (warm_batch(SHAREGPT, 512, 32, how, None, 0) for how in ("round-robin", "greedy"))
    assert sorted(turns.contexts.tolist()) == sorted(least.contexts.tolist())  # the same requests
    counts = np.bincount(turns.channels, minlength=32)
    assert counts.min() < 16 < counts.max()
    balance = []
    for batch in (turns, least):
        load = np.bincount(batch.channels, weights=batch.contexts, minlength=32)
        balance.append(load.mean() / load.max())
    assert balance[0] < balance[1] < 0.99  # the public traces: 0.54 and 0.70 of tokens


def test_lengths_of_a_case_file() -> None:
    first, second = lengths_of([80.3, 17, 295, 261, 12.1, 11, 55.8, 45])
    assert first == SHAREGPT
    assert second.output == (55.8, 45.0)
    for wrong in ([], [1.0, 2.0, 3.0], [80.3, 90, 295, 261]):
        with pytest.raises(CaseError, match="lengths"):
            lengths_of(wrong)
