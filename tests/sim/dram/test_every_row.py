"""Every constraint row of every shipped device, by single commands: the earliest legal cycle of each command behind each other one."""

from __future__ import annotations

import re

import pytest

from presilicon.arch import dram
from presilicon.arch.dram import LEVELS, DramDevice
from presilicon.sim.dram.engine import Channel

#: Timings that no row names, and where they stand instead.
ELSEWHERE = {
    "tREFI": "interval of the refresh", "tREFIpb": "interval of the refresh of one bank", "tRTP_S": "AttAcc: tRTP is tRTP_L, the longer",
}
NAMES = [name for name in dram.names() if dram.load(name).commands and dram.load(name).rules]


def _nodes(device: DramDevice, name: str, bank: int, level: str) -> set[int]:
    org = device.organisation
    inside = org.banks_per_channel // org.nodes[LEVELS.index(level)]
    return {found // inside for found in device.addressed(name, bank)}


def _expected(device: DramDevice, first: str, second: str, bank: int) -> int:
    """From the rows alone: the longest of those that name both commands and have a node in common."""
    return max([device.expand(rule.cycles) for rule in device.rules
                if rule.window == 1 and first in rule.after and second in rule.before
                and _nodes(device, first, 0, rule.level) & _nodes(device, second, bank, rule.level)], default=0)


@pytest.mark.parametrize("name", NAMES)
def test_each_command_waits_as_long_as_the_rows_say_behind_each_other(name: str) -> None:
    device = dram.load(name)
    org = device.organisation
    # The same bank, one of its group, of another group, of another rank and pseudo-channel, where there are any.
    inner = org.bank_groups * org.banks
    banks = sorted({0, org.banks - 1, inner - 1, org.ranks * inner - 1, org.banks_per_channel - 1})
    seen = 0
    for first in device.commands:
        channel = Channel(device)
        channel.issue(first.name, cycle=1000, row=1)
        for second in device.commands:
            for bank in banks:
                cycles = _expected(device, first.name, second.name, bank)
                assert channel.earliest(second.name, bank) == (1000 + cycles if cycles > 0 else 0), (first.name, second.name, bank)
                seen += cycles > 0
    assert seen > 0


@pytest.mark.parametrize("name", NAMES)
def test_windows_count_commands_and_not_pairs(name: str) -> None:
    device = dram.load(name)
    for rule in device.rules:
        if rule.window == 1:
            continue
        (command,) = rule.after
        channel = Channel(device)
        per_node = device.organisation.banks_per_channel // device.organisation.nodes[LEVELS.index(rule.level)]
        banks = sorted(range(per_node), key=lambda bank: (bank % device.organisation.banks, bank))[:rule.window + 1]
        if len({*banks}) <= rule.window:
            continue
        for bank in banks[:-1]:
            last = max(channel.earliest(command, bank), 100)
            channel.issue(command, cycle=last, bank=bank, row=0)
        alone = Channel(device)
        alone.issue(command, cycle=last, bank=banks[-2], row=0)
        assert channel.earliest(command, banks[-1]) == max(100 + device.expand(rule.cycles), alone.earliest(command, banks[-1]))


@pytest.mark.parametrize("name", NAMES)
def test_no_timing_of_a_file_is_idle(name: str) -> None:
    device = dram.load(name)
    texts = [rule.cycles for rule in device.rules] + [command.latency for command in device.commands]
    used = {word for text in texts for word in re.findall(r"t[A-Z]\w*", text)} | {*ELSEWHERE, *device.power_limit}
    for refresh in (device.refresh, device.refresh_bank):
        used |= {refresh.interval, refresh.duration} if refresh is not None else set()
    idle = sorted(set(device.timings) - used)
    assert not idle, f"{name}: no constraint row uses {idle}"
