"""Tracing of any module: aliases, dependences, fallback to dispatch, operators without a formula, memory."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from presilicon.errors import TraceError, UncoveredOpError  # noqa: E402
from presilicon.workloads import formula, trace  # noqa: E402
from presilicon.workloads.trace import registry  # noqa: E402


class Lambda(nn.Module):
    def __init__(self, function) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.function = function

    def forward(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        return self.function(*args, **kwargs)


@torch.library.custom_op("presilicon_test::mystery", mutates_args=())
def mystery(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


@mystery.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def kinds(graph) -> list[str]:  # type: ignore[no-untyped-def]
    return [op.kind for op in graph]


def test_views_are_free_and_edges_pass_through_them() -> None:
    graph = trace(Lambda(lambda x: (x * 2).view(4, 8).t()[1:].unsqueeze(0) + 1), torch.zeros(32))
    assert kinds(graph) == ["elementwise", "elementwise"]
    assert list(graph.nx.edges) == [("mul", "add")]


def test_in_place_views_are_free_too() -> None:
    graph = trace(Lambda(lambda x: (x * 2).unsqueeze_(0).transpose_(0, 1).squeeze_().exp()), torch.zeros(32))
    assert list(graph.nx.edges) == [("mul", "exp")]


def test_a_reshape_that_must_copy_is_a_copy() -> None:
    graph = trace(Lambda(lambda x: x.t().reshape(-1)), torch.zeros(4, 8))
    assert kinds(graph) == ["copy"]
    assert graph["reshape"].dims["n"] == 32
    assert len(trace(Lambda(lambda x: x.reshape(-1)), torch.zeros(4, 8))) == 0


def test_in_place_writes_order_what_follows() -> None:
    def run(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        buffer = torch.zeros(8)
        buffer[:4].copy_(x)
        buffer[4:].copy_(y)
        return buffer.exp()

    graph = trace(Lambda(run), torch.zeros(4), torch.zeros(4))
    assert list(graph.nx.edges) == [("zeros", "copy"), ("copy", "copy_2"), ("copy_2", "exp")]
    assert graph["copy"].bytes_written == 16


def test_broadcast_operands_count_what_they_hold() -> None:
    graph = trace(Lambda(lambda x, y: x + y), torch.zeros(16, 8), torch.zeros(8))
    op = graph["add"]
    assert [op.elements(o) for o in op.operands] == [128, 8, 128]
    assert op.flops == 128


def test_matmul_folds_a_shared_right_factor_into_m() -> None:
    graph = trace(Lambda(lambda x, w: x @ w), torch.zeros(2, 3, 4), torch.zeros(4, 5))
    assert dict(graph["matmul"].dims) == {"b": 1, "m": 6, "n": 5, "k": 4}
    graph = trace(Lambda(lambda x, w: x @ w), torch.zeros(2, 3, 4), torch.zeros(2, 4, 5))
    assert dict(graph["matmul"].dims) == {"b": 2, "m": 3, "n": 5, "k": 4}


@pytest.mark.parametrize(
    ("equation", "shapes", "dims"),
    [
        ("ij,jk->ik", ((3, 4), (4, 5)), (1, 3, 5, 4)),
        ("bij,bjk->bik", ((2, 3, 4), (2, 4, 5)), (2, 3, 5, 4)),
        ("...ij,jk->...ik", ((2, 3, 4), (4, 5)), (1, 6, 5, 4)),
        ("bhqe,bhse->bhqs", ((2, 3, 4, 5), (2, 3, 6, 5)), (6, 4, 6, 5)),
    ],
)
def test_einsum(equation: str, shapes: tuple[tuple[int, ...], ...], dims: tuple[int, ...]) -> None:
    graph = trace(Lambda(lambda *parts: torch.einsum(equation, *parts)), *(torch.zeros(s) for s in shapes))
    assert tuple(graph.ops[0].dims.values()) == dims


def test_einsum_of_three_goes_from_left_to_right_and_without_a_sum_it_is_a_product() -> None:
    parts = (torch.zeros(3, 4), torch.zeros(4, 5), torch.zeros(5, 6))
    graph = trace(Lambda(lambda *p: torch.einsum("ij,jk,kl->il", *p)), *parts)
    assert [tuple(op.dims.values()) for op in graph] == [(1, 3, 5, 4), (1, 3, 6, 5)]
    assert len(graph.nx.edges) == 1
    graph = trace(Lambda(lambda x, y: torch.einsum("i,j->ij", x, y)), torch.zeros(3), torch.zeros(4))
    assert kinds(graph) == ["elementwise"]
    graph = trace(Lambda(lambda x: torch.einsum("ij->i", x)), torch.zeros(3, 4))
    assert kinds(graph) == ["reduce"]


def test_strided_dilated_grouped_convolution() -> None:
    conv = nn.Conv2d(8, 12, 3, stride=2, padding=1, dilation=2, groups=4)
    op = trace(conv, torch.zeros(2, 8, 17, 17)).ops[0]
    assert op.kind == "conv"
    assert dict(op.dims) == {"b": 2, "g": 4, "m": 3, "c": 2, "p": 8, "q": 8, "r": 3, "s": 3}
    a, w, bias, out = op.operands
    assert a.projection[2] == (("p", 2), ("r", 2))
    assert op.extent(out) == (2, 12, 8, 8)
    assert op.elements(w) == conv.weight.numel()
    assert op.elements(bias) == 12
    assert op.elements(a) == 2 * 8 * 17 * 17  # padding is not read
    assert op.flops == 2 * 2 * 12 * 2 * 8 * 8 * 9


def test_transposed_convolution_runs_over_its_input() -> None:
    op = trace(nn.ConvTranspose2d(4, 6, 2, stride=2), torch.zeros(1, 4, 5, 5)).ops[0]
    assert (op.dims["p"], op.dims["m"], op.dims["c"]) == (5, 6, 4)
    assert op.elements(op.operands[-1]) == 6 * 10 * 10
    assert op.attributes["transposed"]


def test_an_operator_without_a_formula_is_reported_and_strict_names_it() -> None:
    module = Lambda(lambda x: mystery(x).exp())
    graph = trace(module, torch.zeros(8, 4))
    assert kinds(graph) == ["unknown", "elementwise"]
    (found,) = graph.uncovered
    assert (found.target, found.count, found.bytes_touched) == ("presilicon_test.mystery.default", 1, 2 * 32 * 4)
    assert list(graph.nx.edges) == [("mystery", "exp")]
    with pytest.raises(UncoveredOpError, match=r"presilicon_test\.mystery\.default x1"):
        trace(module, torch.zeros(8, 4), strict=True)


def test_one_decorated_function_covers_it() -> None:
    from presilicon.workloads.trace.elementwise import pointwise

    formula("presilicon_test.mystery")(lambda call: pointwise(call, {"mul": 3.0}))
    try:
        graph = trace(Lambda(mystery), torch.zeros(8, 4), strict=True)
        assert graph.flops == 96
        with pytest.raises(ValueError, match="has a formula already"):
            formula("presilicon_test.mystery")(lambda call: None)
    finally:
        registry.forget("presilicon_test.mystery")


def test_a_formula_that_fails_is_reported_not_fatal() -> None:
    def broken(call):  # type: ignore[no-untyped-def]
        raise KeyError("no such argument")

    formula("presilicon_test.mystery")(broken)
    try:
        graph = trace(Lambda(mystery), torch.zeros(8, 4))
    finally:
        registry.forget("presilicon_test.mystery")
    assert "formula failed: KeyError" in graph.uncovered[0].example


def test_composites_without_a_formula_are_taken_apart() -> None:
    graph = trace(
        Lambda(lambda x: torch.nn.functional.cosine_embedding_loss(x, x, torch.ones(4))), torch.zeros(4, 8), strict=True
    )
    assert len(graph) > 3
    assert graph.meta["front_end"] == "export"


def test_dispatch_takes_over_where_export_fails_and_says_why() -> None:
    class Opaque:
        def __init__(self, value: torch.Tensor) -> None:
            self.value = value

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if torch._subclasses.fake_tensor.FakeTensor in type(x).__mro__:
                raise RuntimeError("no exporting, please")
            return self.linear(x)

    graph = trace(Model(), torch.zeros(2, 4))
    assert graph.meta["front_end"] == "dispatch"
    assert "no exporting, please" in graph.meta["front_end_reason"]
    assert graph["linear.linear"].dims["m"] == 2


def test_values_of_tensors_do_not_exist() -> None:
    def branch(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x - 1

    with pytest.raises(TraceError, match="cannot be traced on meta tensors"):
        trace(Lambda(branch), torch.zeros(4))


def test_no_data_is_touched_and_the_module_is_left_as_it_was() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))
    before = {k: v.clone() for k, v in module.state_dict().items()}
    module.train()
    graph = trace(module, torch.zeros(3, 4))
    assert module.training
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert next(module.parameters()).device.type == "cpu"
    assert kinds(graph) == ["matmul", "norm"]


def test_activation_peak_is_by_liveness() -> None:
    # Of x, a = x + 1, b = a + 1, c = b + 1 two are alive at a time, and x is the caller's.
    graph = trace(Lambda(lambda x: ((x + 1) + 1) + 1), torch.zeros(256))
    assert graph.memory.activations_bytes == 2 * 1024
    graph = trace(Lambda(lambda x: (x + 1) * (x + 2)), torch.zeros(256))
    assert graph.memory.activations_bytes == 3 * 1024


def test_tied_weights_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(16, 4)
            self.head = nn.Linear(4, 16, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.embed(x))

    assert trace(Tied(), torch.zeros(1, 3, dtype=torch.long)).memory.weights_bytes == 16 * 4 * 4


def test_not_a_module() -> None:
    with pytest.raises(TraceError, match=r"torch\.nn\.Module, got function"):
        trace(lambda x: x, torch.zeros(1))


def test_unknown_front_end() -> None:
    with pytest.raises(TraceError, match="'auto', 'export' or 'dispatch'"):
        trace(nn.ReLU(), torch.zeros(1), front_end="jit")


def test_the_same_inputs_give_the_same_graph() -> None:
    def run() -> dict:  # type: ignore[type-arg]
        return trace(nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)), torch.zeros(2, 4)).to_dict()

    assert run() == run()


def test_packed_gqa_is_unpacked() -> None:
    from presilicon.workloads.trace.attention import visible

    assert visible(4, 4, True, 0, align_last=False) == 10
    assert visible(4, 6, True, 0, align_last=True) == 3 + 4 + 5 + 6
    assert visible(4, 6, True, 0, align_last=False) == 1 + 2 + 3 + 4
    assert visible(6, 6, True, 2, align_last=True) == 1 + 2 * 5
    assert visible(3, 5, False, 0, align_last=True) == 15
    brute = sum(1 for i in range(7) for j in range(9) if j <= i + 2 and j > i + 2 - 3)
    assert visible(7, 9, True, 3, align_last=True) == brute
    both = sum(1 for i in range(7) for j in range(7) if abs(i - j) < 3)
    assert visible(7, 7, False, 3, align_last=True) == both
