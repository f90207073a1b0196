"""How a matrix-vector product may lie on a PIM device: loop order, units' level, and channels that share a row of W; each in closed form.

With ``split`` n, every row of W lies over n channels, each with a part of the inputs, and the host adds n partial sums an output: the units
of all channels have work although there are fewer outputs than units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from ..arch.dram import DramDevice
from ..arch.hybrid_spec import suits
from ..errors import MappingError, UnknownNameError, shown
from .pim import ORDERS, PimEstimate, aim_gemv, positive, samsung_gemv
from .pim_gemv import ELEMENTS, LEVELS, attacc_gemv, newton_gemv, upmem_gemv
from .pim_rows import row_gemv

#: Kernels by whose commands a device may have them, in this order.
KERNELS: Final = ("upmem", "gemv", "attacc", "newton", "samsung", "aim")
#: Kernels with a global buffer, whose loop order matters.
ORDERED: Final = ("gemv", "aim")
#: Stored bits of an element of UPMEM's.
_BITS: Final = {name: 8.0 * size for name, size in ELEMENTS.items()}
#: Bits of a number that units take where nothing else is said.
PLAIN_BITS: Final = 16.0


@dataclass(frozen=True)
class GemvLayout:
    """Loop order (``""`` where the kernel has one alone), level of AttAcc's units, and channels that share a row of W."""

    order: str = ""
    level: str = ""
    split: int = 1

    def __str__(self) -> str:
        parts = [f"loop order {self.order}" if self.order else "", f"units at {self.level}" if self.level else "",
                 f"inputs over {self.split} channels" if self.split > 1 else ""]
        return ", ".join(part for part in parts if part) or "as the kernel has it"


@dataclass(frozen=True)
class Product:
    """What is asked: y = W x, W of ``(outputs, inputs)``, `batch` vectors, stored bits of a weight, UPMEM's element, refresh."""

    outputs: int
    inputs: int
    batch: int = 1
    bits: float = PLAIN_BITS
    element: str = ""
    refresh: bool = True

    @property
    def matrix_bytes(self) -> float:
        """Bytes of W that are wanted, padding excluded."""
        return self.outputs * self.inputs * self.bits / 8.0


def gemv_kernel(device: DramDevice) -> str:
    """Which of `KERNELS` a device has.

    Raises
    ------
    MappingError
        A device without any.

    >>> from presilicon.arch.dram import load
    >>> gemv_kernel(load("newton-hbm2"))
    'newton'
    """
    found = next((kernel for kernel in KERNELS if suits(kernel, device)), None)
    if found is None:
        raise MappingError(f"{device.name}: has no GEMV kernel: its file says not which commands a GEMV takes (gemv: mac, write, "
                           f"read), and has not those of aim-gddr6, samsung-hbm2-pim, attacc-hbm3, neupims-hbm2 or newton-hbm2")
    return found


def layouts(device: DramDevice, *, order: str | None = None, level: str = "bank", split: int | None = 1) -> Iterator[GemvLayout]:
    """Layouts that a device can do, of one order or split alone where these are given; ``split=None``: every divisor of the channels.

    Raises
    ------
    MappingError
        An order where the kernel has none, a split that does not divide the channels, a device without a kernel.
    UnknownNameError
        No such order or level.
    """
    kernel, channels = gemv_kernel(device), device.organisation.channels
    if order is not None and order not in ORDERS:
        raise UnknownNameError("loop order", str(order), ORDERS, device.name)
    if order is not None and kernel not in ORDERED:
        raise MappingError(f"{device.name}: order {order!r}: its kernel has one loop order; those with a global buffer have "
                           f"{' and '.join(ORDERS)}")
    if level not in LEVELS:
        raise UnknownNameError("level", str(level), LEVELS, device.name)
    if split is not None:
        positive(device, split=split)
        if channels % split:
            allowed = ", ".join(str(n) for n in range(1, channels + 1) if channels % n == 0)
            raise MappingError(f"{device.name}: split {split} does not divide its {channels} channels; allowed are {allowed}")
    for share in (split,) if split is not None else [n for n in range(1, channels + 1) if channels % n == 0]:
        for each in (ORDERS if order is None else (order,)) if kernel in ORDERED else ("",):
            yield GemvLayout(each, level if kernel == "attacc" else "", share)


def shared(device: DramDevice, split: int) -> DramDevice:
    """The channels that each part of the inputs has."""
    org = device.organisation
    return device if split == 1 else replace(device, organisation=replace(org, channels=org.channels // split))


def closed_form(device: DramDevice, product: Product, layout: GemvLayout) -> PimEstimate:
    """Closed form of a product in a layout; errors are those of the kernel's form."""
    kernel = gemv_kernel(device)
    positive(device, outputs=product.outputs, inputs=product.inputs, batch=product.batch)
    if product.element and kernel != "upmem":
        raise MappingError(f"{device.name}: element {product.element!r}: its units take {PLAIN_BITS:g}-bit numbers; only UPMEM has others")
    if product.element and product.element not in ELEMENTS:
        raise UnknownNameError("element", str(product.element), ELEMENTS, device.name)
    most = f"up to {PLAIN_BITS:g} bits" if kernel not in ("samsung", "upmem") else "FP16 alone" if kernel == "samsung" else (
        ", ".join(f"{name} of {bits:g} bits" for name, bits in _BITS.items()) + "; tell which by its element")
    fits = product.bits == _BITS.get(product.element or "int8") if kernel == "upmem" else (
        product.bits == PLAIN_BITS if kernel == "samsung" else 0.0 < product.bits <= PLAIN_BITS)
    if not fits:
        raise MappingError(f"{device.name}: weights of {shown(product.bits)} bits: its units multiply numbers of {most}")
    if layout.split > product.inputs:
        raise MappingError(f"{device.name}: split {layout.split}: there are {product.inputs} inputs, fewer than channels that share them")
    part, inputs = shared(device, layout.split), math.ceil(product.inputs / layout.split)
    found = _one(part, kernel, product, inputs, layout)
    if layout.split == 1:
        return found
    macs = product.outputs * product.inputs * product.batch
    return replace(found, macs=macs, utilisation=found.utilisation * macs / (found.macs * layout.split),
                   peak_bytes_per_s=found.peak_bytes_per_s * layout.split,
                   **{name: getattr(found, name) * layout.split for name in ("weight_bytes", "opened_bytes", "moved_bytes")})


def _one(device: DramDevice, kernel: str, product: Product, inputs: int, layout: GemvLayout) -> PimEstimate:
    outputs, batch, refresh = product.outputs, product.batch, product.refresh
    bits = None if product.bits == PLAIN_BITS else product.bits
    if kernel == "upmem":
        return upmem_gemv(device, outputs, inputs, batch=batch, element=product.element or "int8")
    if kernel == "attacc":
        level = next(known for known in LEVELS if known == layout.level)
        return attacc_gemv(device, outputs, inputs, batch=batch, level=level, refresh=refresh, bits=product.bits)
    if kernel == "newton":
        return newton_gemv(device, outputs, inputs, batch=batch, refresh=refresh, bits=product.bits)
    if kernel == "samsung":
        return samsung_gemv(device, outputs, inputs, batch=batch, refresh=refresh)
    order = next(known for known in ORDERS if known == layout.order)
    if kernel == "gemv":
        return row_gemv(device, outputs, inputs, batch=batch, order=order, refresh=refresh, bits=bits)
    return aim_gemv(device, outputs, inputs, batch=batch, order=order, refresh=refresh, bits=bits)


def candidates(device: DramDevice, product: Product, wanted: Iterator[GemvLayout]) -> list[tuple[GemvLayout, PimEstimate]]:
    """Layouts with their closed forms, fewest cycles first; raises MappingError where none of them holds the product."""
    found: list[tuple[GemvLayout, PimEstimate]] = []
    refused: MappingError | None = None
    for layout in wanted:
        try:
            found.append((layout, closed_form(device, product, layout)))
        except MappingError as error:
            refused = refused or error
    if not found:
        assert refused is not None
        raise refused
    return sorted(found, key=lambda pair: pair[1].cycles)
