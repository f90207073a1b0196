"""Schedulers with a queue: the one of AttAcc's controller and that of Samsung's, on the engine of `kernels`.

Both see a window of the requests of a channel and let some go out of order; a barrier keeps order where the kernel needs it.
Time jumps from event to event: between two events no request becomes legal, and so no scheduler would act.
"""

from __future__ import annotations

from typing import Any

from .kernels import earliest, issue, row_state

#: Request number of a barrier.
BARRIER = -1


def barrier_queue(commands: Any, banks: Any, row_of: Any, depth: int, tables: Any, ready: Any, rows: Any, ring: Any,
                  ring_at: Any, width: int, deepest: int, refresh: int, refresh_closer: int, interval: int, queue: Any,
                  next_of: Any, free_at: Any, hit: Any, memo: Any, memo_at: Any, out_cycle: Any, out_command: Any,
                  out_bank: Any, out_row: Any) -> tuple[int, int]:
    """AttAcc's controller: a queue of `depth`, a row and a column command per cycle, refresh first.

    A precharge of some banks goes alone: its cycle takes no command of the other bus (the public controller knows no bus for it).
    The oldest request goes first, unless one behind it is ready and it is not. Behind the first barrier only activates and
    precharges may come forward, and what is no row hit may not pass a hit to its bank. While a refresh waits for its
    precharge, column commands to all banks go on, and so the row in work is finished first; those to some banks wait.

    Returns the number of commands issued (-1 where the output is too short), and the last cycle.
    """
    align, modulo, count = tables[0], tables[1], tables[2]
    needs, opener, closer, bus = tables[19], tables[21], tables[22], tables[23]
    total, taken, held, issued = len(commands), 0, 0, 0
    effect, banks_held, stamp = tables[20], len(rows), 1
    now, due, owed = 1, interval, 0
    parts = modulo[refresh] // align[refresh] if interval > 0 else 1
    stale = True
    while taken < total or held > 0 or owed > 0:
        while held < depth and taken < total:
            queue[held] = taken
            held += 1
            taken += 1
            stale = True
        if interval > 0 and now >= due:
            owed += parts
            due += interval
        if issued + 2 > len(out_cycle):
            return -1, now
        first_bus = -1
        acted = False
        for slot in range(2):
            # Refresh goes first; what is not ready of it still lets the other bus work.
            if owed > 0:
                base = (parts - 1 - (owed - 1) % parts) * align[refresh]
                command = refresh
                if row_state(refresh_closer, base, -2, tables, rows) != 1:
                    command = refresh_closer
                if slot == 0 or first_bus != bus[command]:
                    if earliest(command, base, tables, ready, ring, ring_at, width, deepest) <= now:
                        issue(command, base, -1, now, tables, ready, rows, ring, ring_at, width, deepest)
                        out_cycle[issued], out_command[issued], out_bank[issued], out_row[issued] = now, command, base, -1
                        issued += 1
                        stamp += 1
                        acted = stale = True
                        if command == refresh:
                            owed -= 1
                        if slot == 0:
                            first_bus = bus[command]
                            continue
                        break
                    if slot == 0:
                        first_bus = bus[command]
                        continue
                    break
            if held > 0 and commands[queue[0]] == -1:
                for at in range(1, held):
                    queue[at - 1] = queue[at]
                held -= 1
                stale = True
                acted = True
            if held == 0:
                break
            if stale:
                for at in range(held):
                    request = queue[at]
                    command = commands[request]
                    hit[at] = False
                    if command == -1:
                        continue
                    if needs[command] == 1:
                        state = row_state(command, banks[request], row_of[request], tables, rows)
                        if state == 0:
                            hit[at] = True
                        else:
                            command = opener[command] if state == 1 else closer[command]
                    next_of[at] = command
                stale = False
            at, fenced = -1, False
            for place in range(held):
                request = queue[place]
                free_at[place] = 1 << 40
                if commands[request] == -1:
                    fenced = True
                    continue
                if fenced and effect[next_of[place]] == 0:
                    continue
                # A row in work in all banks is finished before a refresh; banks that are in work in turn would go on for ever.
                if owed > 0 and needs[next_of[place]] == 1 and count[next_of[place]] < banks_held:
                    continue
                key = next_of[place] * banks_held + banks[request]
                if memo_at[key] != stamp:
                    memo[key] = earliest(next_of[place], banks[request], tables, ready, ring, ring_at, width, deepest)
                    memo_at[key] = stamp
                free_at[place] = memo[key]
                if free_at[place] > now:
                    continue
                passes = True
                if place > 0 and not hit[place]:
                    for other in range(held):
                        if hit[other] and banks[queue[other]] == banks[request]:
                            passes = False
                            break
                if passes:
                    at = place
                    break
            if at < 0:
                break
            request, command = queue[at], next_of[at]
            alone = effect[command] == 2 and count[command] < banks_held
            if slot == 1 and (alone or first_bus == bus[command]):
                break
            issue(command, banks[request], row_of[request], now, tables, ready, rows, ring, ring_at, width, deepest)
            out_cycle[issued], out_command[issued], out_bank[issued], out_row[issued] = (
                now, command, banks[request], row_of[request])
            issued += 1
            stamp += 1
            acted = True
            first_bus = bus[command]
            if effect[command] > 0:
                stale = True
            if command == commands[request]:
                for later in range(at + 1, held):
                    queue[later - 1] = queue[later]
                    next_of[later - 1] = next_of[later]
                    hit[later - 1] = hit[later]
                held -= 1
            if alone:
                break
        if acted:
            now += 1
            continue
        # Nothing moved: on to the first cycle at which something may.
        soonest = 1 << 40
        if owed > 0:
            base = (parts - 1 - (owed - 1) % parts) * align[refresh]
            command = refresh
            if row_state(refresh_closer, base, -2, tables, rows) != 1:
                command = refresh_closer
            soonest = earliest(command, base, tables, ready, ring, ring_at, width, deepest)
        for at in range(held):
            if commands[queue[at]] != -1 and now < free_at[at] < soonest:
                soonest = free_at[at]
        if interval > 0 and due < soonest:
            soonest = due
        now = max(now + 1, soonest) if soonest < 1 << 40 else now + 1
    return issued, now - 1


def open_queue(is_write: Any, banks: Any, row_of: Any, column_of: Any, fence: Any, gate: Any, depth: int, read: int, write: int,
               activate: int, precharge: int, read_done: int, write_done: int, tables: Any, ready: Any, rows: Any, ring: Any,
               ring_at: Any, width: int, deepest: int, refresh: int, interval: int, postponed: int, leaving: int, queue: Any,
               memo: Any, memo_at: Any, owed: Any, out_cycle: Any, out_command: Any, out_bank: Any, out_row: Any,
               ) -> tuple[int, int]:
    """Samsung's controller: one command a cycle; column commands first, in order of age, then activates, then precharges.

    A request with `fence` waits until all before it have left, and holds all behind it. One with `gate` enters only when all
    data before it have arrived. A request enters the queue of `depth` per cycle. A row that no request up to the first
    fence wants is closed as soon as it may be. Ranks are refreshed one after the other, evenly over the interval; while a
    refresh waits for its precharges, other commands go on and may open rows again, until `postponed` refreshes are owed.

    While bank 0 or 1 holds the row `leaving`, which ends the all-bank mode as it closes, no other bank opens one.

    Returns the number of commands issued (-1 where the output is too short) and the cycles until all data have arrived.
    """
    total, taken, held, issued = len(is_write), 0, 0, 0
    step = tables[0][refresh] if interval > 0 else len(rows)
    parts = len(rows) // step
    now, due, done = 0, interval // parts, -1
    waiting, turn, first = False, 0, -step
    count = len(rows)
    stamp = 1
    while taken < total or held > 0:
        if issued + 2 > len(out_cycle):
            return -1, now
        if interval > 0 and now >= due:
            waiting = True
            due += interval // parts
            first = (first + step) % count
            owed[first // step] += 1
        acted = False
        soonest = 1 << 40
        closing = -1
        if waiting:
            any_open = False
            for bank in range(first, first + step):
                if rows[bank] != -1:
                    any_open = True
                    free = earliest(precharge, bank, tables, ready, ring, ring_at, width, deepest)
                    if free <= now:
                        issue(precharge, bank, -1, now, tables, ready, rows, ring, ring_at, width, deepest)
                        out_cycle[issued], out_command[issued], out_bank[issued], out_row[issued] = now, precharge, bank, -1
                        acted = True
                        break
                    soonest = min(soonest, free)
            if not any_open:
                free = earliest(refresh, first, tables, ready, ring, ring_at, width, deepest)
                if free <= now:
                    issue(refresh, first, -1, now, tables, ready, rows, ring, ring_at, width, deepest)
                    out_cycle[issued], out_command[issued], out_bank[issued], out_row[issued] = now, refresh, first, -1
                    acted = True
                    waiting = False
                    owed[first // step] -= 1
                else:
                    soonest = min(soonest, free)
                    closing = first
        if not acted:
            for at in range(held):
                request = queue[at]
                bank = banks[request]
                if at > 0 and fence[request]:
                    break
                if rows[bank] == row_of[request]:
                    command = write if is_write[request] else read
                    slot = bank * 2 + is_write[request]
                    if memo_at[slot] != stamp:
                        memo[slot] = earliest(command, bank, tables, ready, ring, ring_at, width, deepest)
                        memo_at[slot] = stamp
                    if memo[slot] <= now:
                        twin = False
                        for other in range(at):
                            earlier = queue[other]
                            if (banks[earlier] == bank and row_of[earlier] == row_of[request]
                                    and column_of[earlier] == column_of[request]):
                                twin = True
                                break
                        if not twin:
                            issue(command, bank, row_of[request], now, tables, ready, rows, ring, ring_at, width, deepest)
                            out_cycle[issued], out_command[issued], out_bank[issued], out_row[issued] = (
                                now, command, bank, row_of[request])
                            done = max(done, now + (write_done if is_write[request] else read_done))
                            for later in range(at + 1, held):
                                queue[later - 1] = queue[later]
                            held -= 1
                            acted = True
                            break
                    else:
                        soonest = min(soonest, memo[slot])
                if fence[request]:
                    break
        if not acted:
            for at in range(held):
                request = queue[at]
                if at > 0 and fence[request]:
                    break
                bank = banks[request]
                # A rank that is closed for its refresh, or owes more than may be postponed, opens no row.
                part = bank // step
                held_back = bank > 1 and (rows[0] == leaving or rows[1] == leaving)
                if rows[bank] == -1 and part * step != closing and owed[part] <= postponed and not held_back:
                    free = earliest(activate, bank, tables, ready, ring, ring_at, width, deepest)
                    if free <= now:
                        issue(activate, bank, row_of[request], now, tables, ready, rows, ring, ring_at, width, deepest)
                        out_cycle[issued], out_command[issued], out_bank[issued], out_row[issued] = (
                            now, activate, bank, row_of[request])
                        acted = True
                        break
                    soonest = min(soonest, free)
        if not acted:
            for ahead in range(count):
                bank = (turn + ahead) % count
                if rows[bank] == -1:
                    continue
                wanted = False
                for at in range(held):
                    request = queue[at]
                    if banks[request] == bank and row_of[request] == rows[bank]:
                        wanted = True
                        break
                    if fence[request]:
                        break
                if not wanted:
                    free = earliest(precharge, bank, tables, ready, ring, ring_at, width, deepest)
                    if free <= now:
                        issue(precharge, bank, -1, now, tables, ready, rows, ring, ring_at, width, deepest)
                        out_cycle[issued], out_command[issued], out_bank[issued], out_row[issued] = now, precharge, bank, -1
                        acted = True
                        turn = bank
                        break
                    soonest = min(soonest, free)
        if acted:
            issued += 1
            stamp += 1
        entered = False
        if held < depth and taken < total and (not gate[taken] or (held == 0 and now > done)):
            queue[held] = taken
            held += 1
            taken += 1
            entered = True
        if acted or entered:
            now += 1
            continue
        if interval > 0:
            soonest = min(soonest, due)
        if held == 0 and taken < total:
            soonest = min(soonest, done + 1)
        now = max(now + 1, soonest) if soonest < 1 << 40 else now + 1
    return issued, done + 1
