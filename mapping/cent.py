"""Decode of a Llama on CENT: blocks of the model on channels of GDDR6-AiM, stages in a pipeline or one block over several devices.

A block runs on `channels` channels; every product with weights is a matrix-vector product in their banks. Closed forms, from the rows of
the device (`presilicon.mapping.pim`), of the programs that the public simulator of CENT generates:

* GEMV: a buffer write for each 2 KB of the input, and then groups of up to 16 outputs a bank, whose accumulators are written before and
  read after between two mode switches (the simulator's ``reuse-GB`` with 32 registers). A row of c columns takes 98 + 2 c cycles.
* Scores: a key lies in one bank with all its heads, `1024 / head_dim` heads a row; a head's product and result come between two mode
  switches. So a pass costs the same for one key as for one in every bank.
* Scores to the banks and back, in bursts of 32 bytes by single-bank instructions of the one host.
* Context: a KV head is spread over ``channels / KV heads`` channels; one dimension a bank.
* SiLU: an AF instruction for each output of the gate.
* Softmax, norms and rotary embedding by the 32 accelerators of 16 lanes near the memory.
* CXL: flits of 256 bytes for 192 of data; one vector from stage to stage, or five broadcasts and five gathers of a hidden vector and one
  each of a feed-forward vector with tensor parallelism.

Source of all of them: CENT (public), `aim_sim`, `run_sim`, `cxl_latency` and `cent_power_calculator`; numbers stand in ``arch/cent.yaml``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..arch.cent import CentNumbers, cent_numbers
from ..arch.dram import DramDevice
from ..errors import MappingError
from .pim import gap, positive


@dataclass(frozen=True)
class Llama:
    """A model: blocks, hidden size, feed-forward size, query and KV heads, vocabulary, head dimension."""

    blocks: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    vocabulary: int = 32000
    head_dim: int = 128


@dataclass(frozen=True)
class Token:
    """One token through all blocks.

    Attributes
    ----------
    block_s, near_s, link_s
        Seconds of a block in the banks, near the memory, and on the links.
    head_s
        Seconds of the first and last product with the vocabulary.
    time_s
        Seconds of the token.
    stages
        Tokens of different requests that are under way at once: the batch.
    energy_j
        Joules of the token in the memory, all devices.
    """

    block_s: float
    near_s: float
    link_s: float
    head_s: float
    time_s: float
    stages: int
    energy_j: float

    @property
    def tokens_per_s(self) -> float:
        """Throughput of the full pipeline."""
        return self.stages / self.time_s


class _Work:
    """Cycles and commands of one channel."""

    def __init__(self, device: DramDevice) -> None:
        t = device.timings
        self.device, self.mode, self.step = device, t["tMOD"], gap(device, "MAC16", "MAC16")
        self.fill = gap(device, "WRGB", "WRGB")
        self.reopen = t["tRTP"] + t["tRP"] + t["tRCD_MAC"]
        self.result = gap(device, "RDMAC16", "RDMAC16") + device.expand(device.command("RDMAC16").latency)
        self.bias = gap(device, "WRMAC16", "WRMAC16")
        self.cycles, self.rows, self.macs = 0.0, 0.0, 0.0

    def buffer(self, columns: int) -> None:
        self.cycles += self.mode + columns * self.fill

    def group(self, results: int, columns: int, opens: bool = True) -> None:
        """`results` accumulators a bank, each over so many columns."""
        self.cycles += 2 * self.mode + results * (self.bias + self.result + (columns - 1) * self.step + (self.reopen if opens else 0))
        self.rows += results * opens
        self.macs += results * columns

    def gemv(self, outputs: int, inputs: int, banks: int) -> None:
        per_row = self.device.organisation.row_bytes // 2
        own = math.ceil(outputs / banks)
        groups = math.ceil(own / cent_numbers().accumulators)
        size = math.ceil(own / groups)
        for block in range(math.ceil(inputs / per_row)):
            columns = math.ceil(min(per_row, inputs - block * per_row) / 16)
            self.buffer(columns)
            for index in range(groups):
                self.group(min(size, own - index * size), columns)


def token(device: DramDevice, model: Llama, devices: int, keys: int, *, tensor: int = 0) -> Token:
    """One token of a request with so many keys.

    Parameters
    ----------
    device
        GDDR6-AiM, with the channels of one CXL device.
    model
        The model.
    devices
        CXL devices.
    keys
        Keys that the token attends to, itself included.
    tensor
        0: blocks in a pipeline, as many to a device as are needed. Else devices that share the products of each block (which attends on
        one of them), and ``devices / tensor`` blocks at work.

    Raises
    ------
    MappingError
        Sizes that are no positive integers, more blocks than channels, more devices than lanes, a `tensor` that does not divide the
        devices, a model that does not fit.
    """
    positive(device, devices=devices, keys=keys)
    numbers = cent_numbers()
    org = device.organisation
    per_device = 1 if tensor else math.ceil(model.blocks / devices)
    channels = org.channels // per_device
    if devices > numbers.lanes:
        raise MappingError(f"{device.name}: {devices} devices; the host has {numbers.lanes:g} CXL lanes, at least one for each")
    if tensor < 0 or (tensor and devices % tensor) or channels < 1:
        raise MappingError(f"{device.name}: {model.blocks} blocks do not lie on {devices} devices of {org.channels} channels, "
                           f"{tensor} devices a block")
    weights = 2.0 * model.blocks * (model.hidden * (2 * model.heads + 2 * model.kv_heads) * model.head_dim + 3 * model.hidden * model.ffn)
    if weights > devices * float(org.size_bytes):
        raise MappingError(f"{device.name}: weights of {weights / 2**30:.1f} GiB do not fit {devices} devices of "
                           f"{org.size_bytes / 2**30:.1f} GiB")
    banks, shared = channels * org.banks_per_channel, channels * org.banks_per_channel * max(1, tensor)
    products = _Work(device)
    kv, wide = model.kv_heads * model.head_dim, model.heads * model.head_dim
    for outputs, inputs in ((wide, model.hidden), (kv, model.hidden), (kv, model.hidden), (model.hidden, wide), (model.ffn, model.hidden),
                            (model.ffn, model.hidden), (model.hidden, model.ffn)):
        products.gemv(outputs, inputs, shared)
    t = device.timings
    products.cycles += math.ceil(model.ffn / shared) * (t["tRCD_AF"] + t["tRTP"] + t["tRP"] + 2 * t["tMOD"])
    attending = _attention(device, model, keys, channels, banks, per_device)
    block_s = (products.cycles + attending.cycles) * device.cycle_s
    head = _Work(device)
    head.gemv(model.vocabulary, model.hidden, shared)
    head_s = 2.0 * head.cycles * device.cycle_s
    near_s = per_device * _near_s(model, keys)
    link_s = _link_s(model, devices, tensor)
    time_s = model.blocks * (block_s + near_s + link_s) + head_s + numbers.in_out
    energy = model.blocks * channels * (_joules(products, device, numbers) * max(1, tensor) + _joules(attending, device, numbers))
    return Token(block_s, near_s, link_s, head_s, time_s, devices // tensor if tensor else model.blocks, energy)


def _attention(device: DramDevice, model: Llama, keys: int, channels: int, banks: int, per_device: int) -> _Work:
    work, org = _Work(device), device.organisation
    per_row = org.row_bytes // 2
    repeat, columns = model.heads // model.kv_heads, math.ceil(model.head_dim / 16)
    in_row = max(1, per_row // model.head_dim)
    for _ in range(math.ceil(model.head_dim * model.kv_heads / per_row) * math.ceil(keys / banks)):
        for turn in range(repeat):
            work.buffer(org.columns)
            for head in range(in_row):
                work.group(1, columns, opens=turn == head == 0)
    work.cycles += 2 * cent_numbers().single_bank_cycles * math.ceil(keys * model.heads / 16) * per_device
    turns = math.ceil(model.kv_heads / channels) * repeat
    over = max(1, channels // model.kv_heads)
    dimensions = math.ceil(model.head_dim / (org.banks_per_channel * over))
    for page in range(math.ceil(keys / per_row)):
        width = math.ceil(min(per_row, keys - page * per_row) / 16)
        for _ in range(turns):
            work.buffer(width)
            for _ in range(dimensions):
                work.group(1, width)
    return work


def _near_s(model: Llama, keys: int) -> float:
    n = cent_numbers()
    step = n.near_lanes * n.near_units
    norms = 2.0 * (model.hidden / n.near_lanes / step * n.add_cycles + n.norm_move_cycles + n.norm_cycles)
    softmax = keys * model.heads / step * (n.exponential_cycles + n.add_cycles) + model.heads * (n.read_cycles + n.softmax_cycles)
    rotary = (1.0 + model.kv_heads / model.heads) * model.hidden * n.rotary_cycles
    return (norms + softmax + rotary) / n.near_clock


def _link_s(model: Llama, devices: int, tensor: int) -> float:
    n = cent_numbers()
    rate = n.lanes // devices * n.lane

    def send(elements: int, times: int = 1) -> float:
        return n.hop + math.ceil(elements * 2 / n.flit_data) * times * n.flit / rate

    if not tensor:
        return send(model.hidden)
    own, wide = math.ceil(model.hidden / tensor), math.ceil(model.ffn / tensor)
    return 5 * send(model.hidden) + 5 * send(own, tensor - 1) + send(model.ffn) + send(wide, tensor - 1)


def _joules(work: _Work, device: DramDevice, n: CentNumbers) -> float:
    """Joules of one channel: activates of 16 banks for tRC, all-bank products at three times a read's power, an open channel, control."""
    t, cycle_s = device.timings, device.cycle_s
    commands = work.rows * 2 + work.macs
    return (work.rows * device.organisation.banks_per_channel * n.activate_power * t["tRC"] * cycle_s
            + work.macs * n.all_bank_reads * n.read_power * work.step * cycle_s + n.open_power * work.cycles * cycle_s
            + commands * (n.control_power + n.phy_power) / 2.0 / n.near_clock)
