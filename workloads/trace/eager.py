"""Make a model under trace take the branches that it takes when it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

#: Functions of transformers.masking_utils that decide, from the values of a padding mask, whether a dense mask is
#: needed.
_DECIDE = ("_ignore_causal_mask_sdpa", "_ignore_bidirectional_mask_sdpa")


@contextmanager
def eager_semantics() -> Iterator[None]:
    """Let a model do what it does on data without padding, rather than what it does while it is exported.

    While it is exported, transformers builds dense masks and looks for packed sequences, and it reads padding masks,
    whose values do not exist here; a run without padding does none of these.
    """
    with ExitStack() as stack:
        for name in ("is_compiling", "is_exporting"):
            stack.enter_context(mock.patch(f"torch.compiler.{name}", _no))
        masking: Any = sys.modules.get("transformers.masking_utils")
        for name in _DECIDE:
            if hasattr(masking, name):
                stack.enter_context(mock.patch.object(masking, name, _without_padding(getattr(masking, name))))
        if hasattr(masking, "find_packed_sequence_indices"):
            stack.enter_context(mock.patch.object(masking, "find_packed_sequence_indices", _none))
        modeling: Any = sys.modules.get("transformers.modeling_utils")
        if hasattr(modeling, "PreTrainedModel") and hasattr(
            modeling.PreTrainedModel, "warn_if_padding_and_no_attention_mask"
        ):
            stack.enter_context(
                mock.patch.object(modeling.PreTrainedModel, "warn_if_padding_and_no_attention_mask", _none)
            )
        if "transformers" in sys.modules:
            from .fused_scans import fused_scans

            stack.enter_context(fused_scans(every=False))
        yield


def _no() -> bool:
    return False


def _none(*args: Any, **kwargs: Any) -> None:
    return None


def _without_padding(decide: Callable[..., bool]) -> Callable[..., bool]:
    def decided(padding_mask: Any = None, *args: Any, **kwargs: Any) -> bool:
        return decide(None, *args, **kwargs)

    return decided
