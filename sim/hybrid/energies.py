"""Joules of a step on a hybrid system beside those of its ops' own work: what crosses links, and power that is drawn all along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...arch.hybrid_spec import HybridSystem
from ...units import format_si
from ..result import OpResult
from .layout import Layout


def standing_w(system: HybridSystem) -> float:
    """Power of all devices whatever runs: processors' idle power, and standby of memories with units where their files state it, W."""
    standby = sum(side.channels * side.device.energy.get("standby_w", 0.0) for side in system.sides.values())
    return system.idle_w + system.devices * standby


def with_all_energy(results: Sequence[OpResult], laid: Layout, system: HybridSystem) -> tuple[OpResult, ...]:
    """Results whose energy is that of the step: ``"link"`` for the bytes that ops fetch over it, and ``"static"``.

    Standing power runs from the step's start to its end, and ops have shares of it by their time.
    """
    total_s = sum(r.estimate.time_s * r.op.count for r in results)
    static_w = standing_w(system) * laid.played.time_s / total_s if total_s else 0.0
    per_byte = system.link.j_per_byte if system.link is not None else 0.0
    found = []
    for r in results:
        joules = {name: j for name, j in r.estimate.energy_j.items() if name != "static"}
        joules["static"] = static_w * r.estimate.time_s
        crossed = system.devices * laid.crossed_bytes.get(r.op.name, 0.0) / r.op.count
        if crossed:
            joules["link"] = crossed * per_byte
        found.append(replace(r, estimate=replace(r.estimate, energy_j=joules)))
    return tuple(found)


def energy(results: Sequence[OpResult]) -> list[str]:
    """The report's line: energy by component, largest first."""
    parts: dict[str, float] = {}
    for r in results:
        for name, joules in r.estimate.energy_j.items():
            parts[name] = parts.get(name, 0.0) + joules * r.op.count
    known = sorted(((j, name) for name, j in parts.items() if j > 0), reverse=True)
    return ["energy: " + ", ".join(f"{name} {format_si(j, 'J', 3)}" for j, name in known)] if known else []
