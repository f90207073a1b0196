"""Instructions, control words, registers, basic blocks and loops of real listings."""

from __future__ import annotations

import itertools
import re
from types import ModuleType

import pytest

from presilicon.errors import KernelError
from presilicon.mapping.triton import Control, Instruction, Program, compile_launch, control_flow, parse_listing, take_apart
from presilicon.mapping.triton.sass import register_name


def _names(numbers: tuple[int, ...]) -> set[str]:
    return {register_name(n) for n in numbers}


def _all(program: Program, base: str) -> list[Instruction]:
    return [i for i in program.listing.instructions if i.base == base]


@pytest.fixture(scope="module")
def gemm(lab: ModuleType) -> dict[int, Program]:
    """The GEMM of the tests, by target, in shapes that keep cp.async."""
    tiles = {80: (128, 128, 32), 90: (128, 256, 64), 100: (128, 256, 64)}
    return {cc: take_apart(compile_launch(lab.matmul(8192, 8192, 8192, cc, *tile))) for cc, tile in tiles.items()}


def test_control_word() -> None:
    assert Control.decode(0x000FE200078E00FF) == Control(1, False, None, None, 0, 0)
    assert Control.decode(0x000E620000002500) == Control(1, False, 1, None, 0, 0)
    built = 8 | 0 << 4 | 2 << 5 | 3 << 8 | 0b100101 << 11 | 0b0010 << 17
    assert Control.decode(built << 41) == Control(8, True, 2, 3, 0b100101, 0b0010)


def test_every_line_is_read(gemm: dict[int, Program]) -> None:
    for program in gemm.values():
        code = program.listing.instructions
        assert [i.address for i in code] == [16 * n for n in range(len(code))]
        assert len(program.compiled.cubin) > 16 * len(code)
        assert all(i.encoding.to_bytes(16, "little") in program.compiled.cubin for i in code[:50])
        assert all(0 <= i.control.stall < 16 and i.control.write_barrier in (None, *range(6)) for i in code)
        lines = {i.source.line for i in code if i.source}
        assert len(lines) > 10
        assert {i.source.file for i in code if i.source} == {program.compiled.source_file}, "library lines belong to their caller"


def test_control_words_in_words_are_no_operands(gemm: dict[int, Program]) -> None:
    plain = gemm[100].compiled.sass
    # as nvdisasm of CUDA 12.8 writes them behind the instructions of sm_120
    said = ("  &wr=0x0  ?trans1;", "  &req={0,1} &rd=0x2  ?WAIT12_END_GROUP;", "  ?trans5;")
    turns = itertools.cycle(said)
    words = re.sub(r" ;(?=\s+/\* 0x)", lambda _: next(turns), plain)
    assert words.count("?") > 100
    assert parse_listing(words) == parse_listing(plain)


def test_what_sm_80_listings_are_known_to_say(gemm: dict[int, Program]) -> None:
    program = gemm[80]
    (loop,) = program.flow.loops
    body = [i for b in sorted(loop.blocks) for i in program.flow.blocks[b].instructions]
    hmma = [i for i in body if i.base == "HMMA"]
    assert {i.opcode for i in hmma} == {"HMMA.16816.F32.BF16"}
    assert len(hmma) == 128 * 128 * 32 // (16 * 8 * 16) // 8
    back_to_back = [one for one, two in itertools.pairwise(body) if one.base == two.base == "HMMA"]
    assert {i.control.stall for i in back_to_back} == {8}, "2,048 MACs at 256 a cycle and sub-core"
    assert {len(i.reads) for i in hmma} <= {8, 9, 10}
    assert all(len(i.writes) == 4 for i in hmma)
    copies = [i for i in body if i.base == "LDGSTS"]
    assert copies
    assert all(i.control.write_barrier is None and i.control.read_barrier is not None for i in copies)
    fragments = [i for i in body if i.base == "LDSM"]
    assert all(len(i.writes) == 4 for i in fragments)
    assert {i.control.write_barrier for i in fragments} - {None}, "the last of a run carries the barrier"
    waits = [i for i in body if i.base == "DEPBAR"]
    assert waits
    assert waits[0].operands[0] == "SB0"
    assert loop.depth == 1
    assert loop.parent is None
    assert not loop.waits


def test_what_sm_90_listings_are_known_to_say(gemm: dict[int, Program]) -> None:
    hgmma = _all(gemm[90], "HGMMA")
    assert {i.modifiers[0] for i in hgmma} == {"64x256x16"}
    assert all(i.control.stall <= 3 or i is hgmma[-1] for i in hgmma[:3])
    assert all(len(i.writes) == 128 for i in hgmma)
    assert "gsb0" in hgmma[-1].operands


def test_what_sm_100_listings_are_known_to_say(gemm: dict[int, Program]) -> None:
    program = gemm[100]
    utc = _all(program, "UTCHMMA")
    assert len(utc) == 8, "four in the peeled trip, four in the loop"
    assert all(not i.writes for i in utc)
    assert any(loop.waits for loop in program.flow.loops), "mbarrier waits spin"
    (main,) = [loop for loop in program.flow.loops if loop.depth == 1 and not loop.waits]
    assert any(loop.parent == main.header for loop in program.flow.loops)
    assert all(len(i.writes) == 128 for i in _all(program, "LDTM"))


def test_registers_of_single_instructions() -> None:
    text = "\n".join(["\t.section\t.text.k", ".text.k:", *(
        f"        /*{16 * n:04x}*/                   {line} ;   /* 0x{n:016x} */\n   /* 0x000fe20000000f00 */" for n, line in enumerate([
            "IMAD.WIDE.U32 R10, R4.reuse, 0x2, R6", "IADD3 R18, P4, R161, UR6, RZ", "IADD3.X R5, PT, PT, R1, R2, RZ, P0, P1",
            "@!P1 STG.E.128 desc[UR14][R4.64+0x10], R60", "LDG.E.64 R2, desc[UR4][R6.64]", "ISETP.GE.AND P3, PT, R147, UR4, !P2",
            "LDS.128 R32, [R55+UR5]", "VOTEU.ANY UP0, P2", "SHFL.IDX PT, R0, R164, RZ, 0x1f", "ELECT P1, URZ, PT",
            "UTMALDG.2D [UR8], [UR6]", "ATOMG.E.ADD.F32.FTZ.RN.STRONG.GPU PT, R5, desc[UR4][R2.64], R7", "CS2R R38, SRZ",
            "HGMMA.64x8x16.F32.BF16 R24, gdesc[UR8], R24", "BRA `(.L_x_0)", "LOP3.LUT P0, RZ, R4, 0x1, RZ, 0xc0, !PT"])),
        ".L_x_0:"])
    listing = parse_listing(text)
    found = [(_names(i.reads), _names(i.writes)) for i in listing.instructions]
    assert found == [
        ({"R4", "R6", "R7"}, {"R10", "R11"}), ({"R161", "UR6"}, {"R18", "P4"}), ({"R1", "R2", "P0", "P1"}, {"R5"}),
        ({"UR14", "UR15", "R4", "R5", "R60", "R61", "R62", "R63", "P1"}, set()), ({"UR4", "UR5", "R6", "R7"}, {"R2", "R3"}),
        ({"R147", "UR4", "P2"}, {"P3"}), ({"R55", "UR5"}, {"R32", "R33", "R34", "R35"}), ({"P2"}, {"UP0"}), ({"R164"}, {"R0"}),
        (set(), {"P1"}), ({"UR8", "UR9", "UR10", "UR11", "UR6", "UR7"}, set()), ({"UR4", "UR5", "R2", "R3", "R7"}, {"R5"}),
        (set(), {"R38", "R39"}), ({"UR8", "UR9", "UR10", "UR11", "R24", "R25", "R26", "R27"}, {"R24", "R25", "R26", "R27"}),
        (set(), set()), ({"R4"}, {"P0"})]
    branch = listing.instructions[14]
    assert branch.target == 16 * 16
    guarded = listing.instructions[3]
    assert (register_name(guarded.guard or 0), guarded.guard_negated) == ("P1", True)
    assert str(guarded).startswith("@!P1 STG.E.128 ")


def test_blocks_partition_the_code_and_edges_join_them(gemm: dict[int, Program]) -> None:
    for program in gemm.values():
        flow = program.flow
        assert [i for block in flow.blocks for i in block.instructions] == list(program.listing.instructions)
        assert flow.graph.number_of_nodes() == len(flow.blocks)
        for one, other in flow.edges:
            last = flow.blocks[one].instructions[-1]
            if last.base != "RET":
                assert flow.blocks[other].start in (last.target, flow.blocks[one].end)


def test_nested_loops_and_calls(lab: ModuleType) -> None:
    program = take_apart(compile_launch(lab.strided_copy(70, 90, 104, 90)))
    calls = _all(program, "CALL")
    returns = _all(program, "RET")
    assert calls
    assert returns
    flow = control_flow(program.listing)
    back = flow.block_of[returns[0].index]
    assert {flow.blocks[b].start for b in flow.graph.successors(back)} == {c.address + 16 for c in calls}


def test_bad_listings() -> None:
    with pytest.raises(KernelError, match="no instruction in it"):
        parse_listing("hello")
    with pytest.raises(KernelError, match="no second half"):
        parse_listing("        /*0000*/                   NOP ;   /* 0x0000000000007918 */\n")
    with pytest.raises(KernelError, match="names a label that is not there"):
        parse_listing("        /*0000*/     BRA `(.L_x_9) ;   /* 0x0000000000007918 */\n   /* 0x000fe20000000f00 */")
