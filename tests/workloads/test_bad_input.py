"""What a user can get wrong: each is one clear error that names the place and what is allowed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from presilicon.errors import GraphError, PresiliconError, TraceError, UnknownNameError
from presilicon.workloads import Op, OpGraph, trace_model
from presilicon.workloads.graph import FORMAT_VERSION
from presilicon.workloads.op import tensor


def relu(name: str) -> Op:
    return Op(
        name,
        "elementwise",
        "aten.relu.default",
        {"n": 8},
        (tensor("x0", "input", "n", "bf16"), tensor("out", "output", "n", "bf16")),
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return OpGraph("g", [relu("a"), relu("b")], [("a", "b", "x0")]).save(tmp_path / "g.json")


def test_cut_short(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-40])
    with pytest.raises(GraphError, match="not a graph file, or cut short"):
        OpGraph.load(saved)


def test_newer_version(saved: Path) -> None:
    data = json.loads(saved.read_text()) | {"version": FORMAT_VERSION + 1}
    saved.write_text(json.dumps(data))
    with pytest.raises(GraphError, match=f"this release reads version {FORMAT_VERSION}"):
        OpGraph.load(saved)


def test_cycle(saved: Path) -> None:
    data = json.loads(saved.read_text())
    data["edges"].append(["b", "a", "x0"])
    saved.write_text(json.dumps(data))
    with pytest.raises(GraphError, match=r"cycle: (a -> b|b -> a)"):
        OpGraph.load(saved)


def test_edge_to_nowhere(saved: Path) -> None:
    data = json.loads(saved.read_text())
    data["edges"].append(["b", "ghost", "x0"])
    saved.write_text(json.dumps(data))
    with pytest.raises(GraphError, match="ghost"):
        OpGraph.load(saved)


def test_unknown_model_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="llama-3-8b"):
        trace_model("lama-3-8b")


def test_unknown_phase_and_bad_sizes() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'decode'"):
        trace_model("gpt2", phase="decod")  # type: ignore[arg-type]
    for sizes in ({"batch": 0}, {"seq": -1}, {"context": 0}, {"batch": 1.5}):
        with pytest.raises(TraceError, match="must be a positive whole number"):
            trace_model("gpt2", **sizes)  # type: ignore[arg-type]


def test_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"without config\.json"):
        trace_model(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "holds a JSON object, not list"),
        ("{}", 'no "model_type"'),
        ('{"model_type": "lama"}', "unknown model_type 'lama'; did you mean 'llama'"),
        ('{"model_type": "llama", "hidden_size": "wide"}', "refuses this llama configuration|cannot be built"),
        ('{"model_type": "llama", "hidden_size": 30, "num_attention_heads": 4}', "llama"),
    ],
)
def test_bad_configurations(tmp_path: Path, text: str, message: str) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(PresiliconError, match=message):
        trace_model(tmp_path)


def test_unknown_dtype_and_attention() -> None:
    pytest.importorskip("transformers")
    with pytest.raises(UnknownNameError, match="did you mean 'float16'"):
        trace_model("gpt2", dtype="flaot16")
    with pytest.raises(UnknownNameError, match="'flash'"):
        trace_model("gpt2", attention="flsh")


def test_a_model_that_does_not_decode() -> None:
    pytest.importorskip("transformers")
    with pytest.raises(TraceError, match="does not decode token by token"):
        trace_model("bert-base", phase="decode")


CASES = {
    "raises": (
        "def model():\n    raise ValueError('no weights here')\n",
        r"ValueError: no weights here \(.*model\.py:2\)",
    ),
    "at_import": ("import math\nmath.sqrt(-1)\n", r"raised while it was run: ValueError: .*model\.py:2\)"),
    "syntax": ("def model(:\n", r"model\.py:1: SyntaxError"),
    "returns_none": ("def model():\n    pass\n", r"must return \(nn\.Module, example_inputs\), but returned NoneType"),
    "returns_module": ("from torch import nn\ndef model():\n    return nn.ReLU()\n", "but returned ReLU"),
    "returns_wrong_pair": ("def model():\n    return (1, 2)\n", r"but returned \(int, int\)"),
    "returns_bad_inputs": (
        "from torch import nn\ndef model():\n    return nn.ReLU(), 'x'\n",
        "must be a tensor, a tuple, a list or a dict, not str",
    ),
    "missing": ("def modle():\n    pass\n", "unknown function 'model'; did you mean 'modle'"),
    "not_a_function": ("model = 3\n", "is a int, not a function"),
    "exits": ("def model():\n    raise SystemExit(3)\n", "raised: SystemExit: 3"),
    "forward_raises": (
        "import torch\nfrom torch import nn\nclass M(nn.Module):\n"
        "  def forward(self, x):\n    raise RuntimeError('bad shape')\n"
        "def model():\n    return M(), torch.zeros(1)\n",
        r"RuntimeError: bad shape \(at model\.py:5\)",
    ),
}


@pytest.mark.parametrize("case", list(CASES))
def test_user_files(tmp_path: Path, case: str) -> None:
    pytest.importorskip("torch")
    text, message = CASES[case]
    path = tmp_path / "model.py"
    path.write_text(text)
    with pytest.raises(PresiliconError, match=message):
        trace_model(f"{path}:model")


def test_user_file_that_works_and_one_that_does_not_exist(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "model.py"
    path.write_text(
        "import torch\nfrom torch import nn\ndef model():\n    return nn.Linear(4, 2), {'input': torch.zeros(3, 4)}\n"
    )
    graph = trace_model(f"{path}:model", strict=True)
    assert graph.flops == 2 * 3 * 4 * 2
    with pytest.raises(TraceError, match="no such file"):
        trace_model(f"{tmp_path / 'other.py'}:model")
    with pytest.raises(TraceError, match="name a function"):
        trace_model(str(path))
    with pytest.raises(TraceError, match="phase 'decode' needs a configuration"):
        trace_model(f"{path}:model", phase="decode")
