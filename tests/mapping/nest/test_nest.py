"""Rules of a nest and of a hierarchy's file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from presilicon.arch.hierarchy import FOLDER, Fanout, Hierarchy, Memory, hierarchy_from_document, load_hierarchy
from presilicon.errors import MappingError, PresiliconError, SpecError, UnknownNameError
from presilicon.mapping.nest import Keep, Loop, Mapping, Spatial, evaluate, matmul, problem

HIERARCHY = Hierarchy("two", (Memory("dram"), Memory("buffer", 64.0), Fanout("array", {"x": 4}), Memory("regs", 64.0)), 1.0, 1e9)
KEEPS = [Keep(t, level) for level in ("buffer", "regs") for t in "IWO"]


def nest(*nodes: object) -> Mapping:
    return Mapping(tuple(nodes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (nest(*KEEPS, Loop("m", 2)), "the factors of m multiply to 2; its extent is 4"),
        (nest(*KEEPS[:-1], Loop("m", 4)), "regs keeps every output; say where it keeps O"),
        (nest(*KEEPS, Loop("z", 2)), "unknown dimension 'z'"),
        (nest(Keep("I", "cache")), "unknown memory 'cache'"),
        (nest(Keep("A", "regs")), "unknown tensor 'A'"),
        (nest(Keep("I", "regs"), Keep("I", "buffer")), "buffer stands below regs"),
        (nest(Keep("I", "regs"), Keep("I", "regs")), "kept in regs twice"),
        (nest(Spatial("m", 2, "array", "x"), Keep("I", "buffer")), "buffer stands below"),
        (nest(Keep("I", "regs"), Spatial("m", 2, "array", "x")), "array stands above regs"),
        (nest(Spatial("m", 8, "array", "x")), "array.x has 4 instances; the loops on it need 8"),
        (nest(Spatial("m", 2, "array", "y")), "unknown axis 'y'"),
        (nest(Spatial("m", 2, "grid", "x")), "unknown fanout 'grid'"),
        (nest(Loop("m", 0)), "expected an integer of 1 or more, found 0"),
        (nest(Loop("m", 4), Keep("I", "dram")), "no loop stands above it"),
    ],
)
def test_bad_nests_say_where(mapping: Mapping, message: str) -> None:
    with pytest.raises((MappingError, UnknownNameError), match=message):
        evaluate(mapping, problem(matmul(4, 1, 1), HIERARCHY))


def test_spreading_a_reduction_needs_a_fanout_that_adds() -> None:
    levels = (Memory("dram"), Fanout("array", {"x": 4}, reduction=False), Memory("regs", 64.0))
    mapping = nest(Spatial("k", 4, "array", "x"), *KEEPS[3:])
    with pytest.raises(MappingError, match="array cannot add partial sums; k"):
        evaluate(mapping, problem(matmul(1, 1, 4), Hierarchy("h", levels, 1.0, 1e9)))


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ((), "expected a memory that backs every tensor first, found no level at all"),
        ((Fanout("a", {"x": 2}), Memory("m")), "found the fanout 'a'"),
        ((Memory("m", 4.0),), "m: the first memory backs every tensor"),
        ((Memory("m"), Memory("m", 4.0)), "the name 'm' is used 2 times"),
        ((Memory("m"), Memory("r", 0.0)), "r: size: expected a finite number above 0, found 0.0"),
        ((Memory("m"), Memory("r", -4.0)), "found -4.0"),
        ((Memory("m"), Memory("r", 4.0, -1.0)), "r: read_energy: expected a finite number of 0 or more"),
        ((Memory("m"), Memory("r", 4.0, keeps=())), "r: keeps: empty"),
        ((Memory("m"), Memory("r", 4.0, keeps=("sums",))), "unknown tensor class 'sums'"),  # type: ignore[arg-type]
        ((Memory("m"), Memory("r", 4.0, buffers=3)), "buffers: expected 1, or 2"),
        ((Memory("m"), Memory("r", 4.0, 0, 0, 8.0, 8.0)), "give either bandwidth"),
        ((Memory("m"), Fanout("a", {})), "a: axes: empty"),
        ((Memory("m"), Fanout("a", {"x": 0})), "axes.x: expected an integer of 1 or more, found 0"),
    ],
)
def test_bad_hierarchies_say_where(levels: tuple[Memory | Fanout, ...], message: str) -> None:
    with pytest.raises((SpecError, UnknownNameError), match=message):
        Hierarchy("h", levels, 1.0, 1e9)


def document() -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load((FOLDER / "mapbench-16.yaml").read_text())
    return found


def changed(path: str, value: object) -> dict[str, object]:
    """The shipped file with one entry replaced, or removed (None)."""
    whole = document()
    node: object = whole
    *steps, last = path.split("/")
    for step in steps:
        node = node[int(step) if step.isdigit() else step]  # type: ignore[index]
    if value is None:
        del node[last]  # type: ignore[attr-defined]
    else:
        node[int(last) if last.isdigit() else last] = value  # type: ignore[index]
    return whole


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("levels/1/size", "512 KiB", r"levels\.1\.size: write \{value: '512 KiB', source"),
        ("levels/1/size", {"value": "512 KiB"}, r"levels\.1\.size\.source: missing"),
        ("levels/1/size", {"value": "512 pJ", "source": "x"}, r"levels\.1\.size: unknown unit|levels\.1\.size: expected"),
        ("levels/1/sise", {"value": 1, "source": "x"}, "unknown key 'sise'; did you mean 'size'"),
        ("levels/1/read_energy", None, r"levels\.1\.read_energy: missing"),
        ("levels/1/memory", None, "expected either 'memory: NAME' or 'fanout: NAME'"),
        ("levels/2/axes/x", {"value": 2.5, "source": "x"}, "expected a whole number, found 2.5"),
        ("levels/2/multicast", {"value": "yes", "source": "x"}, "expected true or false, found 'yes'"),
        ("mac", None, "mac: missing"),
        ("clock", {"value": "1 s", "source": "x"}, "clock: expected"),
        ("colour", "red", "unknown key 'colour'"),
    ],
)
def test_bad_files_say_where(path: str, value: object, message: str) -> None:
    with pytest.raises(PresiliconError, match=message):
        hierarchy_from_document(changed(path, value))


def test_files_and_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(document()))
    assert load_hierarchy(path) == load_hierarchy("mapbench-16")
    with pytest.raises(UnknownNameError, match="did you mean 'mapbench-16'"):
        load_hierarchy("mapbench-61")
    with pytest.raises(SpecError, match="cannot be read"):
        load_hierarchy(tmp_path / "none.yaml")
    path.write_text(yaml.safe_dump(changed("clock", None)))
    with pytest.raises(SpecError, match=r"mine\.yaml: clock: missing"):
        load_hierarchy(str(path))


def test_every_number_of_a_shipped_file_has_its_source() -> None:
    origins = load_hierarchy("mapbench-16").provenance
    assert len(origins) == 21
    assert all(origin.source for origin in origins.values())
