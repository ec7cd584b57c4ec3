"""Whose subordinate uids are whose: the ranges of subuid(5), with what contradicts itself taken out. Pure.

A tenant may become any uid of their ranges, so these count for them (THREATS 3). A uid that two owners may become, or
that is an account of its own, counts for neither: a block must never stop somebody else. Root's ranges belong to uid 0.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_PIECES = 64
"""Ranges of one owner, after real accounts were cut out; each is an element of an nft set when the owner is blocked."""
MAX_PROBLEMS = 50
MAX_UID = 0xFFFF_FFFE


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One line of /etc/subuid.

    Attributes:
        owner: Uid of the owner.
        first: First subordinate uid.
        count: How many.
        line: Where it stands, for people.
    """

    owner: int
    first: int
    count: int
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Range:
    """Subordinate uids that belong to one owner and to nobody else."""

    first: int
    count: int
    owner: int

    @property
    def last(self) -> int:
        """The last of them."""
        return self.first + self.count - 1


class RangeMap:
    """Answers whose a uid is. Ranges don't overlap."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self.ranges = tuple(sorted(ranges))
        self._firsts = [r.first for r in self.ranges]
        self._lowest = self._firsts[0] if self._firsts else MAX_UID + 1
        self._of: dict[int, list[tuple[int, int]]] = {}
        for piece in self.ranges:
            self._of.setdefault(piece.owner, []).append((piece.first, piece.count))

    def owner(self, uid: int) -> int:
        """The owner of the range a uid lies in, else the uid itself."""
        if uid < self._lowest:
            return uid
        found = self.ranges[bisect_right(self._firsts, uid) - 1]
        return found.owner if uid <= found.last else uid

    def without(self, uids: Iterable[int]) -> "RangeMap":
        """The same without some uids, which then count for themselves; cheap, as most ranges stay as they are.

        Args:
            uids: Accounts that no file of the host's lists.
        """
        cut = RangeMap()
        cut.ranges, cut._firsts, cut._lowest, cut._of = self.ranges, list(self._firsts), self._lowest, dict(self._of)
        for uid in sorted(uids):
            cut._take_out(uid)
        return cut

    def _take_out(self, uid: int) -> None:
        place = bisect_right(self._firsts, uid) - 1
        if place < 0 or uid > self.ranges[place].last:
            return
        whole = self.ranges[place]
        spans = ((whole.first, uid - whole.first), (uid + 1, whole.last - uid))
        parts = [Range(first=first, count=count, owner=whole.owner) for first, count in spans if count]
        if len(parts) > 1 and len(self._of[whole.owner]) >= MAX_PIECES:
            parts = [max(parts, key=lambda part: part.count)]  # the rest counts for itself: too many elements of a set
        self.ranges = (*self.ranges[:place], *parts, *self.ranges[place + 1 :])
        self._firsts[place : place + 1] = [part.first for part in parts]
        self._lowest = self._firsts[0] if self._firsts else MAX_UID + 1
        held = [span for span in self._of[whole.owner] if span != (whole.first, whole.count)]
        self._of[whole.owner] = sorted([*held, *((part.first, part.count) for part in parts)])

    def of(self, owner: int) -> tuple[tuple[int, int], ...]:
        """An owner's ranges as (first, count)."""
        return tuple(self._of.get(owner, ()))


def resolve_ranges(claims: Iterable[Claim], uids: Sequence[int], uid_min: int) -> tuple[RangeMap, list[str]]:
    """Who owns what, and what was left out and why.

    Args:
        claims: What subuid says.
        uids: Uids of real accounts, ascending.
        uid_min: First uid of people; no range reaches below.
    """
    problems: list[str] = []
    sound = [claim for claim in claims if not _refuse(claim, uid_min, problems)]
    pieces = [part for piece in _untangle(sound, problems) for part in _cut(piece, uids, problems)]
    kept: list[Range] = []
    held: Counter[int] = Counter()
    for piece in pieces:
        held[piece.owner] += 1
        if held[piece.owner] <= MAX_PIECES:
            kept.append(piece)
    problems += [
        f"uid {owner} owns {count} separate ranges of subordinate uids; those beyond {MAX_PIECES} count for themselves"
        for owner, count in held.items()
        if count > MAX_PIECES
    ]
    if len(problems) > MAX_PROBLEMS:
        problems[MAX_PROBLEMS:] = [f"and {len(problems) - MAX_PROBLEMS} more"]
    return RangeMap(kept), problems


def _refuse(claim: Claim, uid_min: int, problems: list[str]) -> bool:
    last = claim.first + claim.count - 1
    if claim.count <= 0:
        return True  # an empty range harms nobody and says nothing
    if claim.first < uid_min:
        problems.append(
            f"subuid line {claim.line}: {claim.first}-{last} holds uids below UID_MIN: not counted for anybody"
        )
        return True
    if last > MAX_UID:
        problems.append(
            f"subuid line {claim.line}: {claim.first}-{last} ends beyond the last uid: not counted for anybody"
        )
        return True
    return False


def _untangle(claims: Sequence[Claim], problems: list[str]) -> list[Range]:
    """Ranges in ascending order that one owner alone claims."""
    edges = sorted(
        edge
        for claim in claims
        for edge in ((claim.first, 1, claim.owner), (claim.first + claim.count, -1, claim.owner))
    )
    pieces: list[Range] = []
    active: Counter[int] = Counter()
    told: set[tuple[int, ...]] = set()
    start = 0
    for position, step, owner in edges:
        if active and position > start:
            owners = tuple(sorted(active))
            if len(owners) == 1:
                _append(pieces, Range(first=start, count=position - start, owner=owners[0]))
            elif owners not in told and len(told) <= MAX_PROBLEMS:
                told.add(owners)
                who = ", ".join(map(str, owners[:5]))
                problems.append(f"subuid: {start}-{position - 1} belongs to uids {who}: not counted for any of them")
        start = position
        active[owner] += step
        if not active[owner]:
            del active[owner]
    return pieces


def _append(pieces: list[Range], piece: Range) -> None:
    """Add a piece; one that goes on where the last ended, of the same owner, makes it longer."""
    if pieces and pieces[-1].owner == piece.owner and pieces[-1].last + 1 == piece.first:
        piece = Range(first=pieces[-1].first, count=pieces[-1].count + piece.count, owner=piece.owner)
        pieces.pop()
    pieces.append(piece)


def _cut(piece: Range, uids: Sequence[int], problems: list[str]) -> list[Range]:
    """A piece without the real accounts in it."""
    inside = uids[bisect_left(uids, piece.first) : bisect_right(uids, piece.last)]
    if not inside:
        return [piece]
    shown = ", ".join(map(str, inside[:5])) + (", ..." if len(inside) > 5 else "")
    problems.append(
        f"subuid: {piece.first}-{piece.last} of uid {piece.owner} holds real accounts ({shown}): "
        "they count for themselves, although their owner may become them"
    )
    parts = []
    start = piece.first
    for uid in (*inside, piece.last + 1):
        if uid > start:
            parts.append(Range(first=start, count=uid - start, owner=piece.owner))
        start = uid + 1
    return parts
