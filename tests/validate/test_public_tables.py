"""Public tables of GPU operators become op tables."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

pd = pytest.importorskip("pandas")

from presilicon.errors import TableError  # noqa: E402
from presilicon.validate.accuracy import find_tables  # noqa: E402
from presilicon.validate.public_tables import main, read_public, sampled  # noqa: E402

ROOT = "aiconfigurator/systems/data/"
GEMM = "framework,version,device,op_name,kernel_source,gemm_dtype,m,n,k,latency\n"


def wheel(folder: Path, files: dict[str, str]) -> Path:
    path = folder / "tables-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return wheel(tmp_path, {
        ROOT + "h100_sxm/sglang/0.5.8/gemm_perf.txt": GEMM
        + "SGLang,0.5.8,NVIDIA H100,gemm,sglang,float16,128,256,512,0.005\n"
        + "SGLang,0.5.8,NVIDIA H100,gemm,sglang,float16,128,256,512,0.006\n"   # the same shape again
        + "SGLang,0.5.8,NVIDIA H100,gemm,sglang,sq,128,256,512,0.006\n",       # a format of theirs alone
        ROOT + "h100_sxm/vllm/0.12.0/gemm_perf.txt": GEMM + "VLLM,0.12.0,NVIDIA H100,gemm,vllm_default,fp8,128,256,512,0.004\n",
        ROOT + "h100_sxm/nccl/2.27.3/nccl_perf.txt":
            "nccl_dtype,num_gpus,message_size,latency,kernel_source,op_name\nhalf,8,1024,0.01,NCCL,alltoall\n",
        ROOT + "h100_sxm/sglang/0.5.6.post2/moe_perf.txt": "framework,version,latency\nSGLang,0.5.6.post2,1\n",   # known to be broken
        ROOT + "h100_sxm/nccl/2.23/nccl_perf.txt":
            "nccl_dtype,num_gpus,message_size,latency,kernel_source,op_name\nhalf,8,2048,0.02,NCCL,alltoall\n",
        ROOT + "h100_sxm/sglang/0.5.8/mla_bmm_perf.txt": "framework,latency\nSGLang,1\n",
        "aiconfigurator/cli.py": "",
    })


def test_tables_of_all_frameworks_are_one_table_in_seconds(small: Path) -> None:
    found = {(gpu, kind): frame for gpu, kind, frame in read_public(small)}
    assert set(found) == {("h100_sxm", "gemm"), ("h100_sxm", "nccl")}
    gemm = found["h100_sxm", "gemm"]
    assert sorted(zip(gemm.framework, gemm.gemm_dtype, gemm.latency_s, strict=True)) == [("sglang", "float16", 5e-6), ("vllm", "fp8", 4e-6)]
    nccl = found["h100_sxm", "nccl"]
    assert nccl[["framework", "version", "operation"]].to_numpy().tolist() == [["nccl", "2.27.3", "all_to_all"]]


def test_what_is_written_are_op_tables(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(small, tmp_path / "out")
    assert "h100_sxm.gemm.csv: 2 of 2 rows" in capsys.readouterr().out
    tables = find_tables(tmp_path / "out")
    assert [(table.kind.name, system.name) for table, system in tables] == [("gemm", "h100-sxm"), ("collective", "h100-sxm")]


def test_later_releases_hold_tables_by_area_as_parquet(tmp_path: Path) -> None:
    rows = [{"framework": "SGLang", "version": "0.5.14", "device": "NVIDIA H100", "op_name": "gdn", "kernel_source": "causal_conv1d_fn",
             "batch_size": 2, "seq_len": n, "latency": n * 1e-3} for n in (1, 2)]
    pd.DataFrame(rows).to_parquet(tmp_path / "gdn.parquet")
    path = tmp_path / "core-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tmp_path / "gdn.parquet", "aiconfigurator_core/systems/data/h100_sxm/linear_attention/sglang/0.5.14/gdn_perf.parquet")
        archive.writestr("aiconfigurator_core/systems/data/h100_sxm/linear_attention/sglang/0.5.14/collection_meta.yaml", "")
    ((gpu, kind, frame),) = read_public(path)
    assert (gpu, kind) == ("h100_sxm", "gdn")
    assert frame[["framework", "version", "batch_size", "seq_len", "latency_s"]].to_numpy().tolist() == [
        ["sglang", "0.5.14", 2, 1, 1e-6], ["sglang", "0.5.14", 2, 2, 2e-6]]


def test_a_sample_keeps_every_class() -> None:
    frame = pd.DataFrame({"framework": ["a"] * 5000 + ["b"] * 100 + ["c"] * 10, "latency_s": range(5110)})
    counts = sampled(frame, 1000).framework.value_counts()
    assert counts.to_dict() == {"a": 978, "b": 60, "c": 10}
    assert sampled(frame, 6000) is frame


@pytest.mark.parametrize(("files", "said"), [({"x.py": ""}, "no tables in it"), (None, "can be read")])
def test_a_file_without_tables_is_refused(tmp_path: Path, files: dict[str, str] | None, said: str) -> None:
    path = wheel(tmp_path, files) if files else tmp_path / "none.whl"
    with pytest.raises(TableError, match=said):
        list(read_public(path))
