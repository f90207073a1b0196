"""Triton kernels without a GPU: compiled, disassembled, and followed instruction by instruction."""

from __future__ import annotations

from .assumptions import Assumption
from .capture import CapturedLaunch, capture_launches
from .cfg import Block, ControlFlow, Loop, control_flow
from .compile import CompiledKernel, compile_kernel, compile_launch, resource_usage
from .evaluation import Evaluation, Touch
from .follow import alternatives, evaluate, evaluate_grid
from .launch import Buffer, Launch, TensorMap, bind_launch, configs_of
from .occupancy import Limits, Occupancy, occupancy_of
from .program import Program, take_apart
from .sass import Control, Instruction, Listing, SourceLine, parse_listing
from .tensor_core import MatrixShape
from .tools import TARGETS, parse_target
from .ttgir import TileProgram, parse_ttgir

__all__ = [
    "TARGETS", "Assumption", "Block", "Buffer", "CapturedLaunch", "CompiledKernel", "Control", "ControlFlow", "Evaluation",
    "Instruction", "Launch", "Limits", "Listing", "Loop", "MatrixShape", "Occupancy", "Program", "SourceLine", "TensorMap",
    "TileProgram", "Touch", "alternatives", "bind_launch", "capture_launches", "compile_kernel", "compile_launch", "configs_of",
    "control_flow", "evaluate", "evaluate_grid", "occupancy_of", "parse_listing", "parse_target", "parse_ttgir",
    "resource_usage", "take_apart",
]
