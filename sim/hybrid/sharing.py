"""How many of a hybrid system's devices share every layer of a model, and what their memories hold for caches."""

from __future__ import annotations

from dataclasses import replace

from ...arch.hybrid_spec import HybridSystem
from ...errors import WorkloadError
from ...workloads.graph import OpGraph
from ...workloads.parallel import parallelise
from .costs import stored_bytes


def shared(graph: OpGraph, system: HybridSystem) -> tuple[OpGraph, HybridSystem, list[str]]:
    """What one device runs, the devices at work, and what the report says if that is not all of them.

    Every layer is shared by all devices (tensor parallel), or by as many of them as the model's heads and features divide by.
    """
    if system.devices == 1 or "parallel" in graph.meta:
        return graph, system, []
    why = ""
    for devices in range(system.devices, 1, -1):
        if why and any(op.kind == "attention" and op.dims["h"] * op.dims["g"] % devices for op in graph):
            continue
        try:
            local = parallelise(graph, tp=devices)
        except WorkloadError as error:
            why = why or str(error).replace(f"--tp {devices}", f"{devices} devices")
            continue
        return local, _of(system, devices), [_told(system, devices, why)] if why else []
    return graph, _of(system, 1), [_told(system, 1, why)]


def _of(system: HybridSystem, devices: int) -> HybridSystem:
    return system if devices == system.devices else replace(
        system, devices=devices, memory_bytes=system.memory_bytes / system.devices * devices)


def _told(system: HybridSystem, devices: int, why: str) -> str:
    work = f"{devices} devices share every layer" if devices > 1 else "one device runs every layer"
    return (f"{why}: {work}, and {system.devices - devices} of {system.devices} stay IDLE, their memory and energy not counted; "
            f"another number of devices is --set devices=N")


def cache_room_bytes(graph: OpGraph, system: HybridSystem, place: str = "auto", share: float = 1.0) -> float:
    """Bytes for the caches of all requests where all of them have to lie in one memory, the units' or the processors'.

    Parameters
    ----------
    graph
        The whole model.
    system
        Its devices with memories of their own for the units that attend; in one memory, weights and caches just add up.
    place
        As `presilicon.mapping.placement.RULES`: where attention runs.
    share
        Part of each memory that may be used.
    """
    _, used, _ = shared(graph, system)
    weights = max(graph.memory.weights_bytes, sum(stored_bytes(op) * op.count for op in graph))
    whole = share * used.memory_bytes - weights
    if used.pim is None or used.pim.memory == "shared":
        return whole
    apart = used.devices * used.pim.size_bytes
    own = share * (used.memory_bytes - apart) - weights
    on_units = min(share * apart, whole)
    return {"xpu": own, "pim-linear": own, "pim-attention": on_units, "pim": on_units}.get(place, max(own, on_units))
