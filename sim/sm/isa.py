"""Instructions as the SM sees them: what kind each is, which pipe it takes and for how long.

Fixed-latency instructions (arithmetic, HMMA) need no latency here: the compiler has put it into the stall counts of the control
words. What a control word leaves open is how long a pipe is taken, and when a scoreboard is released; both come from
`arch/sm_timing.yaml` and from the device file's rates.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ...arch import System
from ...arch.sm_timing import SmTiming
from ...mapping.triton import Instruction, Program
from ...mapping.triton.sass import INSTRUCTION_BYTES
from ...mapping.triton.tensor_core import TCGEN05, TENSOR_CORE, WARPGROUP_LEVEL, element_bits, static_shape

#: Kinds of instructions: what issuing one does.
(MATH, BRANCH, SHARED, LOAD, STORE, ASYNC_COPY, COPY_GROUP, WAIT_GROUP, BARRIER, ARRIVE, QUEUED, WGMMA, WAIT_WGMMA, FENCE, BULK_LOAD,
 BULK_STORE, SYNC_INIT, SYNC_ARRIVE, SYNC_WAIT, TCGEN, TCGEN_COMMIT, TENSOR_LOAD, LATENCY, BULK_GROUP) = range(24)

#: Pipes of a sub-core, and the shared ones behind them.
PIPES = ("none", "fma", "alu", "imad", "half", "fp64", "sfu", "uniform", "tensor", "memory", "branch")
PIPE = {name: number for number, name in enumerate(PIPES)}
#: What the SM's sub-cores share.
UNITS = ("lsu", "smem", "l2", "dram", "tma", "tcgen05", "l2 link", "l2 atomics", "l2 port")

_NAMES = {
    "fma": "FADD FMUL FFMA FFMA2 FADD2 FMUL2 FSWZADD FFMA32I FADD32I FMUL32I",
    "imad": "IMAD IMUL IDP IDP4A",
    "half": "HADD2 HMUL2 HFMA2 HSET2 HSETP2 HMNMX2 HFMA2_MMA HADD2_32",
    "fp64": "DADD DMUL DFMA DSETP DMNMX",
    "sfu": "MUFU F2I I2F F2F FRND POPC FLO BREV",
}
#: Numbers of 8 and 6 bits, to which ``F2FP`` rounds two float32 at half of the integer pipe's rate: cvt.rn.satfinite.e4m3x2.f32 comes at 32
#: a clock and SM on a B300, e5m2, e2m3, e3m2 and e8m0 as fast as e4m3, bf16x2 at 62, e2m1x2 at 57 (public microbenchmarks). From float16,
#: and back, the rate is the pipe's. Of Hopper no measurement was found; ptxas schedules sm_90 as sm_100.
_HALF_RATE = frozenset({"E4M3", "E5M2", "E2M3", "E3M2", "E8", "UE8M0"})
#: Pipes whose instructions have a fixed latency: they read their registers together.
_FIXED = frozenset({"fma", "alu", "imad", "half"})
#: Registers of a thread: from here on constants, uniform registers and predicates.
_REGISTERS = 255
_BY_NAME = {name: pipe for pipe, names in _NAMES.items() for name in names.split()}
_BRANCHES = frozenset({"BRA", "EXIT", "RET", "CALL", "BRX", "JMP", "JMX", "BSYNC", "BREAK", "BSSY", "WARPSYNC", "YIELD", "KILL", "BPT",
                       "NANOSLEEP", "NOP", "PREEXIT", "ACQBULK"})
_KINDS = {
    "LDGSTS": ASYNC_COPY, "LDGDEPBAR": COPY_GROUP, "DEPBAR": WAIT_GROUP, "BAR": BARRIER, "MEMBAR": FENCE, "FENCE": FENCE, "ERRBAR": FENCE,
    "UTMALDG": BULK_LOAD, "UBLKCP": BULK_LOAD, "UTMASTG": BULK_STORE, "UTMAREDG": BULK_STORE, "UTMACMDFLUSH": BULK_GROUP,
    "UTCBAR": TCGEN_COMMIT, "LDTM": TENSOR_LOAD, "STTM": TENSOR_LOAD, "UTCCP": TCGEN,
}
_SHARED = frozenset({"LDS", "STS", "LDSM", "STSM", "ATOMS"})
_LOADS = frozenset({"LDG", "LD", "LDL", "ATOMG", "ATOM"})
_STORES = frozenset({"STG", "ST", "STL", "RED", "REDG"})
_ARITHMETIC = {"BF16": "bf16", "TF32": "tf32", "E4M3": "fp8", "E5M2": "fp8", "S8": "int8", "U8": "int8", "S4": "int4", "U4": "int4"}
_BY_OPCODE = {"DMMA": "fp64", "IMMA": "int8", "QMMA": "fp8", "QGMMA": "fp8", "IGMMA": "int8", "UTCQMMA": "fp8", "UTCIMMA": "int8",
              "UTCOMMA": "fp4", "OMMA": "fp4"}


@dataclass(frozen=True)
class IsaTable:
    """One row an instruction of the listing.

    Attributes
    ----------
    kind, pipe
        Numbers (`MATH` ..., `PIPES`).
    interval
        float64: clocks for which the sub-core's pipe is taken.
    latency
        int64: issue to release of the write barrier, queueing aside.
    stall, yields, write_barrier, read_barrier, wait_mask
        The control word; -1 for no barrier.
    first, second
        Operands of waits and barriers: scoreboard and count, barrier number and warps (0 for all); passes of shared memory in
        sixteenths for asynchronous matrix instructions; beside these, of other arithmetic, clocks of the register file's read ports.
    """

    kind: np.ndarray
    pipe: np.ndarray
    interval: np.ndarray
    latency: np.ndarray
    stall: np.ndarray
    yields: np.ndarray
    write_barrier: np.ndarray
    read_barrier: np.ndarray
    wait_mask: np.ndarray
    first: np.ndarray
    second: np.ndarray


def arithmetic_of(ins: Instruction) -> str:
    """Name in `gpu.sm.tensor` of a matrix instruction's arithmetic."""
    if ins.base in _BY_OPCODE:
        return _BY_OPCODE[ins.base]
    return next((_ARITHMETIC[m] for m in ins.modifiers if m in _ARITHMETIC), "fp16")


def macs_per_clock(ins: Instruction, system: System) -> float:
    """Multiply-adds a clock and sub-core of a matrix instruction, at the device file's dense rate."""
    rates = system.gpu.sm.tensor_flops_per_clk
    wanted = arithmetic_of(ins)
    fallback = {"fp8": "int8", "int8": "fp8", "bf16": "fp16", "fp16": "bf16", "int4": "int8", "fp4": "fp8"}
    name = wanted if wanted in rates else fallback.get(wanted, "")
    if name in rates:
        return rates[name] / 8.0
    if wanted == "fp64":
        return 1.0
    return max(rates.values()) / 8.0


def _numbers(ins: Instruction) -> list[int]:
    found = []
    for op in ins.operands:
        if re.fullmatch(r"0x[0-9a-f]+", op):
            found.append(int(op, 16))
    return found


def _scoreboard(ins: Instruction) -> tuple[int, int]:
    board = next((int(m[1]) for op in ins.operands if (m := re.fullmatch(r"SB(\d)", op))), 0)
    return board, next(iter(_numbers(ins)), 0)


def kind_of(ins: Instruction) -> int:
    """What issuing an instruction does."""
    base = ins.base
    if base in _KINDS:
        return ARRIVE if base == "BAR" and ins.has("ARV") else _KINDS[base]
    if base in WARPGROUP_LEVEL:
        return WGMMA
    if base in TCGEN05:
        return TCGEN
    if base == "WARPGROUP":
        return WAIT_WGMMA if ins.has("DEPBAR") else MATH
    if base == "SYNCS":
        return SYNC_WAIT if ins.has("PHASECHK") else SYNC_ARRIVE if ins.has("ARRIVE") else SYNC_INIT if ins.has("EXCH") else LATENCY
    if base in _SHARED:
        return SHARED
    if base in _LOADS:
        return LOAD
    if base in _STORES:
        return STORE
    if base in ("SHFL", "MOVM", "REDUX", "CREDUX"):
        return QUEUED
    if base in _BRANCHES:
        return BRANCH
    if base in ("S2R", "S2UR", "B2R", "LDC", "LDCU", "CCTL", "ELECT", "MATCH", "LEPC"):
        return LATENCY
    return MATH


def pipe_of(ins: Instruction) -> str:
    """Pipe of the sub-core that an instruction takes."""
    base = ins.base
    if base in TCGEN05 or base in ("UTCBAR", "UTCCP"):
        return "uniform"
    if base in TENSOR_CORE:
        return "tensor"
    kind = kind_of(ins)
    if kind in (SHARED, LOAD, STORE, ASYNC_COPY, QUEUED, BULK_LOAD, BULK_STORE, TENSOR_LOAD):
        return "memory"
    if kind == BRANCH:
        return "branch"
    if kind in (LATENCY, COPY_GROUP, WAIT_GROUP, BARRIER, ARRIVE, FENCE, WAIT_WGMMA, BULK_GROUP, SYNC_INIT, SYNC_ARRIVE, SYNC_WAIT):
        return "none"
    if base in _BY_NAME:
        return _BY_NAME[base]
    if (base[0] == "U" and base != "USETMAXREG") or base == "R2UR":
        return "uniform"
    return "alu"


def rounds_slowly(ins: Instruction) -> bool:
    """Whether an instruction rounds float32 to numbers of 8 or 6 bits."""
    return ins.base == "F2FP" and ins.has("F32") and ins.has(*_HALF_RATE)


def read_clocks(ins: Instruction, before: Instruction | None) -> int:
    """Clocks for which arithmetic of fixed latency takes the register file's read ports.

    A sub-core's registers lie in two banks, of even and of odd numbers, each with one port of 1,024 bits, a register of a warp a clock. One
    that the instruction `before` has marked for reuse comes from the operand cache (Huerta et al. 2025, Dissecting and Modeling the
    Architecture of Modern GPU Cores, 5.3).
    """
    wanted = [register for register in ins.reads if register < _REGISTERS]
    if before is not None:
        for register in sorted({*wanted} & {*before.reads})[:before.control.reuse.bit_count()]:
            wanted.remove(register)
    odd = sum(register & 1 for register in wanted)
    return max(odd, len(wanted) - odd)


def instruction_table(program: Program, system: System, timing: SmTiming) -> IsaTable:
    """The table of a kernel on a GPU."""
    code = program.listing.instructions
    sm = system.gpu.sm
    lanes = {"fma": sm.fma_per_clk / 4, "alu": timing.alu_lanes, "imad": timing.imad_lanes, "half": timing.half_lanes,
             "fp64": timing.fp64_lanes, "sfu": sm.sfu_per_clk / 4, "uniform": timing.uniform_lanes}
    shared_pipe = sm.fma_per_clk <= 64  # integer multiply-adds and fp32 are one pipe, until a second fp32 pipe stands beside it
    ints = np.zeros((9, len(code)), dtype=np.int64)
    interval = np.ones(len(code))
    products = any(ins.base in WARPGROUP_LEVEL for ins in code)
    for i, ins in enumerate(code):
        kind, pipe = kind_of(ins), pipe_of(ins)
        first = second = latency = 0
        if pipe == "tensor":
            shape = static_shape(ins.base, ins.modifiers)
            assert shape is not None
            rate = macs_per_clock(ins, system)
            per_warp = shape.m * shape.n * shape.k / shape.warps
            interval[i] = per_warp / rate / (timing.warp_mma if shape.warps == 1 else 1.0)
            latency = int(timing.mma_latency)
            if kind == WGMMA:
                bits = element_bits(ins.base, ins.modifiers)
                from_registers = bool(re.match(r"R\d|RZ", ins.operands[1]))
                moved = (shape.n + (0 if from_registers else shape.m)) * shape.k * bits / 8
                first, second = int(16 * moved / 4 / sm.shared_bytes_per_clk), int(any("gsb" in op for op in ins.operands))
                latency = int(timing.wgmma_latency)
        elif pipe in lanes:
            convert = ins.base in ("F2I", "I2F", "F2F", "FRND")
            interval[i] = 32 / (timing.convert_lanes if convert else lanes[pipe])
            if rounds_slowly(ins):
                interval[i] *= 2
            if pipe == "imad" and shared_pipe:
                pipe = "fma"
            latency = int(timing.sfu_latency) if pipe == "sfu" else 40 if pipe == "fp64" else int(timing.operand_read)
        if kind == WAIT_GROUP:
            first, second = _scoreboard(ins)
        elif kind == WAIT_WGMMA:
            second = next(iter(_numbers(ins)), 0)
        elif kind in (BARRIER, ARRIVE):
            numbers = _numbers(ins)
            first = numbers[0] % 16 if numbers else 0
            second = numbers[1] // 32 if len(numbers) > 1 else 0
        elif kind == MATH and products and pipe in _FIXED:
            first = read_clocks(ins, code[i - 1] if i else None)
        elif kind == LATENCY:
            latency = int(timing.constant_latency if ins.base.startswith("LDC") else timing.special_register_latency)
        elif kind == QUEUED:
            latency = int(timing.shuffle_latency)
        elif kind == SHARED:
            latency = int(timing.shared_latency)
        elif kind == FENCE:
            latency = int(timing.barrier_latency)
        elif kind == SYNC_WAIT:
            latency = int(timing.try_wait_latency)
        elif kind in (SYNC_INIT, SYNC_ARRIVE):
            latency = int(timing.operand_read)
        elif kind == TENSOR_LOAD:
            latency = int(timing.shared_latency)
            count = next((int(m[1:]) for m in ins.modifiers if re.fullmatch(r"x\d+", m)), 1)
            first = int(16 * count * 128 / timing.tensor_memory_bytes)
        control = ins.control
        board = tuple(-1 if b is None else b for b in (control.write_barrier, control.read_barrier))
        ints[:, i] = (kind, PIPE[pipe], latency, max(control.stall, 1), control.yields, *board, control.wait_mask, 0)
        ints[8, i] = first | second << 32
    return IsaTable(ints[0], ints[1], interval, ints[2], ints[3], ints[4], ints[5], ints[6], ints[7],
                    ints[8] & 0xFFFFFFFF, ints[8] >> 32)


def code_lines(program: Program) -> np.ndarray:
    """int64 by instruction: which 128-byte line of code it lies in."""
    return np.array([ins.address for ins in program.listing.instructions], dtype=np.int64) // (8 * INSTRUCTION_BYTES)
