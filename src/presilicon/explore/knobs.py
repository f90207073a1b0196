"""A notebook widget: turn the numbers of a device and see time, roofline and bottlenecks follow at once."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ..arch import AnySystem, load
from ..arch.listing import format_value
from ..errors import PresiliconError, UnknownNameError
from ..plots import _figure, colour, svg
from ..report import Report
from ..sim.run import simulate
from ..units import format_si
from ..workloads.graph import OpGraph
from .axes import numbers_of

#: What the sliders turn unless told otherwise, as far as the system, or the GPU inside a hybrid one, has it.
PATHS: Final = ("gpu.sm.count", "gpu.clock.boost", "gpu.l2.size", "dram.bandwidth")
#: A slider goes from an eighth to eight times the device's own number.
_OCTAVES: Final = 3.0


class Knobs:
    """What `knobs` returns; shows itself in a notebook.

    Attributes
    ----------
    sliders
        ipywidgets by path; their value is the factor on the device's own number, as log2.
    report
        Report of the present design.
    base
        Report of the system as it is.
    widget
        The whole as one ipywidgets box.
    error
        Why the present design has no report, else ``""``; `report` is then the last one that had.
    """

    def __init__(self, graph: OpGraph, system: AnySystem, paths: Sequence[str], runtime: str) -> None:
        import ipywidgets

        self.graph, self.system, self.runtime = graph, system, runtime
        self.base = self.report = self._simulated(system)
        self.error = ""
        numbers = {p: (v, u) for p, v, u in numbers_of(system)}
        self._numbers = {p: numbers[p] for p in paths}
        self.sliders: dict[str, Any] = {}
        self._values: dict[str, Any] = {}
        rows = []
        for path in paths:
            slider = ipywidgets.FloatSlider(value=0.0, min=-_OCTAVES, max=_OCTAVES, step=0.05, readout=False, description="",
                                            continuous_update=False)
            label = ipywidgets.HTML()
            slider.observe(self._turned, names="value")
            self.sliders[path], self._values[path] = slider, label
            rows.append(ipywidgets.HBox([ipywidgets.Label(path, layout={"width": "14em"}), slider, label]))
        self.headline = ipywidgets.HTML()
        self.picture = ipywidgets.HTML()
        reset = ipywidgets.Button(description="reset")
        reset.on_click(lambda _: self.reset())
        self.widget = ipywidgets.VBox([*rows, reset, self.headline, self.picture])
        self._show()

    def values(self) -> dict[str, float]:
        """The present numbers by path, SI units; counts are whole."""
        found = {}
        for path, (value, unit) in self._numbers.items():
            number = float(value) * 2.0 ** float(self.sliders[path].value)
            found[path] = float(max(1, round(number))) if unit == "1" and float(value).is_integer() else number
        return found

    def reset(self) -> None:
        """Back to the system as it is."""
        for slider in self.sliders.values():
            slider.value = 0.0

    def _simulated(self, system: AnySystem) -> Report:
        return Report(simulate(self.graph, system, fidelity="analytic", runtime=self.runtime))  # type: ignore[arg-type]

    def _turned(self, _: Any) -> None:
        changed = {p: v for p, v in self.values().items() if self.sliders[p].value != 0.0}
        try:
            self.report = self._simulated(self.system.override(changed) if changed else self.system)
            self.error = ""
        except PresiliconError as error:
            self.error = str(error)
        self._show()

    def _show(self) -> None:
        values = self.values()
        for path, label in self._values.items():
            label.value = html.escape(format_value(values[path], self._numbers[path][1]))
        report = self.report
        ratio = self.base.time_s / report.time_s if report.time_s else 0.0
        line = (f"<b>{html.escape(format_si(report.time_s, 's'))}</b> ({ratio:.3g}x of {html.escape(self.system.name)}), "
                f"{report.tokens_per_s:,.0f} tokens/s, {html.escape(format_si(sum(report.energy_j.values()), 'J'))}, "
                f"limited by {html.escape(report.limited_by)}")
        self.headline.value = line if not self.error else f"{line}<br><span style='color:#a33'>{html.escape(self.error)}</span>"
        roofline = svg(report.roofline()).decode()
        self.picture.value = roofline[roofline.index("<svg") :] + self._bars()

    def _bars(self) -> str:
        """Seconds by what limits, of the system as it is and of the design."""
        figure, axes = _figure(8.0, 1.9)
        kinds = list(dict.fromkeys([*self.base.bottlenecks(), *self.report.bottlenecks()]))
        left = [0.0, 0.0]
        for index, kind in enumerate(sorted(kinds)):
            widths = [1e3 * r.bottlenecks().get(kind, 0.0) for r in (self.base, self.report)]
            axes.barh(["as it is", "turned"], widths, left=left, color=colour(index), label=kind)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.invert_yaxis()
        axes.set(xlabel="ms by what limits")
        axes.legend(fontsize=8, ncols=8, loc="upper center", bbox_to_anchor=(0.5, -0.45))
        text = svg(figure).decode()
        return text[text.index("<svg") :]

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        return self.widget._repr_mimebundle_(**kwargs)


def knobs(graph: OpGraph, system: AnySystem | str | Path, paths: Sequence[str] | None = None, *, runtime: str = "cudagraph") -> Knobs:
    """Sliders for the numbers of a device; every turn redraws roofline and bottlenecks (closed forms).

    Parameters
    ----------
    graph, system, runtime
        As `presilicon.simulate` takes them.
    paths
        Numbers to turn, each on a logarithmic slider from an eighth to eight times; `PATHS` if None.

    Returns
    -------
    Knobs
        Shows itself as the last value of a notebook's cell.

    Raises
    ------
    PresiliconError
        ipywidgets is not installed, or the system has none of `PATHS`.
    UnknownNameError
        No such path.
    """
    try:
        import ipywidgets  # noqa: F401
    except ImportError:
        raise PresiliconError("knobs need ipywidgets, which is not installed: pip install 'presilicon[notebook]'") from None
    system = load(system)
    numbers = {p for p, v, _ in numbers_of(system) if isinstance(v, int | float) and not isinstance(v, bool) and v > 0}
    for path in paths or ():
        if path not in numbers:
            raise UnknownNameError("path", path, numbers, where=system.name)
    usual = [path for p in PATHS for path in (p, f"xpu.{p}") if path in numbers]
    chosen = list(paths) if paths is not None else usual
    if not chosen:
        raise PresiliconError(f"{system.name}: name the numbers to turn: paths=[...], of {', '.join(sorted(numbers)[:8])} ...")
    return Knobs(graph, system, chosen, runtime)
