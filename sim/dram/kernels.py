"""The constraint engine and the in-order scheduler: plain functions on flat arrays, in Python as they stand or compiled.

State of a channel: `ready`, the earliest legal cycle of each command at each node, raised by every command that is issued
along the rows of the device; `rows`, the open row of each bank or -1; `ring`, the last issue cycles of rows with a window.
`tables` is what `Tables.packed` returns.
"""

from __future__ import annotations

from typing import Any, Final

#: Outcome of `row_state`.
HIT: Final = 0
CLOSED: Final = 1
CONFLICT: Final = 2
_NEVER: Final = -(1 << 40)


def earliest(command: int, bank: int, tables: Any, ready: Any, ring: Any, ring_at: Any, width: int, deepest: int) -> int:
    """First cycle at which every constraint row allows `command` to `bank`; `width` is the number of commands."""
    (align, modulo, _, _, node_count, node_stride, offset, banks_of, _, _, _, _, look_start, look_level, window_level, _,
     window_before, window_cycles, window_depth, _, _, _, _, _, _) = tables
    base = (bank - bank % align[command]) % modulo[command]
    cycle = 0
    for look in range(look_start[command], look_start[command + 1]):
        level = look_level[look]
        at = command * 5 + level
        node = offset[level] + base // banks_of[level]
        for _ in range(node_count[at]):
            found = ready[node * width + command]
            cycle = max(cycle, found)
            node += node_stride[at]
    for window in range(len(window_level)):
        if window_before[window] >> command & 1:
            level = window_level[window]
            at = command * 5 + level
            node = offset[level] + base // banks_of[level]
            nodes = len(ring_at) // len(window_level)
            for _ in range(node_count[at]):
                slot = window * nodes + node
                oldest = ring[slot * deepest + ring_at[slot] % window_depth[window]]
                cycle = max(cycle, oldest + window_cycles[window])
                node += node_stride[at]
    return cycle


def issue(command: int, bank: int, row: int, cycle: int, tables: Any, ready: Any, rows: Any, ring: Any, ring_at: Any,
          width: int, deepest: int) -> None:
    """Record `command` at `cycle`: raise what its rows hold back, and open or close rows."""
    (align, modulo, count, stride, node_count, node_stride, offset, banks_of, push_start, push_level, push_to, push_cycles, _,
     _, window_level, window_after, _, _, window_depth, _, effect, _, _, _, _) = tables
    base = (bank - bank % align[command]) % modulo[command]
    for push in range(push_start[command], push_start[command + 1]):
        level = push_level[push]
        at = command * 5 + level
        node = offset[level] + base // banks_of[level]
        free = cycle + push_cycles[push]
        for _ in range(node_count[at]):
            slot = node * width + push_to[push]
            ready[slot] = max(ready[slot], free)
            node += node_stride[at]
    for window in range(len(window_level)):
        if window_after[window] >> command & 1:
            level = window_level[window]
            at = command * 5 + level
            node = offset[level] + base // banks_of[level]
            nodes = len(ring_at) // len(window_level)
            for _ in range(node_count[at]):
                slot = window * nodes + node
                ring[slot * deepest + ring_at[slot] % window_depth[window]] = cycle
                ring_at[slot] += 1
                node += node_stride[at]
    if effect[command] > 0:
        value = row if effect[command] == 1 else -1
        for index in range(count[command]):
            rows[base + index * stride[command]] = value


def row_state(command: int, bank: int, row: int, tables: Any, rows: Any) -> int:
    """Of the banks that `command` addresses: HIT (all hold `row`), CLOSED (none holds one), or CONFLICT."""
    align, modulo, count, stride = tables[0], tables[1], tables[2], tables[3]
    base = (bank - bank % align[command]) % modulo[command]
    hits = closed = 0
    for index in range(count[command]):
        found = rows[base + index * stride[command]]
        if found == row:
            hits += 1
        elif found == -1:
            closed += 1
    if hits == count[command]:
        return 0
    return 1 if closed == count[command] else 2


def first_closed(command: int, bank: int, row: int, tables: Any, rows: Any) -> int:
    """First closed bank of those that a command addresses, where all others are open at the row; -1 where one is open at another."""
    align, modulo, count, stride = tables[0], tables[1], tables[2], tables[3]
    base = (bank - bank % align[command]) % modulo[command]
    found = -1
    for index in range(count[command]):
        at = base + index * stride[command]
        if rows[at] == -1:
            if found < 0:
                found = at
        elif rows[at] != row:
            return -1
    return found


def refresh_now(base: int, refresh: int, closer: int, due: int, now: int, tables: Any, ready: Any, rows: Any, ring: Any,
                ring_at: Any, width: int, deepest: int, issued: int, out_cycle: Any, out_command: Any, out_bank: Any,
                out_row: Any) -> int:
    """Refresh the banks that the command addresses at `base`, closed first where open; returns the commands issued so far."""
    if row_state(closer, base, -2, tables, rows) != 1:
        cycle = max(earliest(closer, base, tables, ready, ring, ring_at, width, deepest), now + 1, due)
        issue(closer, base, -1, cycle, tables, ready, rows, ring, ring_at, width, deepest)
        out_cycle[issued], out_command[issued], out_bank[issued], out_row[issued] = cycle, closer, base, -1
        issued += 1
        now = cycle
    cycle = max(earliest(refresh, base, tables, ready, ring, ring_at, width, deepest), now + 1, due)
    issue(refresh, base, -1, cycle, tables, ready, rows, ring, ring_at, width, deepest)
    out_cycle[issued], out_command[issued], out_bank[issued], out_row[issued] = cycle, refresh, base, -1
    return issued + 1


def in_order(commands: Any, banks: Any, row_of: Any, waits: Any, sends: Any, left: Any, depth: int, tables: Any, ready: Any,
             rows: Any, ring: Any, ring_at: Any, width: int, deepest: int, switch: int, start_mode: int, refresh: int,
             refresh_closer: int, interval: int, rotate: int, start: int, out_cycle: Any, out_command: Any, out_bank: Any,
             out_row: Any) -> int:
    """Play requests strictly in order, each with the commands that it needs first.

    A request goes no earlier than `waits` cycles after the request before it, nor than the host has sent it: `sends` cycles
    after it sent the one before, once fewer than `depth` (0: no limit) wait; `left` is room for as many cycles. Where a
    command belongs to another mode than the device is in, the mode switch takes its place. From each multiple of `interval`
    on (0: never), a refresh goes first, of all nodes of its scope, or of one after the other with `rotate`; but a row in work
    is finished before, as JEDEC allows, for up to eight intervals.

    Returns the number of commands issued, or -1 where the output arrays are too short.
    """
    align, modulo, count = tables[0], tables[1], tables[2]
    needs, opener, closer, bus, mode = tables[19], tables[21], tables[22], tables[23], tables[24]
    issued = 0
    now_row, now_column, last = start - 1, start - 1, start
    current, due = start_mode, start + interval
    turn, sent = 0, start
    step = align[refresh] if interval > 0 else 1
    parts = modulo[refresh] // step if interval > 0 else 1
    for index in range(len(commands)):
        final, bank, row = commands[index], banks[index], row_of[index]
        floor = last + waits[index]
        if depth > 0:
            sent = max(sent + sends[index], floor if waits[index] > 0 else sent)
            if index >= depth:
                sent = max(sent, left[index % depth] + 1)
            floor = max(floor, sent)
        while True:
            if issued + 2 * parts + 2 > len(out_cycle):
                return -1
            command, at = final, bank
            if needs[final] == 1:
                state = row_state(final, bank, row, tables, rows)
                if state == 1:
                    command = opener[final]
                elif state == 2:
                    command = closer[final]
                    if count[opener[final]] < count[final]:  # the opener opens a part of what the command addresses
                        closed = first_closed(final, bank, row, tables, rows)
                        if closed >= 0 and row_state(opener[final], closed, row, tables, rows) == 1:
                            command, at = opener[final], closed
            free = now_row if bus[command] == 0 else now_column
            cycle = max(earliest(command, at, tables, ready, ring, ring_at, width, deepest), free + 1, floor)
            in_row = needs[final] == 1 and command == final
            if interval > 0 and cycle >= due and (not in_row or cycle >= due + 8 * interval):
                first, after = (turn, turn + 1) if rotate > 0 else (0, parts)
                for part in range(first, after):
                    issued = refresh_now(part * step, refresh, refresh_closer, due, max(now_row, now_column), tables, ready,
                                         rows, ring, ring_at, width, deepest, issued, out_cycle, out_command, out_bank, out_row)
                    now_row = now_column = out_cycle[issued - 1]
                turn = (turn + 1) % parts
                due += interval
                continue
            if mode[final] > 0 and mode[final] != current and switch >= 0:
                current = mode[final]
                command = switch
            issue(command, at, row, cycle, tables, ready, rows, ring, ring_at, width, deepest)
            out_cycle[issued], out_command[issued], out_bank[issued], out_row[issued] = cycle, command, at, row
            issued += 1
            if bus[command] == 0:
                now_row = cycle
            else:
                now_column = cycle
            if command == final:
                last = cycle
                if depth > 0:
                    left[index % depth] = cycle
                break
    return issued
