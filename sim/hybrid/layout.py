"""What a step on a hybrid system is made of: the costs of its (sub-)batches, where ops run, and when."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...arch import Estimate
from ...mapping.placement import PIM, Placement
from ...workloads.graph import OpGraph
from ..dram.neupims import Shares
from .costs import PimCost
from .engine import Played

#: Dimension that counts tokens or requests, by kind of op.
TOKENS = {"matmul": "m", "attention": "b", "norm": "r", "elementwise": "n", "copy": "n", "gather": "n", "collective": "n", "softmax": "r"}


@dataclass(frozen=True)
class Part:
    """One (sub-)batch: its ops, its costs on both devices, its share of the requests, and costs on the processor while the units work."""

    graph: OpGraph
    xpu: dict[str, tuple[Estimate, str, str]]
    pim: dict[str, PimCost]
    share: float = 1.0
    slow: dict[str, tuple[Estimate, str, str]] = field(default_factory=dict)
    shares: Shares | None = None

    def chosen(self, name: str, device: str) -> Estimate:
        """Cost of an op where it runs."""
        return self.pim[name].estimate if device == PIM else self.xpu[name][0]


@dataclass(frozen=True)
class Layout:
    """A step in time: the whole batch's costs, where ops run, the (sub-)batches, what was played, and lengths of the requests."""

    whole: Part
    placement: Placement
    parts: tuple[Part, ...]
    played: Played
    lengths: tuple[int, ...] | None

    def chosen(self, name: str) -> Estimate:
        """Cost of an op where it runs, of all (sub-)batches, each of which reads the weights."""
        first, *others = (part.chosen(name, self.placement.device[name]) for part in self.parts)
        return sum(others, start=first)
