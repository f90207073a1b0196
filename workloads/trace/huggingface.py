"""transformers models from a configuration: built without weights on the meta device, with example inputs for each
phase.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from unittest import mock

import torch

from ...errors import TraceError, UnknownNameError
from . import fused

#: Auto classes tried in turn for a configuration that names no architecture.
_AUTO: Final = (
    "AutoModelForCausalLM",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSpeechSeq2Seq",
    "AutoModelForMaskedLM",
    "AutoModelForImageClassification",
    "AutoModelForImageTextToText",
    "AutoModelForMaskGeneration",
    "AutoModelForObjectDetection",
    "AutoModelForSemanticSegmentation",
    "AutoModelForCTC",
    "AutoModelForAudioClassification",
    "AutoModel",
)

#: What a caller may ask for, and what transformers calls it.
ATTENTION: Final = {"sdpa": "sdpa", "eager": "eager", "flash": fused.FUSED}


def config_of(data: Mapping[str, Any], where: str) -> Any:
    """A transformers configuration from the content of a config.json.

    Raises
    ------
    TraceError
        No model_type, one that transformers does not know, or values that its class refuses.
    """
    from transformers import CONFIG_MAPPING, AutoConfig

    data = dict(data)
    kind = data.pop("model_type", None)
    known = sorted(CONFIG_MAPPING.keys())
    if not isinstance(kind, str):
        raise TraceError(
            f'{where}: no "model_type"; it names the architecture, one of {len(known)}: llama, gpt2, bert, vit, ...'
        )
    if kind not in CONFIG_MAPPING:
        near = difflib.get_close_matches(kind, known, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
        raise TraceError(
            f"{where}: unknown model_type {kind!r}{hint} (a model with its own code: give file.py:function)"
        )
    data = {k: v for k, v in data.items() if not k.startswith("_")}  # notes, such as the source of the numbers
    for key in ("quantization_config", "torch_dtype", "dtype", "auto_map", "transformers_version"):
        data.pop(key, None)
    try:
        with quiet():
            return AutoConfig.for_model(kind, **data)
    except Exception as error:
        raise TraceError(
            f"{where}: transformers refuses this {kind} configuration: {type(error).__name__}: {error}"
        ) from error


def classes_of(config: Any, where: str) -> list[Any]:
    """Model classes of a configuration: the architecture that it names, or those that transformers has for its type."""
    import transformers

    named = [
        getattr(transformers, n) for n in (getattr(config, "architectures", None) or []) if hasattr(transformers, n)
    ]
    if named:
        return named[:1]
    found: list[Any] = []
    for auto in _AUTO:
        factory = getattr(transformers, auto, None)
        if factory is not None and type(config) in factory._model_mapping:
            classes = factory._model_mapping[type(config)]
            found.append(classes[0] if isinstance(classes, (tuple, list)) else classes)
    if not found:
        raise TraceError(f"{where}: transformers has a configuration but no model for {config.model_type!r}")
    return found


def build(config: Any, where: str, dtype: torch.dtype, attention: str) -> tuple[torch.nn.Module, str]:
    """The model of a configuration on the meta device, and the attention implementation that it took.

    A model that does not support `attention` gets sdpa, or else eager attention.
    """
    if attention not in ATTENTION:
        raise UnknownNameError("attention", attention, ATTENTION)
    if attention == "flash":
        fused.register()
    classes = classes_of(config, where)
    failures: list[Exception] = []
    for factory in classes:
        for implementation in dict.fromkeys((ATTENTION[attention], "sdpa", "eager")):
            try:
                with quiet(), torch.device("meta"):
                    # Experts take grouped_mm, transformers' own default where a model supports it.
                    model = factory._from_config(copy.deepcopy(config), dtype=dtype, attn_implementation=implementation)
                    taken = str(getattr(model.config, "_attn_implementation", None) or implementation)
                    return model.eval(), "flash" if taken == fused.FUSED else taken
            except Exception as error:
                failures.append(error)
    last = failures[min(2, len(failures) - 1)]
    reason = (str(last).strip().splitlines() or [""])[0]
    raise TraceError(f"{where}: {classes[0].__name__} cannot be built: {type(last).__name__}: {reason}") from last


@contextmanager
def quiet() -> Iterator[None]:
    """transformers logs and warns much while building; none of it is an answer."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def grouped_products() -> Iterator[None]:
    """Products of experts in other formats than bf16 take transformers' own operator: torch's takes bf16 alone on meta tensors."""
    try:
        from transformers.integrations import moe

        takes = moe._can_use_grouped_mm
    except (ImportError, AttributeError):  # a transformers of another layout
        yield
        return
    with mock.patch.object(moe, "_can_use_grouped_mm", lambda a, w, offs: w.dtype == torch.bfloat16 and takes(a, w, offs)):
        yield


def is_encoder_decoder(model: Any) -> bool:
    """Whether it has an encoder and a decoder that attends to it."""
    return bool(getattr(model.config, "is_encoder_decoder", False))


def positions(config: Any) -> int | None:
    """Tokens that the configuration has positions for (those of the decoder where it has one), None: no limit stated."""
    text = config.get_text_config()
    stated = (getattr(text, name, None) for name in ("max_position_embeddings", "max_target_positions"))
    return next((limit for limit in stated if isinstance(limit, int)), None)


def accepts(model: torch.nn.Module, name: str) -> bool:
    """Whether the forward has a parameter of this name."""
    return name in inspect.signature(model.forward).parameters


def inputs(model: Any, batch: int, seq: int, dtype: torch.dtype) -> tuple[dict[str, Any], float]:
    """Example inputs of a forward pass, and the tokens (or images, or clips) that it processes.

    Text: `seq` tokens. Images: the size that the configuration names. Audio: `seq` frames of 20 ms, or the fixed length
    of the encoder.
    """
    config = model.config
    main = getattr(model, "main_input_name", "input_ids")
    names = [main]
    if main == "input_ids" and accepts(model, "pixel_values") and _has_vision(config) and _pairs(model):
        names.append("pixel_values")
    if main == "pixel_values" and accepts(model, "input_ids") and getattr(config, "text_config", None) is not None:
        names.append("input_ids")
    found: dict[str, Any] = {name: _one(name, config, batch, seq, dtype) for name in names}
    tokens = float(batch * seq) if "input_ids" in found else float(batch)
    if is_encoder_decoder(model) and accepts(model, "decoder_input_ids"):
        found["decoder_input_ids"] = _ids(batch, 1)
    if (
        "input_ids" not in found
        and accepts(model, "input_ids")
        and main not in ("pixel_values", "input_features", "input_values")
    ):
        found["input_ids"] = _ids(batch, seq)
    return found, tokens


def _pairs(model: Any) -> bool:
    """Dual encoders (CLIP, SigLIP) need both; a vision-language decoder runs on text alone."""
    return hasattr(model, "text_model") and hasattr(model, "vision_model")


def _has_vision(config: Any) -> bool:
    return getattr(config, "vision_config", None) is not None


def _ids(batch: int, length: int) -> torch.Tensor:
    return torch.zeros(batch, length, dtype=torch.long, device="meta")


def _one(name: str, config: Any, batch: int, seq: int, dtype: torch.dtype) -> torch.Tensor:
    if name == "input_ids":
        text = getattr(config, "text_config", None)
        limit = getattr(text, "max_position_embeddings", None) if _has_vision(config) and text is not None else None
        return _ids(batch, min(seq, limit) if isinstance(limit, int) else seq)
    if name in ("pixel_values", "pixel_values_videos"):
        vision = getattr(config, "vision_config", None) or config
        size = getattr(vision, "image_size", None) or getattr(config, "image_size", None) or 224
        height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
        channels = getattr(vision, "num_channels", None) or getattr(vision, "in_channels", None) or 3
        frames = getattr(config, "num_frames", None)
        images = (batch, frames) if frames and not _has_vision(config) else (batch,)
        shape: tuple[int, ...] = (*images, channels, height, width)
        return torch.empty(shape, dtype=dtype, device="meta")
    if name == "input_features":
        bins = getattr(config, "num_mel_bins", None) or getattr(config, "input_feat_per_channel", None) or 80
        frames = (
            2 * config.max_source_positions
            if hasattr(config, "max_source_positions") and config.model_type == "whisper"
            else 2 * seq
        )
        shape = (batch, bins, frames) if config.model_type == "whisper" else (batch, frames, bins)
        return torch.empty(shape, dtype=dtype, device="meta")
    if name == "input_values":
        if hasattr(config, "num_mel_bins") and hasattr(config, "max_length"):  # spectrogram transformers
            return torch.empty(batch, config.max_length, config.num_mel_bins, dtype=dtype, device="meta")
        return torch.empty(batch, 320 * seq + 80, dtype=dtype, device="meta")
    if name == "inputs_embeds":
        return torch.empty(batch, seq, config.hidden_size, dtype=dtype, device="meta")
    raise TraceError(f"{config.model_type}: no example input is known for its argument {name!r}; give file.py:function")


def labels(model: Any, given: dict[str, Any], batch: int) -> dict[str, Any]:
    """Labels for a training step: token ids for language models, one class each for classifiers; none where the model
    has no loss.
    """
    if not accepts(model, "labels"):
        return {}
    kind = type(model).__name__
    if is_encoder_decoder(model) and "decoder_input_ids" in given:
        length = given["input_ids"].shape[1] if "input_ids" in given else 64
        given.pop("decoder_input_ids")
        return {"labels": _ids(batch, length)}
    if "input_ids" in given and any(
        part in kind for part in ("CausalLM", "LMHead", "MaskedLM", "TokenClassification", "ConditionalGeneration")
    ):
        return {"labels": torch.zeros_like(given["input_ids"])}
    if "Classification" in kind:
        return {"labels": torch.zeros(batch, dtype=torch.long, device="meta")}
    return {}
