"""Which engine runs a product that fills an array badly, and how: groups side by side, or the vector engines.

A depthwise convolution has one filter to a group. Laid over an array group by group it uses one column. A compiler has two ways out, and
takes the faster:

* the weights of several groups become one block-diagonal matrix, whose zeros are multiplied like other weights (XLA's
  convolution_group_converter rewrites grouped convolutions so, by masks);
* the vector engines multiply and add, tap by tap, in lanes that hold channels or pixels.
"""

from __future__ import annotations

from ...arch.npu import NpuSystem, arithmetic_bits
from ...workloads.op import Op
from . import build
from .group import Group, Schedule, executes_all
from .product import Product
from .segment import Segment


def groups_at_once(shape: Product, system: NpuSystem) -> int:
    """Groups whose block-diagonal weights fill an array best: as many as fit, of equally many rounds the fewest; 1: none.

    >>> from presilicon.arch import load
    >>> from presilicon.mapping.npu.product import from_layer
    >>> from presilicon.mapping.systolic_layer import conv
    >>> deep = from_layer(conv("dw", 56, 56, 3, 3, 96, 96, padding=(1, 1), groups=96), ("int8",) * 3)
    >>> groups_at_once(deep, load("tpu-v1")), groups_at_once(deep, load("ascend-910"))
    (24, 16)
    """
    dims = dict(shape.dims)
    filters, window, groups = (shape.size(kind) for kind in "fwg")
    matrix = system.matrix
    room = {
        "ws": min(matrix.rows // window, matrix.cols // filters),
        "is": matrix.rows // window,
        "cube": matrix.cols // filters,
    }.get(matrix.dataflow, 1)
    if "g" not in dims or room < 2:
        return 1
    rounds = -(-groups // min(room, groups))
    return -(-groups // rounds)


def joined(shape: Product, groups: int) -> Product:
    """A product that runs so many of its groups as one: their windows beside each other, and their filters, with zeros between."""
    dims = dict(shape.dims)
    dims["g"] = -(-dims["g"] // groups)
    dims["n"] = dims.get("n", 1) * groups
    dims["k"] = dims.get("k", 1) * groups
    classes = dict(shape.classes) | {"n": "f", "k": "w"}
    kept = [d for d in dict.fromkeys(("g", "m", "n", "k", *dims)) if d in dims and (dims[d] > 1 or d != "g")]
    return Product(tuple((d, dims[d]) for d in kept), tuple((d, classes[d]) for d in kept), shape.sliding, shape.formats)


def on_vector(group: Group, scheduled: Schedule, system: NpuSystem, matrix: Segment) -> Segment | None:
    """A product and the work on its results on the vector engines; None where they cannot, or the array is not what limits it there.

    Parameters
    ----------
    group, scheduled, system
        What runs where.
    matrix
        The same on the array.
    """
    lead = group.lead
    if system.vector is None or not executes_all(lead, system) or _unpacks(lead, system):
        return None
    own = build.vector_work(lead, system)
    if matrix.busy_s["matrix"] < max(matrix.busy_s.values()) or own.seconds(system) >= matrix.busy_s["matrix"]:
        return None
    followers = [op for op in group.ops[1:] if op.name not in group.folded]
    work = sum((build.vector_work(op, system) for op in followers), own)
    return build.vector_segment(lead.name, work, build.operand_moves(group, scheduled, system, on_vector=True), system)


def _unpacks(op: Op, system: NpuSystem) -> bool:
    """Whether an operand is stored in fewer bits than the arithmetic takes, or pruned."""
    bits = arithmetic_bits(build.arithmetic_of(op, system))
    formats = [o.number_format for o in op.operands if o.role != "output"]
    return any(f.dense.bits < bits or f.sparsity is not None for f in formats)
