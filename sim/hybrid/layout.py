"""What a step on a hybrid system is made of: the costs of its (sub-)batches, where ops run, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ...arch import Estimate
from ...mapping.placement import XPU, Placement
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
        return self.pim[name].estimate if device != XPU else self.xpu[name][0]

    def shared(self, name: str) -> tuple[Estimate, Estimate]:
        """Costs of the parts of an op that processor and units take so that both end at once, in the ratio of their speeds."""
        ours, theirs = self.xpu[name][0], self.pim[name].estimate
        part = theirs.time_s / (ours.time_s + theirs.time_s)
        return ours * part, theirs * (1.0 - part)


@dataclass(frozen=True)
class Layout:
    """A step in time: the whole batch's costs, where ops run, the (sub-)batches, what was played, and lengths of the requests.

    `together` names the ops that processor and units share; `crossed_bytes` of each op, of all its runs, come over the link of one device.
    """

    whole: Part
    placement: Placement
    parts: tuple[Part, ...]
    played: Played
    lengths: tuple[int, ...] | None
    together: frozenset[str] = frozenset()
    crossed_bytes: Mapping[str, float] = field(default_factory=dict)

    def chosen(self, name: str) -> Estimate:
        """Cost of an op where it runs, of all (sub-)batches, each of which reads the weights."""
        first, *others = (self._of(part, name) for part in self.parts)
        return sum(others, start=first)

    def _of(self, part: Part, name: str) -> Estimate:
        if name not in self.together:
            return part.chosen(name, self.placement.device[name])
        ours, theirs = part.shared(name)
        both = ours + theirs
        return replace(both, time_s=ours.time_s, low_s=ours.low_s, high_s=ours.high_s)
