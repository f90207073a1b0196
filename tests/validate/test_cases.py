"""Published results as cases: the exact ones to their last digit, bad files with a clear error, misses never hidden."""

from __future__ import annotations

import csv
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from presilicon.errors import CaseError, OutputError
from presilicon.validate.cases import (
    CaseResults,
    ClaimResult,
    builders,
    case_paths,
    measures,
    read_case,
    run_case,
    run_cases,
    to_csv,
)

#: Cases that need neither torch nor a simulation.
EXACT = (
    "flash-attention-4-balance",
    "flash-attention-bytes",
    "flash-llm-bytes",
    "lean-attention-occupancy",
    "marlin-ideal",
    "megatron-1t",
)


def predicted(name: str) -> dict[str, float]:
    """Predictions of a shipped case by system and quantity."""
    return {f"{r.system} {r.claim.quantity}".strip(): r.predicted for r in run_cases([name]).results}


def write(
    folder: Path, change: dict[str, Any] | None = None, claim: dict[str, Any] | None = None, name: str = "small"
) -> Path:
    """A small valid case with some keys changed; None removes a key."""
    document: dict[str, Any] = {
        "name": name,
        "title": "A product",
        "source": "by hand",
        "systems": ["a100-sxm-80gb"],
        "workloads": {"gemm": {"kind": "matmul", "m": 1024, "n": 1024, "k": 1024}},
        "claims": [{"quantity": "FLOPs", "measure": "matmul_flops", "claimed": 2.0 * 1024**3, "tolerance": "1 %"}],
    }
    for target, changes in ((document, change or {}), (document["claims"][0], claim or {})):
        target.update(changes)
        for key in [key for key, value in changes.items() if value is None]:
            del target[key]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


# ---- the exact cases


@pytest.mark.parametrize("name", EXACT)
def test_exact_cases_are_within_their_tolerance(name: str) -> None:
    results = run_cases([name])
    assert results.results
    assert [r.claim.quantity for r in results.results if r.verdict == "MISS"] == []


def test_marlin_curve_equals_the_formula_of_its_artifact() -> None:
    def ideal(m: float, n: float = 18432, k: float = 73728, flops: float = 125e12, bandwidth: float = 600e9) -> float:
        fp16 = 2 * m * k + 2 * k * n + 2 * m * n
        int4 = 2 * m * k + k * n / 2 + 2 * m * n + 2 * (k / 128) * n
        return max(fp16 / bandwidth, 2 * m * n * k / flops) / max(int4 / bandwidth, 2 * m * n * k / flops)

    found = predicted("marlin-ideal")
    for m in (1, 16, 32, 64, 128):
        assert found[f"a10 W4A16 over FP16, m {m}"] == pytest.approx(ideal(m), rel=5e-4)
        assert found[f"a10-885MHz W4A16 over FP16, m {m}"] == pytest.approx(
            ideal(m, flops=125e12 * 885 / 1695), rel=5e-4
        )


def test_megatron_counts_equal_the_closed_forms_of_its_paper() -> None:
    layers, h, s, v, b = 128, 25600, 2048, 51200, 3072
    found = predicted("megatron-1t")
    assert found["FLOPs of an iteration with recomputation"] == pytest.approx(
        96 * b * s * layers * h**2 * (1 + s / (6 * h) + v / (16 * layers * h)), rel=1e-12
    )
    assert found["parameters"] == pytest.approx(
        12 * layers * h**2 * (1 + 13 / (12 * h) + (v + s) / (12 * layers * h)), rel=1e-9
    )
    assert found["pipeline bubble, 64 stages"] == 63 / 512
    assert found["pipeline bubble, interleaved, 2 chunks a stage"] == 63 / 1024


def test_standard_attention_passes_over_the_score_matrix_eighteen_times() -> None:
    pairs, n, d = 64 * 16, 1024, 64
    squares, vectors, mask = 18 * n * n * 2, 12 * n * d * 2, n * n * 2
    assert predicted("flash-attention-bytes")["DRAM bytes of standard attention"] == pairs * (squares + vectors) + mask


def test_flash_attention_moves_fewer_bytes_with_more_shared_memory(tmp_path: Path) -> None:
    def moved(shared: str) -> float:
        path = write(
            tmp_path / shared.replace(" ", ""),
            {
                "systems": {
                    "gpu": {
                        "device": "a100-sxm-80gb",
                        "set": {"gpu.sm.shared_memory": shared, "gpu.sm.shared_memory_per_cta": "40 KiB"},
                    }
                },
                "workloads": {"flash": {"kind": "attention", "q_len": 1024, "kv_len": 1024, "head_dim": 64}},
            },
            {"measure": "flash_attention_training_bytes", "claimed": "1 MB"},
        )
        return run_case(read_case(path))[0].predicted

    # an outer iteration for each block of M / 4d columns: 48 KiB are 96 columns, 11 iterations; 512 KiB are all 1,024
    unit, statistic = 1024 * 64 * 2, 1024 * 4
    assert moved("48 KiB") == (3 + 3 * 11 + 7 + 5 * 11) * unit + (2 + 4 * 11 + 2 * 11) * statistic
    assert moved("512 KiB") == (3 + 3 + 7 + 5) * unit + (2 + 4 + 2) * statistic


def test_sparse_break_even_is_at_half_density() -> None:
    found = predicted("flash-llm-bytes")
    at_half = found["dense over sparse weight bytes at density 0.5"]
    assert 0.999 < at_half < 1.0  # the tile offsets are what is left


# ---- shipped files


@pytest.mark.parametrize("name", sorted(case_paths()))
def test_shipped_case_reads_and_names_its_sources(name: str) -> None:
    case = read_case(case_paths()[name])
    assert case.claims
    assert all(claim.source for claim in case.claims)
    assert all(not claim.expected_miss or claim.note for claim in case.claims)


def test_every_registered_function_is_used_and_says_what_it_computes() -> None:
    cases = [read_case(path) for path in case_paths().values()]
    used = {claim.measure.name for case in cases for claim in case.claims}
    made = {workload.builder.name for case in cases for workload in case.workloads.values()}
    assert {entry.name for entry in measures} == used
    assert {entry.name for entry in builders} == made
    assert all(entry.summary.endswith((".", ":")) or entry.summary for entry in (*measures, *builders))


def test_reading_every_case_imports_no_torch() -> None:
    code = (
        "import sys; from presilicon.validate.cases import case_paths, read_case;"
        "[read_case(path) for path in case_paths().values()];"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(case_paths()))
def test_every_shipped_case_runs_and_misses_nothing_unexplained(name: str) -> None:
    pytest.importorskip("torch", reason="models are traced with torch")
    pytest.importorskip("transformers", reason="models are traced with transformers")
    results = run_cases([name]).results
    assert {r.case.name for r in results} == {name}
    assert [f"{r.claim.quantity}: {r.predicted:g}" for r in results if r.verdict == "MISS"] == []
    assert all(math.isfinite(r.predicted) for r in results)


def test_the_docs_list_every_measure_and_their_example_is_a_case(tmp_path: Path) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "add-a-case.md"
    if not page.is_file():
        pytest.skip("not a checkout: docs/add-a-case.md is absent")
    text = page.read_text(encoding="utf-8")
    named = set(
        re.findall(
            r"`([a-z_]+)`", "\n".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
        )
    )
    assert named == {entry.name for entry in (*measures, *builders)}
    example = text.split("```yaml\n")[1].split("```")[0]
    (tmp_path / "marlin-a100.yaml").write_text(example, encoding="utf-8")
    assert run_cases(folder=tmp_path).all_within


# ---- the runner


def test_a_miss_fails_the_run_and_shows_its_cause(tmp_path: Path) -> None:
    write(tmp_path, claim={"claimed": 1e9, "note": "the claim is of another shape"})
    results = run_cases(folder=tmp_path)
    assert not results.all_within
    assert results.results[0].verdict == "MISS"
    printed = [str(line) for line in results.lines()]
    assert any(line.startswith("MISS: small: FLOPs: the claim is of another shape") for line in printed)


def test_an_expected_miss_is_listed_and_does_not_fail_the_run(tmp_path: Path) -> None:
    write(tmp_path, claim={"claimed": 1e9, "expected": "miss", "note": "other shape"})
    results = run_cases(folder=tmp_path)
    assert results.all_within
    assert results.results[0].verdict == "expected miss"
    assert any("expected miss: small: FLOPs: other shape" in str(line) for line in results.lines())


def test_an_expected_miss_that_hits_is_said(tmp_path: Path) -> None:
    write(tmp_path, claim={"expected": "miss", "note": "other shape"})
    assert any("although expected to miss" in str(line) for line in run_cases(folder=tmp_path).lines())


def test_a_figure_that_constants_lean_on_is_marked(tmp_path: Path) -> None:
    write(tmp_path, claim={"seen": True})
    results = run_cases(folder=tmp_path)
    assert results.rows()[0]["seen"] is True
    assert any("lean on these figures (1)" in str(line) for line in results.lines())


def test_what_follows_from_the_inputs_is_counted_apart(tmp_path: Path) -> None:
    write(tmp_path, claim={"derived": True})
    write(tmp_path, name="other")
    results = run_cases(folder=tmp_path)
    assert {row["case"]: row["derived"] for row in results.rows()} == {"small": True, "other": False}
    lines = [str(line) for line in results.lines()]
    assert any("follow from the case's own inputs (1)" in line for line in lines)
    assert any(line.startswith("1 claims test a published figure that nothing here was made from: 1 within") for line in lines)
    assert any(line.startswith("2 claims of 2 cases: 2 within") for line in lines)


def test_worst_come_first(tmp_path: Path) -> None:
    write(tmp_path, claim={"vary": {"m": [1024, 1000, 10]}, "claimed": [2.0 * 1024**3] * 3, "tolerance": "5 %"})
    results = run_cases(folder=tmp_path)
    assert [r.claim.quantity for r in results.results] == ["FLOPs, m 10", "FLOPs, m 1000", "FLOPs, m 1024"]
    assert [r.error for r in results.results][2] == 0.0


def test_a_prediction_that_is_no_number_is_a_miss(tmp_path: Path) -> None:
    case = read_case(write(tmp_path))
    result = ClaimResult(case, case.claims[0], math.nan)
    assert result.verdict == "MISS"
    assert not CaseResults((result,)).all_within


def test_a_claim_without_torch_is_not_run_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import util

    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest))
    monkeypatch.setattr("presilicon.validate.cases.runner.find_spec", util.find_spec)
    write(tmp_path, {"workloads": {"step": {"kind": "model", "model": "gpt2"}}}, {"measure": "parameters"})
    results = run_cases(folder=tmp_path)
    assert [r.verdict for r in results.results] == ["not run"]
    assert any("torch" in str(line) for line in results.lines())


def test_absolute_tolerance_is_in_the_unit_of_the_measure(tmp_path: Path) -> None:
    base = {"measure": "decode_floor", "tolerance": None}
    document = {"workloads": {"gemm": {"kind": "matmul", "m": 1, "n": 8192, "k": 8192}}}
    floor = 8192 * 8192 * 2 / 2039e9
    write(tmp_path, document, base | {"claimed": f"{floor * 1e6 + 1:.6f} us", "tolerance_abs": "2 us"})
    assert run_cases(folder=tmp_path).all_within
    write(tmp_path, document, base | {"claimed": f"{floor * 1e6 + 3:.6f} us", "tolerance_abs": "2 us"})
    assert not run_cases(folder=tmp_path).all_within


def test_overrides_of_a_system_reach_the_measure(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {
            "systems": {"half": {"device": "a100-sxm-80gb", "set": {"dram.bandwidth": "1 TB/s"}}},
            "workloads": {"gemm": {"kind": "matmul", "m": 1, "n": 8192, "k": 8192}},
        },
        {"measure": "decode_floor", "claimed": "134.2 us"},
    )
    assert run_case(read_case(path))[0].predicted == pytest.approx(8192 * 8192 * 2 / 1e12)


def test_a_run_prints_nothing_and_repeats_itself(capfd: pytest.CaptureFixture[str]) -> None:
    first, second = run_cases(["marlin-ideal"]), run_cases(["marlin-ideal"])
    assert first.rows() == second.rows()
    assert capfd.readouterr() == ("", "")


def test_csv_holds_every_claim(tmp_path: Path) -> None:
    results = run_cases(["megatron-1t"])
    to_csv(results, tmp_path / "deep" / "out.csv")
    rows = list(csv.DictReader((tmp_path / "deep" / "out.csv").open(encoding="utf-8")))
    assert len(rows) == len(results.results)
    assert {row["verdict"] for row in rows} == {"within"}
    assert float(next(row for row in rows if row["quantity"] == "parameters")["predicted"]) == pytest.approx(
        1.008e12, rel=1e-3
    )


def test_names_with_markup_are_printed_as_they_are(tmp_path: Path) -> None:
    from io import StringIO

    from rich.console import Console

    write(tmp_path, claim={"quantity": "FLOPs [/red] [bold]"})
    console = Console(file=StringIO(), width=200)
    for line in run_cases(folder=tmp_path).lines():
        console.print(line)
    assert "FLOPs [/red] [bold]" in console.file.getvalue()  # type: ignore[attr-defined]


# ---- bad input

CLAIM: dict[str, tuple[dict[str, Any], str]] = {
    "unknown measure": (
        {"measure": "matmul_flop"},
        r"claims\[0\]\.measure: unknown measure 'matmul_flop'; did you mean 'matmul_flops'",
    ),
    "unknown key": ({"tolerence": 1}, r"claims\[0\]: unknown key 'tolerence'; did you mean 'tolerance'"),
    "no claimed value": ({"claimed": None}, r"claims\[0\]: claimed: missing"),
    "claimed text": ({"claimed": "fast"}, r"claims\[0\]\.claimed: .*'fast'"),
    "claimed of another unit": (
        {"measure": "decode_floor", "claimed": "3 GB"},
        r"claims\[0\]\.claimed: expected a quantity in s",
    ),
    "claimed true": ({"claimed": True}, r"claims\[0\]\.claimed"),
    "no tolerance": ({"tolerance": None}, r"claims\[0\]: give either tolerance"),
    "two tolerances": ({"tolerance_abs": 1}, r"claims\[0\]: give either tolerance"),
    "negative tolerance": ({"tolerance": -0.1}, r"claims\[0\]\.tolerance: expected 0 or more, found -0.1"),
    "not a number as tolerance": ({"tolerance": float("nan")}, r"claims\[0\]\.tolerance"),
    "unknown workload": (
        {"with": {"graph": "gem"}},
        r"claims\[0\]\.with\.graph: unknown workload 'gem'; did you mean 'gemm'",
    ),
    "unknown argument": ({"with": {"q": 1}}, r"claims\[0\]\.with\.q: unknown argument of matmul_flops"),
    "unknown system": (
        {"measure": "decode_floor", "claimed": 1, "with": {"system": "a100"}},
        r"claims\[0\]\.with\.system: unknown system 'a100'; did you mean 'a100-sxm-80gb'",
    ),
    "changed size of 0": ({"with": {"m": 0}}, r"claims\[0\]\.with\.m: expected a whole number of 1 or more, found 0"),
    "changed size with a fraction": ({"with": {"m": 1.5}}, r"claims\[0\]\.with\.m: expected a whole number"),
    "vary without a list": ({"vary": {"m": 5}}, r"claims\[0\]\.claimed: expected a list"),
    "vary of another length": (
        {"vary": {"m": [1, 2, 3]}, "claimed": [1, 2]},
        r"claims\[0\]\.vary\.m: expected a list of 2 values",
    ),
    "argument missing": (
        {"measure": "time_at_rate", "claimed": 1},
        r"claims\[0\]\.with: rate: missing; measure time_at_rate needs a quantity in FLOP/s",
    ),
    "argument of another unit": (
        {"measure": "time_at_rate", "claimed": 1, "with": {"rate": "5 GB/s"}},
        r"claims\[0\]\.with\.rate: expected a quantity in FLOP/s",
    ),
    "expected miss without a reason": ({"expected": "miss"}, r"claims\[0\]: note: missing"),
    "seen that is no flag": ({"seen": "yes"}, r"claims\[0\]\.seen: expected true or false, found 'yes'"),
    "derived that is no flag": ({"derived": 1}, r"claims\[0\]\.derived: expected true or false, found 1"),
    "unknown expectation": (
        {"expected": "misses", "note": "x"},
        r"claims\[0\]\.expected: unknown expectation 'misses'; did you mean 'miss'",
    ),
}
CASE: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"claim": []}, r"small\.yaml: unknown key 'claim'; did you mean 'claims'"),
    "another name": ({"name": "smaller"}, r"small\.yaml: name: 'smaller' differs from the file's name, 'small'"),
    "no title": ({"title": None}, r"small\.yaml: title: missing"),
    "no source": ({"source": None}, r"small\.yaml: source: missing"),
    "no claims": ({"claims": []}, r"small\.yaml: claims: expected a list of one claim or more"),
    "a claim that is a text": ({"claims": ["fast"]}, r"claims\[0\]: expected a mapping, found 'fast'"),
    "unknown device": (
        {"systems": ["a100-sxm-80g"]},
        r"systems\.a100-sxm-80g: unknown system 'a100-sxm-80g'; did you mean .*'a100-sxm-80gb'",
    ),
    "override of nothing": (
        {"systems": {"x": {"device": "l4", "set": {"gpu.sm.counts": 1}}}},
        r"systems\.x: .*gpu\.sm\.counts.*did you mean",
    ),
    "override of another unit": (
        {"systems": {"x": {"device": "l4", "set": {"dram.bandwidth": "1 GHz"}}}},
        r"systems\.x: .*dram\.bandwidth",
    ),
    "unknown key of a system": (
        {"systems": {"x": {"device": "l4", "sets": {}}}},
        r"systems\.x: unknown key 'sets'; did you mean 'set'",
    ),
    "device file that is absent": (
        {"systems": {"x": "systems/none.yaml"}},
        r"systems\.x: .*none\.yaml: cannot be read",
    ),
    "unknown kind": (
        {"workloads": {"gemm": {"kind": "matmull"}}},
        r"workloads\.gemm\.kind: unknown workload kind 'matmull'; did you mean 'matmuls?'",
    ),
    "no kind": ({"workloads": {"gemm": {"m": 1}}}, r"workloads\.gemm: kind: missing"),
    "unknown argument of a kind": (
        {"workloads": {"gemm": {"kind": "matmul", "m": 1, "n": 1, "k": 1, "kk": 1}}},
        r"workloads\.gemm: unknown key 'kk'",
    ),
    "size missing": (
        {"workloads": {"gemm": {"kind": "matmul", "m": 1, "n": 1}}},
        r"workloads\.gemm: k: missing; workload kind matmul needs a whole number",
    ),
    "unknown format": (
        {"workloads": {"gemm": {"kind": "matmul", "m": 1, "n": 1, "k": 1, "w": "fp17"}}},
        r"workloads\.gemm\.w: unknown number format 'fp17'.*'fp1",
    ),
    "format with an unknown key": ({"formats": {"f": {"bits": 4}}}, r"formats\.f: unknown key 'bits'"),
    "format of negative bits": (
        {"formats": {"f": {"element_bits": -4, "arithmetic": "fp16"}}},
        r"formats\.f\.element_bits: expected 0 or more, found -4",
    ),
    "format of an unknown execution": (
        {"formats": {"f": {"element_bits": 4, "arithmetic": "fp16", "execution": "magic"}}},
        r"formats\.f\.execution: unknown execution 'magic'",
    ),
    "density above 1": (
        {"workloads": {"gemm": {"kind": "matmul", "m": 1, "n": 1, "k": 1, "density": 2.0}}},
        r"claims\[0\] \(FLOPs\): density: expected more than 0 and at most 1, found 2",
    ),
    "unknown model": (
        {"workloads": {"step": {"kind": "model", "model": "gpt22"}}},
        r"claims\[0\] \(FLOPs\): .*unknown model 'gpt22'; did you mean 'gpt2'",
    ),
}


@pytest.mark.parametrize("what", sorted(CLAIM))
def test_a_bad_claim_names_its_place(tmp_path: Path, what: str) -> None:
    change, message = CLAIM[what]
    path = write(tmp_path, claim=change)
    with pytest.raises(CaseError, match=message) as caught:
        run_cases(folder=tmp_path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("what", sorted(CASE))
def test_a_bad_case_names_its_place(tmp_path: Path, what: str) -> None:
    change, message = CASE[what]
    path = write(tmp_path, change)
    with pytest.raises(CaseError, match=message) as caught:
        run_cases(folder=tmp_path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "not valid YAML"),
        ("- a\n- b\n", "expected a mapping"),
        ("", "the file is empty"),
        ("name: a\nname: b\n", "written twice"),
        ("name: !!python/object/apply:os.system [echo]\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_case(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "broken.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(CaseError, match=rf"broken\.yaml.*{re.escape(message)}"):
        run_cases(folder=tmp_path)


def test_an_unknown_case_names_the_nearest() -> None:
    with pytest.raises(CaseError, match="unknown case 'marlin-idea'; did you mean 'marlin-ideal'"):
        run_cases(["marlin-idea"])


def test_a_folder_without_cases(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="holds no case file"):
        run_cases(folder=tmp_path)
    with pytest.raises(CaseError, match="not a folder"):
        run_cases(folder=tmp_path / "none")


def test_a_bad_file_stops_the_run_before_anything_is_computed(tmp_path: Path) -> None:
    write(tmp_path, name="first")
    write(tmp_path, {"title": None}, name="second")
    with pytest.raises(CaseError, match=r"second\.yaml: title"):
        run_cases(folder=tmp_path)
    assert run_cases(["first"], tmp_path).all_within


def test_a_csv_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        to_csv(run_cases(["megatron-1t"]), tmp_path / "file" / "out.csv")


def test_the_command_exits_with_1_on_a_miss(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from presilicon.cli import app

    write(tmp_path)
    assert CliRunner().invoke(app, ["cases", "--folder", str(tmp_path)]).exit_code == 0
    write(tmp_path, claim={"claimed": 1.0})
    shown = CliRunner().invoke(app, ["cases", "--folder", str(tmp_path), "-o", str(tmp_path / "out.csv")])
    assert shown.exit_code == 1
    assert "MISS" in shown.output
    assert (tmp_path / "out.csv").is_file()
