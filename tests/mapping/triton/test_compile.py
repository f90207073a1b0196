"""Binding, specialisation, compilation, the cache, and what each bad input gives."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from presilicon.errors import KernelError, UnknownNameError
from presilicon.files import trim_folder
from presilicon.mapping.triton import bind_launch, compile_kernel, compile_launch, configs_of, resource_usage, take_apart
from presilicon.mapping.triton import cache as disk
from presilicon.mapping.triton.launch import source_place

TARGETS = [80, 86, 89, 90, 100, 120]


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_gives_every_text(lab: ModuleType, target: int) -> None:
    compiled = compile_launch(lab.add(1000, target))
    assert compiled.name == "add"
    assert compiled.target == target
    assert "tt.func public @add" in compiled.ttir
    assert f'ttg.target = "cuda:{target}"' in compiled.ttgir
    assert f".target sm_{target}" in compiled.ptx
    assert "/*0000*/" in compiled.sass
    assert compiled.cubin[:4] == b"\x7fELF"
    assert (compiled.num_warps, compiled.num_ctas, compiled.threads) == (4, 1, 128)
    assert compiled.source_file.endswith("kernels.py")


@pytest.mark.parametrize("target", [80, 90])
def test_wide_masked_loads_belong_to_the_statement_that_loads(kernels: ModuleType, lab: ModuleType, target: int) -> None:
    """LLVM counts the lines of inline assembly as lines of the file; eight words a thread would reach beyond the kernel's end."""
    x = lab.meta(1 << 16)
    compiled = compile_kernel(kernels.add, (32,), (x, x, x, 1 << 16), {"BLOCK": 2048}, target=target)
    lines = inspect.getsource(kernels.add.fn).splitlines()
    first = kernels.add.starting_line_number
    listing = take_apart(compiled).listing.instructions
    said = {i.source.line for i in listing if i.source is not None and i.source.file.endswith("kernels.py")}
    assert said
    assert said <= set(range(first, first + len(lines)))
    for instruction in listing:
        if instruction.opcode.startswith(("LDG", "STG")):
            text = lines[instruction.source.line - first]
            assert ("tl.load" if instruction.opcode.startswith("LDG") else "tl.store") in text


@pytest.mark.slow
@pytest.mark.parametrize("target", [80, 90, 100])
def test_resources_are_those_that_cuobjdump_states(lab: ModuleType, target: int) -> None:
    for launch in (lab.matmul(256, 256, 256, target), lab.attention(1, 2, 128, 64, target, True), lab.softmax(8, 1000, 2, target)):
        compiled = compile_launch(launch)
        usage = resource_usage(compiled)
        assert usage["REG"] == compiled.registers
        assert usage["STACK"] == compiled.stack_bytes
        assert usage["SHARED"] == compiled.layout.static_shared_bytes
        assert compiled.layout.threads == compiled.threads


def test_older_tritons_do_not_say_where_a_kernel_stands(kernels: ModuleType) -> None:
    new = kernels.add
    old = SimpleNamespace(fn=new.fn, raw_src=new.raw_src, starting_line_number=new.starting_line_number)
    assert old.raw_src[0].startswith("@")
    assert source_place(old) == source_place(new) == (kernels.__file__, old.starting_line_number + 1)


def test_arguments_are_specialised_as_a_launch_does(kernels: ModuleType, lab: ModuleType) -> None:
    a = lab.meta(512, 512)
    options = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "GROUP_M": 8}
    launch = bind_launch(kernels.matmul, (64,), (a, a, a, 500, 512, 2**40, 512, 1, 512, True, 7, 1), options, target=90)
    assert launch.signature["M"] == "i32"
    assert launch.signature["K"] == "i64"
    assert launch.signature["stride_ak"] == "constexpr"
    assert launch.signature["stride_bn"] == "u1"
    divisible = {name for i, name in enumerate(launch.signature) if launch.attributes.get((i,))}
    assert divisible == {"a_ptr", "b_ptr", "c_ptr", "N", "K", "stride_am", "stride_bk"}
    assert launch.arguments["BLOCK_M"] == 64
    assert launch.buffers[0].size_bytes == 512 * 512 * 2
    assert len(launch.buffers) == 1, "one storage, three arguments"


def test_grid_function_sees_the_bound_arguments(kernels: ModuleType, lab: ModuleType) -> None:
    x = lab.floats(1000)
    launch = bind_launch(kernels.add, lambda meta: (-(-meta["n"] // meta["BLOCK"]), 2), (x, x, x, 1000), {"BLOCK": 256}, target=80)
    assert launch.grid == (4, 2, 1)
    assert launch.programs == 8
    assert bind_launch(kernels.add, 3, (x, x, x, 1000), {"BLOCK": 256}, target=80).grid == (3, 1, 1)


def test_autotune_and_heuristics(kernels: ModuleType, lab: ModuleType) -> None:
    x = lab.floats(1000)
    args = (x, x, x, 1000)
    assert [c.kwargs["BLOCK"] for c in configs_of(kernels.tuned_add, args)] == [256, 1024]
    assert configs_of(kernels.add) == []

    def grid(meta: dict[str, int]) -> tuple[int]:
        return (-(-1000 // meta["BLOCK"]),)

    second = bind_launch(kernels.tuned_add, grid, args, target=90, config=1)
    assert (second.grid, second.options.num_warps, second.arguments["BLOCK"]) == ((1, 1, 1), 8, 1024)
    assert bind_launch(kernels.tuned_add, grid, args, target=90, config=configs_of(kernels.tuned_add)[0]).options.num_warps == 2
    with pytest.raises(KernelError, match="autotuned over 2 configs: pass config="):
        bind_launch(kernels.tuned_add, grid, args, target=90)
    with pytest.raises(KernelError, match="BLOCK given although the config sets them"):
        bind_launch(kernels.tuned_add, grid, args, {"BLOCK": 64}, target=90, config="first")
    even = bind_launch(kernels.scale, (4,), (x, 1024, 2.0), {"BLOCK": 256}, target=90)
    odd = bind_launch(kernels.scale, (4,), (x, 1000, 2.0), {"BLOCK": 256}, target=90)
    assert (even.arguments["EVEN"], odd.arguments["EVEN"]) == (True, False)


class TestBadInput:
    """Each names the kernel's file and line, what was found and what is allowed."""

    def test_unknown_target(self, kernels: ModuleType, lab: ModuleType) -> None:
        x = lab.floats(8)
        with pytest.raises(UnknownNameError, match="unknown target 'sm_91'"):
            compile_kernel(kernels.add, (1,), (x, x, x, 8), {"BLOCK": 8}, target="sm_91")

    def test_a_kernel_that_does_not_compile_shows_tritons_message(self, kernels: ModuleType, lab: ModuleType) -> None:
        with pytest.raises(KernelError, match=r"kernels\.py:\d+: kernel 'broken' does not compile for sm_90: ") as caught:
            compile_kernel(kernels.broken, (1,), (lab.floats(16), 7), target=90)
        assert "incompatible dimensions at index 0: 16 and 32" in str(caught.value)

    def test_mlir_errors_are_shown_and_not_printed(self, lab: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(KernelError, match="must have the same number of elements"):
            compile_launch(lab.matmul_tma(256, 256, 256, 90, specialize=True))
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize(("args", "meta", "message"), [
        (1, {"BLOCK": 8}, "missing 3 required positional arguments"), (5, {"BLOCK": 8}, "multiple values|takes"),
        (4, {}, "missing 1 required positional argument: 'BLOCK'"), (4, {"BLOCK": 8, "BLOKC": 4}, "BLOKC was specified but unrecognised"),
    ])
    def test_wrong_number_or_name(self, kernels: ModuleType, lab: ModuleType, args: int, meta: dict[str, int], message: str) -> None:
        x = lab.floats(8)
        with pytest.raises(KernelError, match=message) as caught:
            bind_launch(kernels.add, (1,), (x, x, x, 8, 8)[:args], meta, target=90)
        assert "its signature: (x_ptr, y_ptr, out_ptr, n, BLOCK)" in str(caught.value)

    def test_wrong_type(self, kernels: ModuleType, lab: ModuleType) -> None:
        x = lab.floats(8)
        with pytest.raises(KernelError, match="argument 'y_ptr' is 'y', of type str; a kernel takes tensors"):
            bind_launch(kernels.add, (1,), (x, "y", x, 8), {"BLOCK": 8}, target=90)
        with pytest.raises(KernelError, match="does not compile"):
            compile_kernel(kernels.add, (1,), (x, 3.5, x, 8), {"BLOCK": 8}, target=90)

    def test_not_a_kernel(self, kernels: ModuleType) -> None:
        with pytest.raises(KernelError, match=r"not a @triton\.jit function"):
            bind_launch(len, (1,), (), target=90)

    def test_grid_functions_get_the_tensors_themselves(self, kernels: ModuleType, lab: ModuleType) -> None:
        x = lab.floats(4, 8)
        launch = bind_launch(kernels.add, lambda meta: (meta["x_ptr"].nelement() // meta["BLOCK"],), (x, x, x, 32), {"BLOCK": 8}, target=90)
        assert launch.grid == (4, 1, 1)

    def test_grids(self, kernels: ModuleType, lab: ModuleType) -> None:
        x = lab.floats(8)

        def bind(grid: object) -> None:
            bind_launch(kernels.add, grid, (x, x, x, 8), {"BLOCK": 8}, target=90)  # type: ignore[arg-type]

        with pytest.raises(KernelError, match="the grid function failed on these arguments, which carry no data"):
            bind(lambda meta: (int(x.sum().item()),))
        with pytest.raises(KernelError, match="one to three sizes"):
            bind((1, 1, 1, 2))
        assert bind_launch(kernels.add, (3, 2, 1, 1), (x, x, x, 8), {"BLOCK": 8}, target=90).grid == (3, 2, 1), "Triton reads three"
        with pytest.raises(KernelError, match="grid size 1 is 65536; allowed are 1 to 65535"):
            bind((1, 65536))
        with pytest.raises(KernelError, match="grid size 0 is 0; a grid of no CTAs launches nothing"):
            bind((0,))
        with pytest.raises(KernelError, match=r"grid size 0 is 1\.5, not a whole number"):
            bind((1.5,))

    def test_arguments_that_no_kernel_takes(self, kernels: ModuleType, lab: ModuleType) -> None:
        import torch

        x = lab.floats(8)
        with pytest.raises(KernelError, match=r"these arguments: argument 'n' is \d+, which does not fit 64 bits"):
            bind_launch(kernels.add, (1,), (x, x, x, 2**70), {"BLOCK": 8}, target=90)
        with pytest.raises(KernelError, match=r"layout torch\.sparse_coo"):
            bind_launch(kernels.add, (1,), (x, torch.zeros(4, 4).to_sparse(), x, 8), {"BLOCK": 8}, target=90)

    def test_cuda_tensor_without_cuda(self, kernels: ModuleType, lab: ModuleType) -> None:
        import torch

        if torch.cuda.is_available():
            pytest.skip("CUDA is there")

        class OnGpu:
            dtype, shape, device = torch.float32, (8,), torch.device("cuda:0")

            def data_ptr(self) -> int:
                return 0

            def stride(self) -> tuple[int]:
                return (1,)

        x = lab.floats(8)
        with pytest.raises(KernelError, match="argument 'y_ptr' is a CUDA tensor on a machine without CUDA"):
            bind_launch(kernels.add, (1,), (x, OnGpu(), x, 8), {"BLOCK": 8}, target=90)

    def test_without_triton_the_message_names_the_extra(self) -> None:
        code = ("import sys; sys.modules['triton'] = None\n"
                "from presilicon.mapping.triton import bind_launch\n"
                "try: bind_launch(None, (1,), (), target=90)\n"
                "except Exception as error: print(type(error).__name__, error)")
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert said.startswith("KernelError Triton kernels need the package `triton`")
        assert "pip install 'presilicon[kernels]'" in said


class TestCache:
    """Entries by content: kept, found again, and never trusted when damaged."""

    @pytest.mark.slow
    def test_hit_miss_and_damage(self, lab: ModuleType, tmp_path: Path) -> None:
        launch = lab.add(1000, 90)
        first = compile_launch(launch, folder=tmp_path)
        (entry,) = tmp_path.glob("*.kernel")
        stamp = entry.stat().st_mtime_ns
        assert compile_launch(launch, folder=tmp_path) == first
        compile_launch(lab.add(1000, 90, block=512), folder=tmp_path)
        compile_launch(lab.add(1024, 90), folder=tmp_path)
        assert len(list(tmp_path.glob("*.kernel"))) == 3, "another constant and another divisibility are other kernels"
        raw = entry.read_bytes()
        for bad in (b"", raw[:100], raw[:-7], raw[:-40] + b"\0" * 40, b"x" + raw):
            entry.write_bytes(bad)
            assert disk.load(tmp_path, entry.stem) is None
            assert compile_launch(launch, folder=tmp_path) == first
            assert entry.read_bytes() == raw
        assert entry.stat().st_mtime_ns >= stamp

    def test_sizes_and_pointers_do_not_matter_to_the_key(self, lab: ModuleType) -> None:
        one, two = compile_launch(lab.matmul(512, 512, 512, 90)), compile_launch(lab.matmul(1024, 512, 2048, 90))
        assert one.key == two.key
        assert one == two

    def test_the_folder_is_bounded(self, tmp_path: Path) -> None:
        for number in range(10):
            disk.store(tmp_path, f"k{number}", {"n": number}, {"part": os.urandom(1000)})
            os.utime(tmp_path / f"k{number}.kernel", (number, number))
        assert disk.load(tmp_path, "k2") is not None, "and now it was used last"
        trim_folder(tmp_path, "*.kernel", 4000)
        assert {p.stem for p in tmp_path.glob("*.kernel")} == {"k9", "k8", "k2"}

    def test_a_folder_that_cannot_be_written_is_let_be(self, lab: ModuleType, tmp_path: Path) -> None:
        blocker = tmp_path / "file"
        blocker.write_text("in the way")
        assert compile_launch(lab.add(1000, 80), folder=blocker / "cache").name == "add"

    @pytest.mark.slow
    def test_several_processes_at_once(self, tmp_path: Path) -> None:
        code = ("import sys, runpy, json; sys.path.insert(0, sys.argv[1])\n"
                "import torch, kernels\n"
                "from presilicon.mapping.triton import compile_kernel\n"
                "x = torch.empty(1000, device='meta')\n"
                "ks = [compile_kernel(kernels.add, (4,), (x, x, x, 1000), {'BLOCK': b}, target=90) for b in (128, 256, 512)]\n"
                "print(json.dumps([k.key + str(k.registers) for k in ks]))")
        here = str(Path(__file__).parent)
        running = [subprocess.Popen([sys.executable, "-c", code, here], stdout=subprocess.PIPE, text=True,
                                    env={**os.environ, "PRESILICON_CACHE": str(tmp_path)}) for _ in range(3)]
        said = [json.loads(process.communicate(timeout=600)[0]) for process in running]
        assert said[0] == said[1] == said[2]
        assert len(list((tmp_path / "kernels").glob("*"))) == 3

    def test_a_hit_runs_no_compiler(self, lab: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        from presilicon.mapping.triton import compile as compiling

        launch = lab.add(1000, 90)
        compile_launch(launch)
        monkeypatch.setattr(compiling, "_compile", lambda _: pytest.fail("compiled again"))
        start = time.perf_counter()
        compile_launch(launch)
        assert time.perf_counter() > start
