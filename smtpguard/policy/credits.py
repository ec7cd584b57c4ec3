"""What the kernel may let through of each user: the userspace half of exact limits. Pure.

With bpf a connections rule is enforced where connect() happens. The kernel counts `used`, credits taken so far; we say
`allowed`, and attempt `used >= allowed` is refused. For N in any window of length W

    allowed = limit + (credited attempts told of so far) - (attempts that are in the window)

which is "limit + connects that have left the window": an attempt just told of raises both terms and changes nothing,
one that leaves the window gives its credit back. An attempt that entered the window without a credit (the daemon had
been stopped, or the window was restored from state) lowers it; one that took a credit and entered no window (another
rule's verdict) gives it back at once. Attempts still in the ring have raised `used` only, so they are covered too.

Every `Grant` says as of which time it holds, and the program makes an attempt that is older claim the present: with it
no window of event times ever holds more than N. Credits come back late by at most the pause between two `tick`s, which
can refuse an attempt early, never let one through.

Of a rule that counts destinations or networks the kernel keeps the keys themselves, in a window that slides by itself.
We say the limit, and up to when the window was emptied; see smtpguard/sources/bpf/keys.bpf.h.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from heapq import heappop, heappush

from smtpguard.policy.credit_rules import MAX_RULES, NO_LIMIT, CreditRule, Grant
from smtpguard.policy.credit_window import CreditWindow


class CreditLedger:
    """All users' attempts under the credit rules. Users are uids of accounts in the guard's own namespace.

    Args:
        rules: The rules, by index.

    Attributes:
        adopted_ns: Event time up to which credits that were taken are in what was adopted.
    """

    def __init__(self, rules: Sequence[CreditRule]) -> None:
        if len(rules) > MAX_RULES:
            raise ValueError(f"{len(rules)} credit rules, at most {MAX_RULES}")
        self.rules = tuple(rules)
        self._lanes: dict[int, dict[int, CreditWindow]] = {}
        self._limits: dict[int, dict[int, int]] = {}
        self._departures: list[tuple[int, int, int]] = []
        self._dirty: set[int] = set()
        self.adopted_ns = 0
        self._spoken: dict[int, int] = {}
        self._settled: dict[int, int] = {}
        self._emptied: dict[int, dict[int, int]] = {}

    def speak(self, uid: int, now_ns: int) -> None:
        """What a user did up to a time was judged: a refusal that holds for all of these attempts is over."""
        self._spoken[uid] = max(now_ns, self._spoken.get(uid, 0))
        self._dirty.add(uid)

    def settle(self, uid: int, now_ns: int) -> None:
        """A verdict that holds was carried out."""
        self._settled[uid] = now_ns
        self._dirty.add(uid)

    def spoken(self) -> dict[int, int]:
        """Up to when what users did was judged, by uid."""
        return self._spoken

    def empty(self, uid: int, index: int, at_ns: int) -> None:
        """The window of a rule that counts keys was emptied: what came up to a time does not count."""
        emptied = self._emptied.setdefault(uid, {})
        if at_ns > emptied.get(index, 0):
            emptied[index] = at_ns
            self._dirty.add(uid)

    def emptied(self) -> dict[int, dict[int, int]]:
        """Until when windows of rules that count keys were emptied, by uid and rule index."""
        return self._emptied

    def set_limits(self, uid: int, limits: Mapping[int, int]) -> None:
        """Give a user limits of their own, by rule index; the others are the rules' own.

        With NO_LIMIT attempts are not kept: `restore` the windows when that ends.
        """
        if limits:
            self._limits[uid] = dict(limits)
        else:
            self._limits.pop(uid, None)
        for index, lane in self._lanes.get(uid, {}).items():
            lane.limit = self._limit(uid, index)
        self._dirty.add(uid)

    def note(self, uid: int, port: int, time_ns: int, credits_taken: int, *, entered: bool) -> None:
        """Tell of an attempt that the kernel let through.

        Args:
            uid: The account it counts for.
            port: Its destination port.
            time_ns: Its event time.
            credits_taken: Connect.credits.
            entered: Whether it entered the windows.
        """
        # One that was still on its way when its account was adopted: what it took was adopted with it.
        fresh = credits_taken if time_ns > self.adopted_ns else 0
        for index, rule in enumerate(self.rules):
            if rule.is_keyed:
                continue
            credited = fresh >> index & 1
            if not credited and not (entered and port in rule.ports):
                continue
            lane = self._lane(uid, index)
            lane.told += credited
            enters = entered and time_ns > lane.floor_ns
            if enters:
                self._enter(uid, index, lane, time_ns)
            if not (credited and enters):
                self._dirty.add(uid)

    def told(self, uid: int, index: int) -> int:
        """How many credits of a rule a user is known to have taken."""
        lane = self._lanes.get(uid, {}).get(index)
        return 0 if lane is None else lane.told + sum(count for _, count in lane.lost)

    def adopt(self, uid: int, used: Sequence[int]) -> None:
        """Take over an account that the kernel already keeps: what it has used so far is no longer of interest."""
        for index, rule in enumerate(self.rules):
            if not rule.is_keyed:
                self._lane(uid, index).told = used[index]
        self._dirty.add(uid)

    def restore(self, uid: int, index: int, times_ns: Iterable[int]) -> None:
        """Put attempts of an earlier run back into a window."""
        lane = self._lane(uid, index)
        for time_ns in sorted(times_ns):
            self._enter(uid, index, lane, time_ns)
        self._dirty.add(uid)

    def renew(self, limits: Mapping[int, Mapping[int, int]], windows: Iterable[tuple[int, int, Iterable[int]]]) -> None:
        """Take other limits and windows under the same rules; what the kernel gave out is known and goes on.

        Args:
            limits: Limits of some users' own, by uid and rule index; all others have the rules'.
            windows: What the windows hold, as (uid, rule index, event times).
        """
        for lanes in self._lanes.values():
            for lane in lanes.values():
                del lane.times[:]
        for uid in self._limits.keys() - limits.keys():
            self.set_limits(uid, {})
        for uid, own in limits.items():
            self.set_limits(uid, own)
        for uid, index, times_ns in windows:
            self.restore(uid, index, times_ns)
        self._dirty.update(self._lanes)

    def reset(self, uid: int, index: int | None = None, at_ns: int = 0) -> None:
        """Empty a user's window of one rule, as a block verdict does, or all, as a person's unblock does.

        What came up to `at_ns` is in no window, also if it is told of later.
        """
        counted = [number for number, rule in enumerate(self.rules) if not rule.is_keyed and index in (None, number)]
        for lane in [self._lane(uid, number) for number in counted]:
            lane.empty(at_ns)
        self._dirty.add(uid)

    def reconcile(self, uid: int, used: Sequence[int], now_ns: int) -> int:
        """Make up for attempts that a full ring lost: they count as if they had come now.

        Returns:
            How many there were.

        Args:
            uid: The user.
            used: What the kernel counted, read *before* the ring was emptied for the last time.
            now_ns: Event time.
        """
        total = 0
        for index, rule in enumerate(self.rules):
            if rule.is_keyed:
                continue
            lane = self._lanes.get(uid, {}).get(index)
            known = lane.told + sum(count for _, count in lane.lost) if lane else 0
            missing = used[index] - known
            if missing > 0:
                lane = self._lane(uid, index)
                lane.lost = (*lane.lost, (now_ns + self.rules[index].window_ns, missing))
                self._schedule(uid, index, lane)
                total += missing
            elif missing < 0 and lane:  # an account removed between an attempt and its report
                lane.told += missing
                self._dirty.add(uid)
        return total

    def tick(self, now_ns: int) -> list[Grant]:
        """Let leave what is no longer in a window, and say what has changed for the kernel since the last tick."""
        while self._departures and self._departures[0][0] <= now_ns:
            due_ns, uid, index = heappop(self._departures)
            lane = self._lanes.get(uid, {}).get(index)
            if lane is not None and lane.due_ns == due_ns:
                lane.due_ns = None
                self._leave(uid, index, lane, now_ns)
        grants = [self.grant(uid, now_ns) for uid in self._dirty]
        self._dirty.clear()
        return grants

    def grant(self, uid: int, now_ns: int) -> Grant:
        """What the kernel shall be told about a user, as of a time up to which `tick` was called."""
        emptied = self._emptied.get(uid, {})
        return Grant(
            uid=uid,
            allowed=tuple(self._allowed(uid, n) for n in range(len(self.rules))),
            as_of_ns=now_ns,
            spoken_ns=self._spoken.get(uid, 0),
            emptied_ns=tuple(emptied.get(n, 0) for n in range(len(self.rules))) if emptied else (),
            settled_ns=self._settled.get(uid, 0),
        )

    def next_deadline(self) -> int | None:
        """Event time at which the next credit comes back; None if none is out. Past if something has changed."""
        if self._dirty:
            return 0
        return self._departures[0][0] if self._departures else None

    def limited(self) -> list[int]:
        """Users with limits of their own."""
        return list(self._limits)

    def users(self) -> list[int]:
        """Users with anything noted."""
        return list(self._lanes)

    def idle(self) -> list[int]:
        """Users without anything in a window: they need no entry in the kernel, unless they have their own limits."""
        return [
            uid
            for uid, lanes in self._lanes.items()
            if uid not in self._limits
            and uid not in self._emptied
            and not any(lane.times or lane.lost for lane in lanes.values())
        ]

    def forget(self, uid: int) -> None:
        """Drop a user whose entries in the kernel were removed: both begin anew."""
        self._lanes.pop(uid, None)
        self._spoken.pop(uid, None)
        self._settled.pop(uid, None)
        self._dirty.discard(uid)

    def drop_old(self, now_ns: int) -> None:
        """Forget when windows were emptied, where nothing from before would be in them any more."""
        for uid, emptied in list(self._emptied.items()):
            for index, at_ns in list(emptied.items()):
                if at_ns + self.rules[index].window_ns < now_ns:
                    del emptied[index]
            if not emptied:
                del self._emptied[uid]

    def _limit(self, uid: int, index: int) -> int:
        return self._limits.get(uid, {}).get(index, self.rules[index].limit)

    def _lane(self, uid: int, index: int) -> CreditWindow:
        lanes = self._lanes.setdefault(uid, {})
        lane = lanes.get(index)
        if lane is None:
            lane = lanes[index] = CreditWindow(self._limit(uid, index))
        return lane

    def _allowed(self, uid: int, index: int) -> int:
        lane = self._lanes.get(uid, {}).get(index)
        return lane.allowed() if lane else self._limit(uid, index)

    def _enter(self, uid: int, index: int, lane: CreditWindow, time_ns: int) -> None:
        if lane.limit >= NO_LIMIT:
            return
        times = lane.times
        if times and time_ns < times[-1]:
            times.insert(bisect_right(times, time_ns), time_ns)
        else:
            times.append(time_ns)
        if len(times) > lane.limit + 1:
            # Only the newest can matter: while they are in the window nobody passes, and the others leave before them.
            del times[0]
        if times[0] == time_ns:  # the only one, or reported after younger ones: it leaves before them
            self._schedule(uid, index, lane)

    def _leave(self, uid: int, index: int, lane: CreditWindow, now_ns: int) -> None:
        del lane.times[: bisect_right(lane.times, now_ns - self.rules[index].window_ns)]
        lane.told += sum(count for until_ns, count in lane.lost if until_ns <= now_ns)
        lane.lost = tuple([(until_ns, count) for until_ns, count in lane.lost if until_ns > now_ns])
        self._dirty.add(uid)
        self._schedule(uid, index, lane)

    def _schedule(self, uid: int, index: int, lane: CreditWindow) -> None:
        """Have the lane looked at when the first of it leaves: one entry in the heap that counts, stale ones do not."""
        ends = [until_ns for until_ns, _ in lane.lost]
        if lane.times:
            ends.append(lane.times[0] + self.rules[index].window_ns)
        due_ns = min(ends, default=None)
        if due_ns is not None and (lane.due_ns is None or due_ns < lane.due_ns):
            lane.due_ns = due_ns
            heappush(self._departures, (due_ns, uid, index))
