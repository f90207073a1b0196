"""Systolic array: rows by columns of multiply-accumulate PEs, fed from three SRAMs at the edges, with one dataflow."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, get_args

from ..errors import SpecError, UnknownNameError, shown

Dataflow = Literal["os", "ws", "is", "rs"]
EdgeFolds = Literal["used", "full"]
#: Output, weight, input and row stationary.
DATAFLOWS: Final[tuple[Dataflow, ...]] = get_args(Dataflow)
EDGE_FOLDS: Final[tuple[EdgeFolds, ...]] = get_args(EdgeFolds)


def _is_int(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


@dataclass(frozen=True)
class SystolicOptions:
    """How time and accesses are counted; the defaults are what hardware does.

    Attributes
    ----------
    edge_folds
        ``"used"``: a fold that fills only part of the array takes the cycles of the rows and columns that it uses (sums
        still leave through the bottom edge of the physical array). ``"full"``: it costs as much as a full one.
    overlap
        The next fold starts as soon as the PEs and ports that it needs are free: stationary operands are
        double-buffered, streams follow back to back, results drain behind. False: a fold starts when all of the one
        before has left.
    drain
        Output stationary only: a column's results leave one a cycle once its last row has finished. False: the first of
        them leaves while that row still accumulates, which no array can do.
    read_back
        Weight, input and row stationary: a partial sum that an earlier fold wrote is read again to be added to.
    padding_reads
        A position of the window that lies outside the stored input costs an SRAM read.
    last_cycle
        ``cycles`` is the index of the last cycle, counted from zero, and so one less than the number of cycles.
    extra_writes
        Output stationary only: rows + columns further output writes for each fold.
    skew_twice
        Weight and input stationary: the denominator of the compute utilisation holds the column skew twice.
    offsets
        Address of the first element of the input, the filter and the output, for traces, in elements.
    """

    edge_folds: EdgeFolds = "used"
    overlap: bool = True
    drain: bool = True
    read_back: bool = True
    padding_reads: bool = False
    last_cycle: bool = False
    extra_writes: bool = False
    skew_twice: bool = False
    offsets: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        if self.edge_folds not in EDGE_FOLDS:
            raise UnknownNameError("edge-fold rule", str(self.edge_folds), EDGE_FOLDS, "systolic options: edge_folds")
        for field in fields(self):
            if field.type == "bool" and not isinstance(getattr(self, field.name), bool):
                found = shown(getattr(self, field.name))
                raise SpecError(f"systolic options: {field.name}: expected true or false, found {found}")
        if len(self.offsets) != 3 or any(not _is_int(o) or o < 0 for o in self.offsets):
            found = shown(self.offsets)
            raise SpecError(f"systolic options: offsets: expected three integers of 0 or more, found {found}")


#: What arrays do.
PHYSICAL: Final = SystolicOptions()
#: What SCALE-Sim 3.0.0 counts, to the integer (os, ws and is), its quirks included.
SCALESIM: Final = SystolicOptions(
    edge_folds="full",
    overlap=False,
    drain=False,
    read_back=False,
    padding_reads=True,
    last_cycle=True,
    extra_writes=True,
    skew_twice=True,
    offsets=(0, 10_000_000, 20_000_000),
)
OPTIONS: Final = {"physical": PHYSICAL, "scalesim": SCALESIM}


@dataclass(frozen=True)
class SystolicArray:
    """One systolic array and its SRAMs.

    Attributes
    ----------
    rows, cols
        PEs along each axis; each does one multiply-add a cycle.
    dataflow
        What stays in the PEs: ``"os"`` outputs, ``"ws"`` weights, ``"is"`` inputs, ``"rs"`` filter rows (Eyeriss).
    options
        How time and accesses are counted: `PHYSICAL`, `SCALESIM`, or one's own.
    ifmap_sram_bytes, filter_sram_bytes, ofmap_sram_bytes
        SRAM of each operand; None: not given. Cycles and SRAM accesses do not depend on them.
    clock_hz
        Clock.
    filters_per_pe
        Row stationary only: filters whose rows a PE's register file holds at once; so many multiply-adds share one
        read of an input element (16 in the AlexNet mappings of Eyeriss, Chen et al., JSSC 2017).

    Raises
    ------
    SpecError
        A size that is not a positive number; names the field.
    UnknownNameError
        An unknown dataflow.

    Examples
    --------
    >>> SystolicArray(128, 128, "ws").pes
    16384
    >>> SystolicArray(32, 32, "os", SCALESIM).options.overlap
    False
    """

    rows: int
    cols: int
    dataflow: Dataflow
    options: SystolicOptions = PHYSICAL
    ifmap_sram_bytes: float | None = None
    filter_sram_bytes: float | None = None
    ofmap_sram_bytes: float | None = None
    clock_hz: float = 1e9
    filters_per_pe: int = 16

    def __post_init__(self) -> None:
        for name in ("rows", "cols", "filters_per_pe"):
            count = getattr(self, name)
            if not _is_int(count) or count < 1:
                raise SpecError(f"systolic array: {name}: expected an integer of 1 or more, found {shown(count)}")
        if self.dataflow not in DATAFLOWS:
            raise UnknownNameError("dataflow", str(self.dataflow), DATAFLOWS, "systolic array: dataflow")
        if not isinstance(self.options, SystolicOptions):
            found, names = shown(self.options), ", ".join(OPTIONS)
            raise SpecError(f"systolic array: options: expected SystolicOptions, found {found}; presets: {names}")
        for name in ("ifmap_sram_bytes", "filter_sram_bytes", "ofmap_sram_bytes", "clock_hz"):
            size = getattr(self, name)
            if size is None and name != "clock_hz":
                continue
            if isinstance(size, bool) or not isinstance(size, (int, float)) or not 0 < size < math.inf:
                raise SpecError(f"systolic array: {name}: expected a positive number, found {shown(size)}")

    @property
    def pes(self) -> int:
        """Processing elements: rows x columns."""
        return self.rows * self.cols

    def with_options(self, **changes: Any) -> SystolicArray:
        """The same array with some options changed: ``array.with_options(overlap=False)``."""
        known = {field.name for field in fields(SystolicOptions)}
        for name in changes:
            if name not in known:
                raise UnknownNameError("option", name, known, "systolic options")
        return replace(self, options=replace(self.options, **changes))


def preset(name: str) -> SystolicOptions:
    """Options by name: ``"physical"`` or ``"scalesim"``.

    Raises
    ------
    UnknownNameError
        No such preset, with the nearest names.
    """
    found = OPTIONS.get(name)
    if found is None:
        raise UnknownNameError("preset", str(name), OPTIONS, "systolic options")
    return found
