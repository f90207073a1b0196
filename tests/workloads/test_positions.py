"""How long a sequence is where nobody says, and what is said of one that the model has no positions for."""

import pytest

from presilicon.errors import TraceError
from presilicon.workloads.models import trace_model

pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.mark.slow
@pytest.mark.parametrize(("model", "seq"), [("bert-base", 512), ("gpt2", 1024), ("llama-3.2-1b", 2048)])
def test_a_sequence_is_no_longer_than_the_positions(model, seq):
    graph = trace_model(model)
    assert graph.meta["seq"] == seq
    assert graph.tokens == seq
    assert "note" not in graph.meta


def test_the_new_token_of_a_decode_step_has_a_position():
    assert trace_model("gpt2", phase="decode").meta["context"] == 1023


def test_too_many_positions_are_named():
    with pytest.raises(TraceError, match=r"bert-base: 513 positions, but the configuration allows 512; give a shorter seq"):
        trace_model("bert-base", seq=513)


def test_a_model_without_a_decode_step_is_not_told_to_shorten_the_context():
    with pytest.raises(TraceError, match=r"^bert-base: BertForMaskedLM does not decode token by token; use phase='prefill'$"):
        trace_model("bert-base", phase="decode", context=2048)
