"""The shipped device files: they load, name their sources, and give the data sheets' peaks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from presilicon import arch
from presilicon.arch import constants, loader, schema
from presilicon.errors import UnknownNameError
from presilicon.units import BASE_UNITS, parse

SHIPPED = ("a10", "a100-pcie-80gb", "a100-sxm-40gb", "a100-sxm-80gb", "a30", "a40", "b200", "gb200", "h20", "h100-nvl", "h100-pcie",
           "h100-sxm", "h200-sxm", "l4", "l40s", "rtx-3090", "rtx-4090", "rtx-5090", "rtx-pro-6000", "t4", "v100-sxm")
_A100 = {"fp16": 312, "bf16": 312, "tf32": 156, "int8": 624, "int4": 1248, "fp64": 19.5}
_H100_SXM = {"fp16": 989.4, "bf16": 989.4, "fp8": 1978.9, "int8": 1978.9, "tf32": 494.7}
#: Dense tensor peaks of the data sheets, TFLOP/s or TOP/s; sparse figures halved.
DATA_SHEET = {
    "v100-sxm": {"fp16": 125},
    "t4": {"fp16": 65, "int8": 130, "int4": 260},
    "a100-sxm-40gb": _A100, "a100-sxm-80gb": _A100, "a100-pcie-80gb": _A100,
    "l4": {"fp16": 121, "bf16": 121, "fp8": 242.5, "int8": 242.5, "tf32": 60},
    "l40s": {"fp16": 362.05, "bf16": 362.05, "fp8": 733, "int8": 733, "int4": 733, "tf32": 183},
    "rtx-4090": {"fp16": 165.2, "bf16": 165.2, "fp8": 330.3, "int8": 660.6, "int4": 1321.2, "tf32": 82.6},
    "h100-sxm": _H100_SXM, "h200-sxm": _H100_SXM,
    "h100-pcie": {"fp16": 756.5, "bf16": 756.5, "fp8": 1513, "int8": 1513, "tf32": 378},
    "h20": {"fp16": 148, "bf16": 148, "fp8": 296, "int8": 296, "tf32": 74},
    "h100-nvl": {"fp16": 835.5, "bf16": 835.5, "fp8": 1671, "int8": 1671, "tf32": 417.7},
    "a10": {"fp16": 125, "bf16": 125, "tf32": 62.5, "int8": 250, "int4": 500},
    "a30": {"fp16": 165, "bf16": 165, "tf32": 82, "int8": 330, "int4": 661, "fp64": 10.3},
    "a40": {"fp16": 149.7, "bf16": 149.7, "tf32": 74.8, "int8": 299.3, "int4": 598.7},
    "rtx-3090": {"fp16": 71, "bf16": 71, "tf32": 35.6, "int8": 284, "int4": 568},
    "rtx-5090": {"fp16": 209.5, "bf16": 209.5, "fp8": 419, "fp4": 1676, "int8": 838, "tf32": 104.8},
    "rtx-pro-6000": {"fp16": 500, "bf16": 500, "fp8": 1000, "fp4": 2000, "int8": 1000, "tf32": 250},
    "gb200": {"fp16": 2500, "bf16": 2500, "fp8": 5000, "fp4": 10000, "int8": 5000, "tf32": 1250},
    "b200": {"fp16": 2250, "bf16": 2250, "fp8": 4500, "int8": 4500, "fp4": 9000, "tf32": 1125},
}
#: fp64 tensor peaks that a data sheet gives at another clock than that of the low-precision ones: TFLOP/s, Hz.
FP64_AT = {"h100-sxm": (66.9, 1.98e9), "h200-sxm": (66.9, 1.98e9), "h100-pcie": (51.2, 1.755e9), "b200": (37.2,
    1.965e9), "gb200": (40.0, 2.112e9), "h100-nvl": (60.0, 1.785e9)}
#: Data-sheet bandwidth GB/s, board power W, SMs, compute capability.
FIGURES = {
    "v100-sxm": (900, 300, 80, "sm_70"), "t4": (320, 70, 40, "sm_75"), "a100-sxm-40gb": (1555, 400, 108, "sm_80"),
    "a100-sxm-80gb": (2039, 400, 108, "sm_80"), "a100-pcie-80gb": (1935, 300, 108, "sm_80"), "l4": (300, 72, 58,
        "sm_89"),
    "l40s": (864, 350, 142, "sm_89"), "rtx-4090": (1008, 450, 128, "sm_89"), "h100-sxm": (3350, 700, 132, "sm_90"),
    "h100-pcie": (2000, 350, 114, "sm_90"), "h200-sxm": (4800, 700, 132, "sm_90"), "b200": (8000, 1000, 148, "sm_100"),
    "h20": (4000, 400, 78, "sm_90"), "h100-nvl": (3900, 400, 132, "sm_90"), "a10": (600, 150, 72, "sm_86"), "a30": (933, 165, 56, "sm_80"),
    "a40": (696, 300, 84, "sm_86"), "rtx-3090": (936, 350, 82, "sm_86"), "rtx-5090": (1792, 575, 170, "sm_120"),
    "rtx-pro-6000": (1792, 600, 188, "sm_120"), "gb200": (8000, 1200, 148, "sm_100"),
}
#: CUDA programming guide: shared KiB per SM and per CTA, resident warps, resident CTAs; fp32 lanes per SM.
LIMITS = {"sm_70": (96, 96, 64, 32, 64), "sm_75": (64, 64, 32, 16, 64), "sm_80": (164, 163, 64, 32, 64),
          "sm_86": (100, 99, 48, 16, 128), "sm_89": (100, 99, 48, 24, 128), "sm_90": (228, 227, 64, 32, 128),
          "sm_100": (228, 227, 64, 32, 128), "sm_120": (100, 99, 48, 24, 128)}


def test_every_triton_target_has_a_gpu() -> None:
    """Those for which a kernel can be compiled without a GPU."""
    generations = {arch.load(name).generation for name in SHIPPED}
    assert {"sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"} <= generations


def test_the_shipped_systems_are_all_here() -> None:
    assert set(SHIPPED) <= set(arch.names())
    assert set(DATA_SHEET) == set(FIGURES) == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_tensor_peak_is_the_data_sheets(name: str) -> None:
    system = arch.load(name)
    known = set(system.gpu.sm.tensor_flops_per_clk) - set(FP64_AT.get(name, ()) and {"fp64"})
    assert known == set(DATA_SHEET[name])
    for arithmetic, peak in DATA_SHEET[name].items():
        assert system.tensor_flops_per_s(arithmetic) == pytest.approx(peak * 1e12, rel=0.01), arithmetic


@pytest.mark.parametrize("name", FP64_AT)
def test_fp64_tensor_rate_gives_the_data_sheets_peak_at_its_clock(name: str) -> None:
    peak, clock_hz = FP64_AT[name]
    sm = arch.load(name).gpu.sm
    assert sm.tensor_flops_per_clk["fp64"] * sm.count * clock_hz == pytest.approx(peak * 1e12, rel=0.01)


@pytest.mark.parametrize("name", SHIPPED)
def test_figures_of_the_data_sheet(name: str) -> None:
    bandwidth, limit_w, sms, generation = FIGURES[name]
    system = arch.load(name)
    assert (system.name, system.generation, system.gpu.sm.count) == (name, generation, sms)
    assert system.dram.bandwidth_bytes_per_s == pytest.approx(bandwidth * 1e9, rel=0.02)
    assert system.power.limit_w == limit_w


@pytest.mark.parametrize("name", [name for name in sorted(arch.names()) if arch.load(name).kind == "gpu"])
def test_a_system_is_plausible_and_every_number_has_a_source(name: str) -> None:
    system = arch.load(name)
    paths = {path for path, _, _ in arch.describe()}
    absent = {p for p in paths - set(system.provenance) if not p.startswith("gpu.sm.tensor.")}
    assert set(system.provenance) <= paths
    assert absent == set()
    for path, origin in system.provenance.items():
        assert origin.source.strip(), path
        assert origin.status in ("sourced", "fitted", "assumed"), path
        value = arch.value_at(system, path)
        assert isinstance(value, bool | str) or value >= 0.0 or path.startswith("calibration."), path
    gpu, dram = system.gpu, system.dram
    l2_bytes_per_s = gpu.l2.bytes_per_clk * gpu.clock.boost_hz
    shared_bytes_per_s = gpu.sm.count * gpu.sm.shared_bytes_per_clk * gpu.clock.boost_hz
    assert 1.5 * dram.bandwidth_bytes_per_s < l2_bytes_per_s < shared_bytes_per_s
    assert gpu.l2.latency_clk < dram.latency_clk
    assert gpu.l2.size_bytes < dram.size_bytes / 100
    assert 0.05 * system.power.limit_w < system.power.idle_w < 0.5 * system.power.limit_w
    assert system.link.bandwidth_bytes_per_s < dram.bandwidth_bytes_per_s
    assert system.link.kind == "nvlink" or not system.link.multicast


@pytest.mark.parametrize("name", SHIPPED)
def test_a_short_name_of_a_source_is_declared(name: str) -> None:
    """A one-word source is a short name; one that ``sources`` lacks would be printed as it stands."""
    for path, origin in arch.load(name).provenance.items():
        if origin.status != "assumed":
            assert not re.fullmatch(r"[a-z_]+", origin.source), path


def test_assumed_are_the_numbers_that_the_file_does_not_give() -> None:
    system = arch.load("h100-sxm")
    assumed = system.assumed()
    assert assumed == sorted(assumed)
    assert {"gpu.sm.sfu", "host.launch", "gpu.l2.bandwidth"} <= set(assumed)
    assert not {"gpu.sm.count", "dram.bandwidth", "gpu.l2.latency", "link.bandwidth"} & set(assumed)
    assert not {"gpu.sm.max_ctas", "gpu.sm.shared_memory", "gpu.sm.fma"} & set(assumed), "facts of the generation"
    assert "link.latency" in arch.load("a100-sxm-80gb").assumed(), "an estimate that the file itself calls one"


@pytest.mark.parametrize(("generation", "limits"), LIMITS.items())
def test_rules_of_a_generation(generation: str, limits: tuple[int, ...]) -> None:
    rules = loader.generations()[generation]
    sm = rules["gpu"]["sm"]
    found = (parse(sm["shared_memory"]["value"], "B") / 1024, parse(sm["shared_memory_per_cta"]["value"], "B") / 1024,
             sm["max_warps"]["value"], sm["max_ctas"]["value"], sm["fma"]["value"])
    assert found == limits
    assert sm["registers"]["value"] == 65536


def test_every_rule_names_a_field_that_exists_a_source_and_a_good_value() -> None:
    assert set(loader.generations()) == set(LIMITS)

    def walk(node: dict, where: str) -> None:
        if "value" not in node:
            for key, child in node.items():
                walk(child, f"{where}.{key}")
            return
        leaf = schema.leaves()[where]
        assert set(node) - {"status"} in ({"value", "source"}, {"value", "per", "of", "source"}), where
        assert node.get("status", "sourced") == "sourced", where
        assert str(node["source"]).strip(), where
        if leaf.unit:
            parse(node["value"], leaf.unit)
        if "of" in node:
            parse(node["per"], schema.leaves()[f"{where.rpartition('.')[0]}.{node['of']}"].unit)

    for rules in loader.generations().values():
        for part in rules:
            walk(rules[part], part)


def test_a_rule_per_size_scales() -> None:
    """64 B per clock and slice of 2 MiB on Ada: 24, 36 and 48 slices."""
    for name, slices in (("l4", 24), ("rtx-4090", 36), ("l40s", 48)):
        assert arch.load(name).gpu.l2.bytes_per_clk == 64 * slices


def test_constants_are_declared_whole() -> None:
    for name, constant in constants.all_constants().items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)+", name), name
        assert constant.meaning.strip(), name
        assert constant.unit in BASE_UNITS, name
        assert constant.low < constant.high, name
        assert set(constant.by_generation) <= set(LIMITS), name
        for _, source in (constant.default, *constant.by_generation.values()):
            assert source.strip(), name


def test_describe_names_each_field_once_with_unit_and_meaning() -> None:
    rows = list(arch.describe())
    assert len({path for path, _, _ in rows}) == len(rows)
    for path, unit, meaning in rows:
        assert meaning, path
        assert unit in BASE_UNITS or path in ("link.kind", "link.multicast"), path
    assert ("dram.bandwidth", "B/s", "Peak bandwidth, reads and writes together") in rows


def test_table_lists_every_number() -> None:
    system = arch.load("h100-sxm").override({"gpu.sm.count": 144})
    rows = {row.path: row for row in arch.table(system)}
    assert set(rows) == set(system.provenance)
    assert rows["gpu.sm.count"][1:] == ("144", "1", "override", "set by the user")
    assert rows["gpu.l2.size"].value == "50 MiB"
    assert rows["gpu.sm.tensor.bf16"].value == "4096 FLOP/clk"
    assert rows["dram.bandwidth"][1:4] == ("3.352 TB/s", "B/s", "sourced")
    assert rows["link.kind"][1:3] == ("nvlink", "")
    assert rows["link.multicast"].value == "true"
    assert rows["gpu.sm.registers"].value == "65536"
    assert rows["gpu.sm.sfu"].status == "assumed"


def test_the_template_of_the_guide_loads(tmp_path: Path) -> None:
    guide = Path(__file__).parents[2] / "docs" / "add-a-chip.md"
    if not guide.is_file():
        pytest.skip("not a checkout: docs/add-a-chip.md is absent")
    template = guide.read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    (tmp_path / "my-gpu.yaml").write_text(template, encoding="utf-8")
    system = arch.load(tmp_path / "my-gpu.yaml")
    assert system.tensor_flops_per_s("bf16") == pytest.approx(885e12, rel=0.01)


def test_an_arithmetic_that_a_gpu_lacks_is_named() -> None:
    with pytest.raises(UnknownNameError,
        match=r"v100-sxm: gpu.sm.tensor: unknown arithmetic 'bf16'; did you mean 'fp16'"):
        arch.load("v100-sxm").tensor_flops_per_s("bf16")
