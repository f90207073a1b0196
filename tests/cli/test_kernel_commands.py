"""`presilicon kernel` and `presilicon tune`: what they print and write, and one clear line for each kind of bad input."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="needs Triton (the extra `kernels`)")
pytest.importorskip("torch", reason="needs torch for meta tensors")

HERE = Path(__file__).parent
HEAD = "import sys; sys.path.insert(0, {folder!r})\nfrom kernels_for_commands import *\n"
ADD = "def launches():\n    x = floats(1 << 20)\n    yield add, (1024,), (x, floats(1 << 20), floats(1 << 20), 1 << 20), {'BLOCK': 1024}\n"
TUNED = ("def launches():\n    grid = lambda meta: (triton.cdiv(1 << 20, meta['BLOCK']),)\n"
         "    yield tuned, grid, (floats(1 << 20), floats(1 << 20), 1 << 20), {}\n")
TILE = ("def launches():\n    x = floats(4096, 64)\n    yield shared_tile, lambda meta: (4096 // meta['ROWS'],), (x, floats(4096, 64)),"
        " {'COLS': 64}\n")


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    """Write a file of launches."""

    def write(body: str) -> Path:
        path = tmp_path / "mine.py"
        path.write_text(HEAD.format(folder=str(HERE)) + body, encoding="utf-8")
        return path

    return write


def launch(line: str) -> str:
    """A file that yields one launch."""
    return f"def launches():\n    yield {line}\n"


def test_a_kernel_is_predicted(file: Callable[[str], Path], run: Callable[..., Any], tmp_path: Path) -> None:
    outcome = run("kernel", file(ADD), "--system", "h100-sxm", "--out", tmp_path / "out", "--lines", "--perfetto", tmp_path / "t.json",
                  "--fidelity", "cycle")
    assert outcome.status == 0, outcome
    for word in ("add  grid 1024 x 1 x 1", "interval", "GB/s DRAM", "100%: 16 CTAs of 4 warps", "waves", "limited by  ", "stalls",
                 "not calibrated", "Most expensive of", "tl.store(out_ptr"):
        assert word in outcome.out, word
    document = json.loads((tmp_path / "out" / "00-add-h100-sxm.json").read_text())
    run_, info = document["run"], document["info"]
    # 1 Mi elements: twelve bytes each must be moved, at no more than the DRAM's peak
    assert run_["bytes_moved"]["l2"] == pytest.approx(12 * 2**20, rel=0.01)
    assert run_["time_s"] > 12 * 2**20 / 3.352e12
    assert run_["low_s"] < run_["time_s"] < run_["high_s"]
    assert (info["target"], info["grid"]) == (90, [1024, 1, 1])
    csv = (tmp_path / "out" / "00-add-h100-sxm.lines.csv").read_text().splitlines()
    assert csv[0] == "file,line,share,issued,stall_cycles,text"
    assert sum(float(re.findall(r",\d+,([\d.e-]+),", row)[0]) for row in csv[1:]) == pytest.approx(1.0)
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert any(event["ph"] == "X" and event["dur"] > 0 for event in events)


@pytest.mark.slow
def test_several_systems_are_compared(file: Callable[[str], Path], run: Callable[..., Any]) -> None:
    outcome = run("kernel", file(ADD), "--system", "l4", "--system", "h100-sxm", "--top", "0")
    assert outcome.status == 0, outcome
    speedups = [float(x) for x in re.findall(r"([\d.]+)x *$", outcome.out, re.MULTILINE)]
    assert speedups[0] == 1.0
    assert 5 < speedups[1] < 15, "DRAM of 300 GB/s against 3,352 GB/s"


@pytest.mark.slow
def test_what_data_decides_is_named(file: Callable[[str], Path], run: Callable[..., Any]) -> None:
    body = launch("by_data, (1,), (torch.empty(1, dtype=torch.int32, device='meta'), floats(1 << 16)), {'BLOCK': 256}")
    outcome = run("kernel", file(body), "--system", "a100-sxm-80gb", "--top", "0")
    assert outcome.status == 0, outcome
    assert re.search(r"^assumed .*kernels_for_commands.py:\d+: .*depends on what LDG", outcome.out, re.MULTILINE), outcome.out
    assert "1 trip" in outcome.out


@pytest.mark.slow
def test_a_known_bound_is_no_assumption(file: Callable[[str], Path], run: Callable[..., Any]) -> None:
    body = launch("by_data, (1,), (torch.tensor([40], dtype=torch.int32), floats(1 << 16)), {'BLOCK': 256}")
    outcome = run("kernel", file(body), "--system", "a100-sxm-80gb", "--top", "0")
    assert outcome.status == 0, outcome
    assert "assumed" not in outcome.out


@pytest.mark.slow
def test_what_data_decides_can_be_told(file: Callable[[str], Path], run: Callable[..., Any], fails: Callable[..., str]) -> None:
    path = file(launch("by_data, (1,), (torch.empty(1, dtype=torch.int32, device='meta'), floats(1 << 16)), {'BLOCK': 256}\n" + ADD[16:]))
    options = ("kernel", path, "--system", "a100-sxm-80gb", "--top", "0")
    told = run(*options, "--assume", "count_ptr=40")
    assert told.status == 0, told
    assert "assumed" not in told.out
    assert "unknown argument 'count'" in fails(*options, "--assume", "count=40")
    assert "expected ARGUMENT=INTEGER, LINE=true" in fails(*options, "--assume", "count_ptr=many")
    assert "unknown assumption 'line 3'" in fails(*options, "--assume", "3=40")
    ranked = run("tune", f"{path}:by_data", "--system", "a100-sxm-80gb", "--grid", "num_warps=2,4", "--jobs", "1", "--assume",
                 "count_ptr=40")
    assert ranked.status == 0, ranked
    assert "assumed" not in ranked.out


@pytest.mark.slow
def test_inline_assembly(file: Callable[[str], Path], run: Callable[..., Any]) -> None:
    outcome = run("kernel", file(launch("assembly, (1,), (floats(256),), {'BLOCK': 256}")), "--system", "h100-sxm", "--top", "0")
    assert outcome.status == 0, outcome


BAD = {
    "no launches": ("x = 1\n", r"mine\.py: unknown function 'launches'"),
    "nothing yielded": ("def launches():\n    return iter(())\n", r"launches\(\) yields nothing; expected \(kernel, grid, args, meta\)"),
    "not iterable": ("def launches():\n    return 3\n", r"launches\(\) returned 3"),
    "not a launch": (launch("(1, 2)"), r"launch 0 of launches\(\) is \(1, 2\); expected"),
    "no kernel": (launch("len, (1,), (1,), {}"), r"launch 0: not a @triton.jit function"),
    "args": (launch("add, (1,), 3, {}"), r"the arguments are 3, not a tuple or list"),
    "meta": (launch("add, (1,), (), {1: 2}"), r"the keyword arguments are \{1: 2\}"),
    "no end": ("def launches():\n    while True:\n        yield add, (1,), (), {}\n", r"more than 1000 launches"),
    "raises": ("def launches():\n    yield 1 / 0\n", r"launches\(\) raised ZeroDivisionError: division by zero \(.*mine.py:4\)"),
    "values of a GPU": ("def launches():\n    n = torch.empty(4, device='cuda').sum().item()\n    yield add, (n,), (), {}\n",
                        r"launches\(\) raised .*Tensor.item\(\) cannot be called on meta tensors.* \(.*mine.py:4\)"),
    "too few arguments": (launch("add, (1,), (floats(4),), {'BLOCK': 16}"), r"cannot be launched with these arguments.*missing"),
    "wrong type": (launch("add, (1,), (floats(4), floats(4), floats(4), 'x'), {'BLOCK': 16}"), r"kernel 'add' (cannot be|does not)"),
    "grid": (launch("add, lambda meta: (int(meta['x_ptr'].sum()),), (floats(4), floats(4), floats(4), 4), {'BLOCK': 16}"),
             r"the grid function failed on these arguments, which carry no data"),
    "no grid": (launch("add, None, (floats(4), floats(4), floats(4), 4), {'BLOCK': 16}"),
                r"kernel 'add': the grid is None, not one to three sizes or a function that returns them"),
    "does not compile": (launch("broken, (1,), (floats(64),), {'BLOCK': 64}"),
                         r"kernel 'broken' does not compile for sm_90: .*\n +\^\n.*shape"),
    "endless": (launch("endless, (1,), (floats(64), 64)"), r"endless.*never ends|infinite|steps"),
    "cuda": ("class Cuda:\n    dtype = torch.float32; shape = (4,); device = torch.device('cuda')\n    def data_ptr(self): return 0\n"
             "    def stride(self): return (1,)\n    def element_size(self): return 4\n    def storage_offset(self): return 0\n"
             + launch("add, (1,), (Cuda(), floats(4), floats(4), 4), {'BLOCK': 16}"),
             r"argument 'x_ptr' is a CUDA tensor on a machine without CUDA; pass torch.empty"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD)
def test_bad_files(case: str, file: Callable[[str], Path], fails: Callable[..., str]) -> None:
    body, message = BAD[case]
    several = case in ("does not compile", "too few arguments", "wrong type")
    assert re.search(message, fails("kernel", file(body), "--system", "h100-sxm", several=several), re.DOTALL)


@pytest.mark.slow
def test_a_launch_that_fails_leaves_the_others_their_answers(file: Callable[[str], Path], run: Callable[..., Any], tmp_path: Path) -> None:
    body = (ADD + "    yield broken, (1,), (x,), {'BLOCK': 64}\n    yield add, (1,), (x, x), {'BLOCK': 64}\n"
            "    yield add, (4,), (x, x, x, 4096), {'BLOCK': 1024}\n")
    outcome = run("kernel", file(body), "--system", "h100-sxm", "--system", "l4", "--top", "0", "--out", tmp_path / "out")
    assert outcome.status == 2
    assert outcome.out.count("\ntime ") == 4, "two launches on two GPUs"
    assert len(list((tmp_path / "out").glob("*.json"))) == 4
    assert "kernel 'broken' does not compile for sm_90" in outcome.err
    assert "kernel 'broken' does not compile for sm_89" in outcome.err
    assert outcome.err.count("missing 2 required positional arguments: 'out_ptr' and 'n'") == 1, "of both GPUs alike"


@pytest.mark.parametrize(
    ("system", "message"),
    [
        ("t4", "t4: generation 'sm_75' is none that Triton kernels are compiled for"),
        ("eyeriss", "eyeriss: a system of kind 'npu' runs no Triton kernels; give a GPU"),
        ("h100", "unknown system 'h100'; did you mean"),
    ],
)
def test_bad_systems(system: str, message: str, file: Callable[[str], Path], fails: Callable[..., str]) -> None:
    assert message in fails("kernel", file(ADD), "--system", system)


def test_a_timeline_of_tiles_is_refused(file: Callable[[str], Path], fails: Callable[..., str], tmp_path: Path) -> None:
    message = fails("kernel", file(ADD), "--system", "l4", "--perfetto", tmp_path / "t.json")
    assert message == "--perfetto: only the cycle simulation has a timeline; add --fidelity cycle"


def test_a_missing_file(tmp_path: Path, fails: Callable[..., str]) -> None:
    assert fails("kernel", tmp_path / "no.py", "--system", "l4") == f"{tmp_path / 'no.py'}: no such file"


@pytest.mark.slow
def test_a_recorded_launch_says_where_it_owes_something_to_another_gpu(file: Callable[[str], Path], run: Callable[..., Any]) -> None:
    path = file("import presilicon as ps\ndef launches():\n    x = floats(1 << 20)\n    with ps.capture_launches('h100-sxm') as found:\n"
                "        sms = torch.cuda.get_device_properties(0).multi_processor_count\n"
                "        add[(sms,)](x, x, x, 1 << 20, BLOCK=1024)\n    return found\n")
    outcome = run("kernel", path, "--system", "l4")
    assert outcome.status == 0, outcome
    told = "launched as on h100-sxm, of which the program had asked multi_processor_count (132 there, 58 here)"
    assert told in " ".join(outcome.out.split())
    assert "launched as on" not in run("kernel", path, "--system", "h100-sxm").out


@pytest.mark.slow
def test_a_file_that_asks_for_its_gpu_is_told_of_each_system(file: Callable[[str], Path], run: Callable[..., Any]) -> None:
    path = file("DEVICE = triton.runtime.driver.active.get_active_torch_device()\n"
                "def launches():\n    x = torch.empty(1 << 20, device=DEVICE)\n"
                "    sms = torch.cuda.get_device_properties(DEVICE).multi_processor_count\n"
                "    add[(sms * 2,)](x, x, x, 1 << 20, BLOCK=1024)\n"
                "    yield add, (sms,), (x, torch.empty(1 << 20, device='cuda'), x, 1 << 20), {'BLOCK': 1024}\n")
    outcome = run("kernel", path, "--system", "l4", "--system", "h100-sxm", "--top", "0")
    assert outcome.status == 0, outcome
    # 58 and 132 SMs; what was yielded first, then what was launched
    assert re.findall(r"add  grid (\d+) x", outcome.out) == ["58", "132", "116", "264"]
    assert "launched as on" not in outcome.out
    tuned = run("tune", f"{path}:add", "--system", "h100-sxm", "--grid", "num_warps=2,4", "--launch", "1")
    assert tuned.status == 0, tuned


def test_tuning_over_the_kernels_own_configs(file: Callable[[str], Path], run: Callable[..., Any], tmp_path: Path) -> None:
    outcome = run("tune", f"{file(TUNED)}:tuned", "--system", "h100-sxm", "--jobs", "1", "-o", tmp_path / "all.csv")
    assert outcome.status == 0, outcome
    assert "2 of 2 configs can launch" in outcome.out
    assert "worth measuring: " in outcome.out
    assert "two configs of one kernel on one GPU are told apart from a factor of" in outcome.out
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 3


@pytest.mark.slow
def test_tuning_names_what_cannot_launch(file: Callable[[str], Path], run: Callable[..., Any]) -> None:
    outcome = run("tune", f"{file(TILE)}:shared_tile", "--system", "h100-sxm", "--jobs", "1", "--grid", "ROWS=64,2048 num_warps=4,64")
    assert outcome.status == 0, outcome
    assert "1 of 4 configs can launch" in outcome.out or "2 of 4 configs can launch" in outcome.out
    assert re.search(r"cannot launch: ROWS=64 num_warps=64: .*threads a CTA, 1024 are the most|num_warps", outcome.out)


@pytest.mark.slow
def test_tuning_in_processes_gives_the_same(file: Callable[[str], Path], run: Callable[..., Any]) -> None:
    args = ("tune", f"{file(TUNED)}:tuned", "--system", "l4", "--grid", "BLOCK=128,512")
    assert run(*args, "--jobs", "2").out == run(*args, "--jobs", "1").out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--grid", ""], "config space: it is empty"),
        (["--grid", "BLOCK"], "'BLOCK' is not of the form NAME=VALUE,VALUE"),
        (["--grid", "BLOK=64"], "unknown config key 'BLOK'; did you mean 'BLOCK'"),
        (["--grid", "BLOCK=64 BLOCK=32"], "BLOCK stands twice"),
        (["--grid", "BLOCK=64", "--space", "x.yaml"], "give either --space or --grid"),
        (["--space", "missing.yaml"], "missing.yaml: cannot be read"),
        (["--launch", "3", "--grid", "BLOCK=64"], "launch 3 of tuned: launches() yields 1 of them"),
    ],
)
def test_bad_spaces(options: list[str], message: str, file: Callable[[str], Path], fails: Callable[..., str]) -> None:
    assert message in fails("tune", f"{file(TUNED)}:tuned", "--system", "l4", "--jobs", "1", *options)


def test_bad_kernels_to_tune(file: Callable[[str], Path], fails: Callable[..., str]) -> None:
    path = file(ADD)
    assert "unknown kernel 'ad'; did you mean 'add'" in fails("tune", f"{path}:ad", "--system", "l4")
    assert "name a kernel in a file, as FILE.py:KERNEL" in fails("tune", path, "--system", "l4")
    assert "is not autotuned: give a config space" in fails("tune", f"{path}:add", "--system", "l4")
    assert "the configs change BLOCK but the grid is fixed" in fails("tune", f"{path}:add", "--system", "l4", "--grid", "BLOCK=64,128")


def _command(*args: Any, folder: Path, **environment: str) -> tuple[str, bool]:
    """What the command prints in a process of its own, and whether it imported torch."""
    code = ("import sys\nfrom presilicon.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit as stop:\n"
            "    sys.stderr.write('torch' if 'torch' in sys.modules else 'none')\n    raise")
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, check=False, cwd=folder,
                          env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr.endswith("torch")


@pytest.mark.slow
def test_an_answer_is_kept_until_what_it_depends_on_changes(tmp_path: Path) -> None:
    (tmp_path / "sizes.py").write_text("N = 1 << 18\n")
    (tmp_path / "data.txt").write_text("1024")
    path = tmp_path / "mine.py"
    path.write_text(
        HEAD.format(folder=str(HERE)) + "import os\nfrom sizes import N\n"
        "def launches():\n    block = int(open('data.txt').read())\n    n = N * int(os.environ.get('TIMES', '1'))\n"
        "    yield add, (n // block,), (floats(n), floats(n), floats(n), n), {'BLOCK': block}\n"
    )
    args = ("kernel", path, "--system", "l4", "--top", "0")
    first, fresh = _command(*args, folder=tmp_path)
    assert fresh
    assert _command(*args, folder=tmp_path) == (first, False)
    (tmp_path / "sizes.py").write_text("N = 1 << 19\n")
    changed, fresh = _command(*args, folder=tmp_path)
    assert fresh
    assert "grid 512 x 1" in changed
    (tmp_path / "data.txt").write_text("512")
    assert "grid 1024 x 1" in _command(*args, folder=tmp_path)[0]
    assert "grid 2048 x 1" in _command(*args, folder=tmp_path, TIMES="2")[0]


@pytest.mark.parametrize("body", ["import time\n", "import os\nsize = os.stat('.')\n", "import numpy as np\nx = np.random.rand()\n"])
def test_a_file_that_may_answer_otherwise_is_not_kept(body: str, tmp_path: Path) -> None:
    from presilicon import kernel_memo

    path = tmp_path / "mine.py"
    path.write_text(body)
    uses = kernel_memo.Uses()
    uses.add_file(str(path))
    with kernel_memo.recording(uses):
        pass
    assert any(reason.startswith(str(path)) for reason in uses.reasons)
    assert not kernel_memo.store("0" * 64, {"documents": []}, uses)
    assert kernel_memo.load("0" * 64) is None
