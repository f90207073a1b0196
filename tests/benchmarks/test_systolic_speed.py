"""Systolic closed form and trace against SCALE-Sim 3.0.0, on the same layers in the same run: `make bench`.

SCALE-Sim needs NumPy below 2, and so an environment of its own; name its interpreter in PRESILICON_SCALESIM_PYTHON.
The bars are 1,000 times its speed for the closed form and 20 times for the trace; `times_faster` in the extra information
is against a whole run (operand and demand matrices, then memory), `times_faster_than_matrices` against the matrices alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from presilicon.arch.array import SCALESIM, SystolicArray
from presilicon.mapping.systolic import estimate
from presilicon.mapping.systolic_layer import conv
from presilicon.sim.systolic import walk

#: Input height and width, filter height and width, channels, filters, stride; products are convolutions M x K by 1 x K.
LAYERS = {
    "square256": (256, 256, 1, 256, 1, 256, 1),
    "odd_100_200_300": (100, 300, 1, 300, 1, 200, 1),
    "odd_129_33_257": (129, 257, 1, 257, 1, 33, 1),
    "conv4": (14, 14, 3, 3, 64, 64, 1),
    "strided": (28, 28, 3, 3, 32, 64, 2),
}
ARRAYS = (32, 64)
DATAFLOWS = ("os", "ws", "is")

RUNNER = '''
import contextlib, io, json, os, sys, tempfile, time
try:
    import numpy
    from scalesim.scale_sim import scalesim
    from scalesim.single_layer_sim import single_layer_sim
except ImportError as error:
    sys.exit(f"scalesim is not importable: {error}")
if int(numpy.__version__.split(".")[0]) > 1:
    sys.exit(f"scalesim 3.0.0 fails with NumPy {numpy.__version__}, it needs one below 2")
CONFIG = """[general]
run_name = run
[architecture_presets]
ArrayHeight: %d
ArrayWidth: %d
IfmapSramSzkB: 512
FilterSramSzkB: 512
OfmapSramSzkB: 256
IfmapOffset: 0
FilterOffset: 10000000
OfmapOffset: 20000000
Bandwidth: %d
Dataflow: %s
ReadRequestBuffer: 32
WriteRequestBuffer: 32
[layout]
IfmapCustomLayout: False
FilterCustomLayout: False
IfmapSRAMBankBandwidth: %d
IfmapSRAMBankNum: 1
IfmapSRAMBankPort: 2
FilterSRAMBankBandwidth: %d
FilterSRAMBankNum: 1
FilterSRAMBankPort: 2
[sparsity]
SparsitySupport: false
SparseRep: ellpack_block
OptimizedMapping: false
BlockSize: 8
RandomNumberGeneratorSeed: 40
[run_presets]
InterfaceBandwidth: CALC
UseRamulatorTrace: False
"""
layers, sizes, dataflows = json.loads(sys.argv[1])
found = []
with tempfile.TemporaryDirectory() as folder:
    paths = {name: os.path.join(folder, name) for name in ("c.cfg", "t.csv", "l.csv")}
    with open(paths["t.csv"], "w") as file:
        file.write("name,h,w,fh,fw,c,n,s,\\n" + "".join(",".join(map(str, [k, *v])) + ",\\n" for k, v in layers.items()))
    with open(paths["l.csv"], "w") as file:
        file.write("name\\n" + "".join(",".join([k] + ["1"] * 24) + ",\\n" for k in layers))
    for size in sizes:
        for dataflow in dataflows:
            with open(paths["c.cfg"], "w") as file:
                file.write(CONFIG % (size, size, size, dataflow, size, size))
            with contextlib.redirect_stdout(io.StringIO()):
                whole = scalesim(True, False, paths["c.cfg"], paths["t.csv"], paths["l.csv"])
                start = time.process_time()
                whole.run_scale(folder)
                whole_s = time.process_time() - start
            matrices_s = 0.0
            for i in range(len(layers)):
                one = single_layer_sim()
                one.set_params(layer_id=i, config_obj=whole.config, topology_obj=whole.topo, layout_obj=whole.layout)
                start = time.process_time()
                operands = [f()[1] for f in (one.op_mat_obj.get_ifmap_matrix, one.op_mat_obj.get_filter_matrix,
                                             one.op_mat_obj.get_ofmap_matrix)]
                more = {} if dataflow != "ws" else dict(
                    sparsity_ratio_N=1, sparsity_ratio_M=1, ifmap_op_mat_original=operands[0],
                    sparsity_filter_array=one.op_mat_obj.sparse_filter_array)
                one.compute_system.set_params(config_obj=whole.config, ifmap_op_mat=operands[0],
                                              filter_op_mat=operands[1], ofmap_op_mat=operands[2], **more)
                one.compute_system.get_demand_matrices()
                matrices_s += time.process_time() - start
            counts = []
            for layer in whole.runner.single_layer_sim_object_list:
                details = layer.get_detail_report_items()
                counts.append([int(n) for n in (layer.get_compute_report_items()[1], *details[2:9:3])])
            found.append(dict(size=size, dataflow=dataflow, whole_s=whole_s, matrices_s=matrices_s, counts=counts))
print(json.dumps(found))
'''


@pytest.fixture(scope="module")
def reference():
    """What SCALE-Sim counts on every array, and the CPU seconds that it takes."""
    python = os.environ.get("PRESILICON_SCALESIM_PYTHON", sys.executable)
    arguments = json.dumps([LAYERS, ARRAYS, DATAFLOWS])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run([python, "-c", RUNNER, arguments], capture_output=True, text=True, check=False, timeout=1800, env=environment)
    except OSError as error:
        pytest.skip(f"PRESILICON_SCALESIM_PYTHON: {error}")
    if done.returncode:
        pytest.skip((done.stderr.strip().splitlines() or ["SCALE-Sim failed"])[-1])
    return json.loads(done.stdout)


def our_arrays():
    return [SystolicArray(size, size, dataflow, SCALESIM) for size in ARRAYS for dataflow in DATAFLOWS]


def our_layers():
    return [conv(name, *sizes[:6], stride=(sizes[6],) * 2, ceil_mode=True) for name, sizes in LAYERS.items()]


def report(benchmark, reference, bar):
    if benchmark.stats is None:
        return
    ours = benchmark.stats["min"]
    benchmark.extra_info["bar"] = bar
    benchmark.extra_info["times_faster"] = sum(row["whole_s"] for row in reference) / ours
    benchmark.extra_info["times_faster_than_matrices"] = sum(row["matrices_s"] for row in reference) / ours


def test_closed_form(benchmark, reference):
    found = benchmark(lambda: [estimate(our_layers(), array) for array in our_arrays()])
    for row, counts in zip(reference, found, strict=True):
        fields = (counts.cycles, counts.ifmap_reads, counts.filter_reads, counts.ofmap_writes)
        assert [list(numbers) for numbers in zip(*(f.tolist() for f in fields), strict=True)] == row["counts"]
    report(benchmark, reference, 1000)


@pytest.mark.parametrize("engine", ["numba", "numpy"])
def test_trace(benchmark, reference, engine):
    if engine == "numba":
        pytest.importorskip("numba")
    walk(our_layers()[0], our_arrays()[0], engine)
    found = benchmark(lambda: [[walk(layer, array, engine) for layer in our_layers()] for array in our_arrays()])
    for row, walks in zip(reference, found, strict=True):
        assert [[w.cycles, w.ifmap_reads, w.filter_reads, w.ofmap_writes] for w in walks] == row["counts"]
    report(benchmark, reference, 20)
