"""Joules of a kernel on memory with processing units, by the parts that its bits cross: `presilicon.sim.hybrid` and `pim gemv` share it.

A bit that units read costs the parts from the cell to where the units are; one that passes between units and host costs the rest of
the path, so that both together are an ordinary read (AttAcc simulator: its energies by level; O'Connor et al., MICRO 2017).
"""

from __future__ import annotations

from ..arch.dram import DramDevice
from ..arch.hybrid_spec import CROSSED, PATH


def energy_j(device: DramDevice, where: str, *, read_bits: float, path_bits: float, macs: float, opened_bits: float | None = None,
             standing_s: float = 0.0) -> dict[str, float]:
    """Joules by part: those of `PATH` that the device's file states, ``"mac"``, and ``"static"`` where it states standby power.

    Parameters
    ----------
    device
        The memory.
    where
        How far reads of the units come: a key of `CROSSED`.
    read_bits, path_bits
        Bits that units read from open rows, and bits that pass between units and host.
    macs
        Multiply-adds.
    opened_bits
        Bits of the rows that are opened for the reads; None: as many as are read, as in the tables of AttAcc's simulator.
    standing_s
        Seconds for which all channels draw standby power.

    >>> from presilicon.arch.dram import load
    >>> found = energy_j(load("attacc-hbm3"), "bank", read_bits=1e12, path_bits=0.0, macs=0.0)
    >>> round(found["activate"] + found["cell"], 3)  # 0.55 pJ a bit
    0.55
    """
    known, far = device.energy, CROSSED[where]
    bits = [read_bits if index < far else path_bits for index in range(len(PATH))]
    if opened_bits is not None:
        bits[PATH.index("activate")] = opened_bits
    found = {part: crossed * known[part] for part, crossed in zip(PATH, bits, strict=True) if part in known}
    if "mac_j" in known:
        found["mac"] = macs * known["mac_j"]
    if "standby_w" in known and standing_s:
        found["static"] = standing_s * known["standby_w"] * device.organisation.channels
    return found
