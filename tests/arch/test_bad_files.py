"""A wrong device file gives one error that names the file, the field, what was found and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from presilicon import arch
from presilicon.arch import constants, loader
from presilicon.arch.yamlfile import read_yaml
from presilicon.errors import PresiliconError, SpecError, UnknownNameError

GOOD = """\
name: chip
title: A chip
generation: sm_90
sources:
  sheet: "A data sheet (2030)"
gpu:
  clock:
    boost: {value: 1.5 GHz, source: sheet}
  sm:
    count: {value: 100, source: sheet}
    tensor:
      bf16: {value: 4096, source: sheet}
  l2:
    size: {value: 40 MiB, source: sheet}
dram:
  size: {value: 80 GB, source: sheet}
  bandwidth: {value: 2 TB/s, source: sheet}
power:
  limit: {value: 400 W, source: sheet}
"""


def load(tmp_path: Path, text: str) -> arch.System:
    path = tmp_path / "chip.yaml"
    path.write_text(text, encoding="utf-8")
    return arch.load(path)


def test_the_smallest_good_file(tmp_path: Path) -> None:
    system = load(tmp_path, GOOD)
    assert system.provenance["gpu.sm.count"].source == "A data sheet (2030)"
    assert system.link.kind == "pcie"
    assert system.gpu.l2.bytes_per_clk == 4096
    assert system == load(tmp_path, GOOD + "host:\nnotes: \"free text\"\n"), "an empty section is an absent one"


COUNT = "count: {value: 100, source: sheet}"
WRONG = {
    "unknown section": ("dram:", "drams:", "unknown key 'drams'; did you mean 'dram'"),
    "unknown key": (COUNT, COUNT.replace("count", "cuont"), "gpu.sm: unknown key 'cuont'; did you mean 'count'"),
    "unknown arithmetic": ("bf16:", "bf17:", "gpu.sm.tensor: unknown arithmetic 'bf17'; did you mean 'bf16'"),
    "unknown key beside a value": (COUNT, "count: {value: 100, sauce: sheet}",
        "gpu.sm.count: unknown key 'sauce'; did you mean 'source'"),
    "unknown status": (COUNT, "count: {value: 100, source: sheet, status: guessed}",
        "gpu.sm.count: unknown status 'guessed'"),
    "key that is no text": (COUNT, "1: {value: 100, source: sheet}", "gpu.sm: unknown key '1'"),
    "missing number": (COUNT, "", "gpu.sm.count: missing, and the rules of its generation do not give it"),
    "missing section": ("power:\n  limit: {value: 400 W, source: sheet}\n", "", "power.limit: missing"),
    "missing base of a rule": ("  l2:\n    size: {value: 40 MiB, source: sheet}\n", "", "gpu.l2.size: missing"),
    "no arithmetic": ("      bf16: {value: 4096, source: sheet}", "", "gpu.sm.tensor: empty; give the rate"),
    "negative": ("value: 100,", "value: -100,", "gpu.sm.count: expected more than 0, found -100"),
    "zero": ("value: 100,", "value: 0,", "gpu.sm.count: expected more than 0, found 0"),
    "not whole": ("value: 100,", "value: 100.5,", "gpu.sm.count: expected a whole number, found 100.5"),
    "infinite": ("value: 100,", "value: .inf,", "gpu.sm.count: expected a plain number that is finite, found inf"),
    "text": ("value: 100,", "value: many,", "gpu.sm.count: expected a plain number, such as '132', found 'many'"),
    "date": ("value: 100,", "value: 2024-01-01,", "gpu.sm.count: expected a plain number"),
    "bad date": ("value: 100,", "value: 2024-13-45,", "not valid YAML: month must be in 1..12"),
    "list": ("value: 100,", "value: [100],", "gpu.sm.count: expected a plain number, such as '132', found [100]"),
    "flag": ("value: 100,", "value: true,", "gpu.sm.count: expected a plain number, such as '132', found True"),
    "no value": (COUNT, "count: {value: , source: sheet}", "gpu.sm.count: no value; write {value: ..., source: ...}"),
    "value alone": (COUNT, "count: 100",
        "gpu.sm.count: write {value: 100, source: ...}; every number names its source"),
    "source alone": (COUNT, "count: {source: sheet}", "gpu.sm.count: no value"),
    "no source": (COUNT, "count: {value: 100}", "gpu.sm.count: no source; every number names its source"),
    "blank source": (COUNT, "count: {value: 100, source: ' '}", "gpu.sm.count: no source"),
    "source that is no text": (COUNT, "count: {value: 100, source: 7}", "gpu.sm.count: no source"),
    "unknown unit": ("2 TB/s", "2 TBs", "dram.bandwidth: expected a quantity in B/s, such as '3.35 TB/s', "
                                        "found '2 TBs': unknown unit 'TBs'"),
    "wrong dimension": ("2 TB/s", "2 TB", "dram.bandwidth: expected a quantity in B/s, found '2 TB', which is in B"),
    "wrong dimension under a rule": ("400 W", "400 J",
        "power.limit: expected a quantity in W, found '400 J', which is in J"),
    "section that is no mapping": ("  l2:\n    size: {value: 40 MiB, source: sheet}", "  l2: 40 MiB",
                                   "gpu.l2: expected a mapping of size, bandwidth, latency, partitions, far_latency, "
                                   "far_bandwidth, found '40 MiB'"),
    "value where a section belongs": ("    size: {value: 40 MiB, source: sheet}", "    value: 40 MiB",
        "gpu.l2: unknown key 'value'"),
    "sources that are no mapping": ('sources:\n  sheet: "A data sheet (2030)"', "sources: [sheet]",
        "sources: expected a mapping"),
    "description that is no text": ('"A data sheet (2030)"', "2030", "sources.sheet: expected a text, found 2030"),
    "duplicate key": (COUNT, f"{COUNT}\n    {COUNT}", "chip.yaml:11: not valid YAML: key 'count' is written twice"),
    "not YAML": (COUNT, "count: {value: 100", "not valid YAML"),
    "python object": ("value: 100,", "value: !!python/object/apply:os.getcwd [],",
        "not valid YAML: could not determine a constructor"),
    "not a mapping": (GOOD, "- 1\n", "expected a mapping at the top level, found [1]"),
    "empty": (GOOD, "", "expected a mapping at the top level; the file is empty"),
    "no name": ("name: chip\n", "", "name: missing; a device file starts with name, title, generation"),
    "name that is no text": ("name: chip", "name: 7", "name: expected a text, found 7"),
    "title that is no text": ("title: A chip", "title: [A]", "title: expected a text, found ['A']"),
    "unknown generation": ("sm_90", "sm_91", "generation: unknown generation 'sm_91'; did you mean 'sm_90'"),
    "shared memory of a CTA beyond the SM's": (
        COUNT, f"{COUNT}\n    shared_memory_per_cta: {{value: 1 MiB, source: sheet}}",
        "gpu.sm.shared_memory_per_cta: 1.04858e+06 B exceeds gpu.sm.shared_memory"),
    "idle above the limit": ("  limit:", "  idle: {value: 500 W, source: sheet}\n  limit:",
        "power.idle: 500 W is not below power.limit, 400 W"),
    "unknown link": ("power:", "link:\n  kind: {value: token-ring, source: sheet}\npower:",
        "link.kind: expected 'nvlink' or 'pcie'"),
    "unknown constant": ("power:", "calibration:\n  gemm.flor: {value: 1, source: sheet}\npower:",
        "calibration: unknown constant 'gemm.flor'"),
    "calibration that is no mapping": ("power:", "calibration: [1]\npower:",
        "calibration: expected a mapping of constant names, found [1]"),
    "intervals that are no mapping": ("power:", "intervals: 3\npower:",
        "intervals: expected a mapping of families to tables, found 3"),
    "intervals cut short": ("power:", "intervals: {gemm: {low: [1]}}\npower:", "intervals.gemm: expected the keys"),
    "intervals of words": (
        "power:", "intervals: {gemm: {coverage: 0.9, edges_s: a, low: [1], high: [1], rows: 1, source: x}}\npower:",
        "intervals.gemm: edges_s, low and high are lists of numbers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_file(case: str, tmp_path: Path) -> None:
    old, new, message = WRONG[case]
    assert old in GOOD
    with pytest.raises(PresiliconError) as caught:
        load(tmp_path, GOOD.replace(old, new, 1))
    assert isinstance(caught.value, SpecError | UnknownNameError)
    assert str(caught.value).startswith(str(tmp_path / "chip.yaml")), "the file is named"
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"nowhere.yaml: cannot be read: No such file"):
        arch.load(tmp_path / "nowhere.yaml")
    with pytest.raises(SpecError, match="cannot be read: Is a directory"):
        arch.load(str(tmp_path) + "/")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match=r"binary.yaml: cannot be read: .*utf-8"):
        arch.load(tmp_path / "binary.yaml")
    (tmp_path / "control.yaml").write_bytes(b"name: \x00\n")
    with pytest.raises(SpecError, match=r"control.yaml:?.*: not valid YAML"):
        arch.load(tmp_path / "control.yaml")
    (tmp_path / "deep.yaml").write_text("[" * 100_000)
    with pytest.raises(SpecError, match=r"deep.yaml:?.*: not valid YAML"):
        arch.load(tmp_path / "deep.yaml")


@pytest.mark.parametrize(("name", "nearest"), [("h100-smx", "h100-sxm"), ("H100-SXM", "h100-sxm"), ("l40", "l40s"),
    ("4090", "rtx-4090")])
def test_unknown_system(name: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        arch.load(name)
    assert f"unknown system {name!r}" in str(caught.value)
    assert nearest in str(caught.value)


def test_a_name_does_not_reach_out_of_the_folder() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown system '\.\.'"):
        arch.load("..")


def test_documents_that_are_no_mapping() -> None:
    with pytest.raises(SpecError, match="expected a mapping of sections"):
        loader.from_document([1])  # type: ignore[arg-type]


def test_from_document_keeps_no_hold_of_its_argument(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(GOOD)
    document = read_yaml(tmp_path / "x.yaml")
    system = loader.from_document(document)
    document["gpu"]["sm"]["count"]["value"] = 7
    assert system.override({"power.limit": 500}).gpu.sm.count == 100


@pytest.mark.parametrize(("text", "message"), [
    ("a.b: 3", "a.b: expected a mapping of unit, bounds"),
    ("a.b: {unit: s, bounds: [0, 1], meaning: m, defualt: 1}", "a.b: unknown key 'defualt'; did you mean 'default'"),
    ("a.b: {unit: s, bounds: [0, 1], meaning: m}", "a.b.default: missing"),
    ("a.b: {unit: s, bounds: 1, meaning: m, default: {value: 1, source: x}}",
        "a.b.bounds: expected [low, high], found 1"),
    ("a.b: {unit: s, bounds: [0, x], meaning: m, default: {value: 1, source: x}}",
        "a.b.bounds: expected a quantity in s"),
    ("a.b: {unit: s, bounds: [0, 1], meaning: m, default: 1}",
        "a.b.default: expected {value: ..., source: ...}, found 1"),
    ("a.b: {unit: s, bounds: [0, 1], meaning: m, default: {value: 3, source: x}}",
        "default value 3 is outside of its bounds [0, 1]"),
    ("a.b: {unit: s, bounds: [0, 1], meaning: m, default: {value: 1, source: x}, "
     "by_generation: {sm_80: {value: 9, source: x}}}", "sm_80 value 9 is outside of its bounds"),
])
def test_wrong_constants(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.yaml").write_text(text)
    monkeypatch.setattr(constants, "FOLDER", tmp_path)
    with pytest.raises(PresiliconError) as caught:
        constants.all_constants.__wrapped__()
    assert message in str(caught.value)
    assert str(tmp_path / "a.yaml") in str(caught.value)


def test_a_constant_declared_in_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        text = "a.b: {unit: ratio, bounds: [0, 1], meaning: m, default: {value: 1, source: x}}"
        (tmp_path / f"{name}.yaml").write_text(text)
    monkeypatch.setattr(constants, "FOLDER", tmp_path)
    with pytest.raises(SpecError, match=r"b.yaml: a.b: declared in another file as well"):
        constants.all_constants.__wrapped__()


def test_a_constant_takes_a_quantity_and_its_rules() -> None:
    constant = constants.Constant("a.b", "s", "m", 0.0, 1.0, (0.5, "rule"), {"sm_90": (0.25, "rule sm_90")})
    assert constant.check("2 us", "calibration.a.b") == 2e-6
    assert constant.check("2e-6", "calibration.a.b") == 2e-6
    assert constant.family == "a"
    assert constant.assume("sm_90") == (0.25, "rule sm_90")
    assert constant.assume("sm_80") == (0.5, "rule")
