"""ZigZag's side of `test_nest_zigzag.py`, run by an interpreter that has zigzag-dse 3.9.1: searches, and costs mappings that it is given.

Reads JSON from its standard input (the layer's kind, equation, dims and relations, the objective, the mappings ``ours``)
and prints ``{"best": cost, "ours": [cost, ...]}`` as its last line; a cost has energy in joules and latency in cycles, the best also the
seconds of the search: spatial and temporal mappings generated, evaluated and compared, without reading files before and saving after.
Nothing of presilicon is imported here.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

#: The problem of mapbench-16 as ZigZag describes hardware: memories of 64 B (ports of 64 bit for reads and for writes), 512 KiB, DRAM.
#: Energies are per access of the full width of the port in pJ; an access moves 8 bit or more.
HARDWARE = """
name: mapbench16
memories:
  rf:
    {size: 512, r_cost: 4.8, w_cost: 4.8, area: 0, latency: 1, operands: [I1, I2, O], served_dimensions: [], ports: [
      {name: r_port_1, type: read, bandwidth_min: 8, bandwidth_max: 64, allocation: ["I1, tl", "I2, tl", "O, tl", "O, th"]},
      {name: w_port_1, type: write, bandwidth_min: 8, bandwidth_max: 64, allocation: ["I1, fh", "I2, fh", "O, fh", "O, fl"]}]}
  gb:
    {size: 4194304, r_cost: 3072, w_cost: 3072, area: 0, latency: 1, operands: [I1, I2, O], served_dimensions: [D1, D2], ports: [
      {name: rw_port_1, type: read_write, bandwidth_min: 8, bandwidth_max: 4096,
       allocation: ["I1, fh", "I1, tl", "I2, fh", "I2, tl", "O, fh", "O, tl", "O, fl", "O, th"]}]}
  dram:
    {size: 100000000000, r_cost: 4096, w_cost: 4096, area: 0, latency: 1, operands: [I1, I2, O], served_dimensions: [D1, D2], ports: [
      {name: rw_port_1, type: read_write, bandwidth_min: 8, bandwidth_max: 512,
       allocation: ["I1, fh", "I1, tl", "I2, fh", "I2, tl", "O, fh", "O, tl", "O, fl", "O, th"]}]}
operational_array: {unit_energy: 0.3, unit_area: 1, dimensions: [D1, D2], sizes: [16, 16]}
"""


class Clock:
    """CPU and wall seconds that generators take."""

    cpu_s = wall_s = 0.0

    def timed(self, run: Callable[[Any], Iterator[Any]]) -> Callable[[Any], Iterator[Any]]:
        """A generator method that adds its own time, not its caller's between two items."""

        def wrapped(stage: Any) -> Iterator[Any]:
            items = run(stage)
            while True:
                cpu, wall = time.process_time(), time.perf_counter()
                try:
                    item = next(items)
                except StopIteration:
                    return
                finally:
                    self.cpu_s += time.process_time() - cpu
                    self.wall_s += time.perf_counter() - wall
                yield item

        return wrapped


def main() -> None:
    """One problem and objective."""
    logging.disable(logging.CRITICAL)
    from zigzag.api import SpatialMappingGeneratorStage, get_hardware_performance_zigzag
    from zigzag.cost_model.cost_model import CostModelEvaluation
    from zigzag.datatypes import LayerDim, LayerOperand
    from zigzag.mapping.spatial_mapping_internal import SpatialMappingInternal
    from zigzag.mapping.temporal_mapping import TemporalMapping, TemporalMappingType

    asked = json.load(sys.stdin)
    layer = {
        "id": 0,
        "operator_type": asked["kind"],
        "equation": asked["equation"],
        "dimension_relations": asked["relations"],
        "loop_dims": [d.upper() for d in asked["dims"]],
        "loop_sizes": list(asked["dims"].values()),
        "operand_precision": {"W": 8, "I": 8, "O": 8, "O_final": 8},
        "operand_source": {"W": 0, "I": 0},
    }
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("hw.yaml").write_text(HARDWARE)
        Path("map.yaml").write_text(json.dumps([{"name": "default", "memory_operand_links": {"O": "O", "W": "I2", "I": "I1"}}]))
        Path("op.yaml").write_text(json.dumps([layer]))
        clock = Clock()
        SpatialMappingGeneratorStage.run = clock.timed(SpatialMappingGeneratorStage.run)
        energy, latency, found = get_hardware_performance_zigzag(
            "op.yaml",
            "hw.yaml",
            "map.yaml",
            opt={"edp": "EDP"}.get(asked["objective"], asked["objective"]),
            lpf_limit=6,
            nb_spatial_mappings_generated=asked["spatial_mappings"],
            dump_folder=str(Path(folder) / "out"),
            loma_show_progress_bar=False,
        )
        best = {"energy_j": energy * 1e-12, "cycles": latency, "cpu_s": clock.cpu_s, "wall_s": clock.wall_s}
    model = found[0][1][0][0]
    costs = []
    for mapping in asked["ours"]:
        unrolled = [(LayerDim(dim), factor) for dim, factor in mapping["spatial"]]
        spatial = SpatialMappingInternal({LayerOperand(t): [[], unrolled, [], []] for t in "IWO"}, model.layer)
        loops = {LayerOperand(t): [[(LayerDim(d), f) for d, f in level] for level in mapping["temporal"][t]] for t in "IWO"}
        cost = CostModelEvaluation(
            accelerator=model.accelerator,
            layer=model.layer,
            spatial_mapping=spatial,
            spatial_mapping_int=spatial,
            temporal_mapping=TemporalMapping(loops, model.layer, TemporalMappingType.UNEVEN),
            access_same_data_considered_as_no_access=True,
        )
        costs.append({"energy_j": cost.energy_total * 1e-12, "cycles": cost.latency_total2})
    print(json.dumps({"best": best, "ours": costs}))


if __name__ == "__main__":
    main()
