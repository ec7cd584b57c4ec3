"""Blocks and throttles in force, of all sources, and whether an attempt fell inside one. No clock, no kernel.

Kept per (subject, source, kind, mode, ports): the end of one never ends another. Ends are event times.
"""

import heapq
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

from smtpguard.model import NS, Block, Ended, Extended, Subject
from smtpguard.policy.block_spans import LATE_NS, TRIES, BlockSpan, Key, Outlook, Ports, SubjectBlocks, strength_of
from smtpguard.policy.windows import NEVER

LAST_NS = 600 * NS
AHEAD_NS = 2 * NS
"""So long before its end that is judged, so that the kernel knows in time: nothing passes in between."""


class BlockTable:
    """All blocks. Every method takes and gives event times.

    Attributes:
        changed: Whose blocks have changed; whoever follows them takes these out.
    """

    def __init__(self) -> None:
        self.changed: set[Subject] = set()
        self._entries: dict[Subject, SubjectBlocks] = {}
        self._ends: list[tuple[int, int, Subject, Key]] = []
        self._looks: list[tuple[int, int, Subject, Key]] = []
        self._tick = count()

    def put(self, block: Block, *, hides: bool) -> list[Ended] | None:
        """Take a block in.

        A guard's block never shortens one of the same kind; any other source's later word wins, also if it ends
        earlier.

        Args:
            block: The block.
            hides: See BlockSpan.

        Returns:
            The block of the same key that it follows, if that was over; None if the block brings nothing new.
        """
        entry = self._entries.setdefault(block.subject, SubjectBlocks())
        key = (block.source, block.kind, hides, block.ports)
        ended: list[Ended] = []
        if held := entry.held.get(key):
            old, span = held
            if old.until_ns <= block.since_ns:
                if not block.renewed:
                    ended.append(Ended(time_ns=old.until_ns, block=old, by="time"))
            elif block.source == "guard" and old.until_ns >= block.until_ns:
                if block.since_ns < span.since_ns:  # a late verdict: the time before is refused too, looking back
                    self._span(entry, block, hides=hides)
                return None
            else:
                span.until_ns = block.since_ns
        entry.prune(block.since_ns)
        span = self._span(entry, block, hides=hides)
        entry.held[key] = (block, span)
        self.changed.add(block.subject)
        self._push(block, key)
        return ended

    def _push(self, block: Block, key: Key) -> None:
        heapq.heappush(self._ends, (block.until_ns, next(self._tick), block.subject, key))
        if block.source == "guard" and block.kind == "block":
            heapq.heappush(self._looks, (block.until_ns - AHEAD_NS, next(self._tick), block.subject, key))

    def note_refused(self, subject: Subject, time_ns: int, port: int) -> None:
        """An attempt was refused by the kernel: whatever block it was inside remembers it."""
        entry = self._entries.get(subject)
        for span in entry.spans if entry else ():
            if span.covers(time_ns, port):
                span.tries.append(time_ns)

    def extend(self, now_ns: int, max_ns: int) -> list[Extended]:
        """Lengthen what is about to end though its user has not stopped trying.

        Args:
            now_ns: Event time now.
            max_ns: How long a block may last in all.
        """
        extended: list[Extended] = []
        while self._looks and self._looks[0][0] <= now_ns:
            _, _, subject, key = heapq.heappop(self._looks)
            entry = self._entries.get(subject)
            if entry is None or (held := entry.held.get(key)) is None:
                continue
            block, span = held
            if block.until_ns - AHEAD_NS > now_ns:
                continue  # it was lengthened meanwhile, and is looked at again
            length_ns = block.until_ns - block.since_ns
            until_ns = min(block.until_ns + length_ns, block.since_ns + max_ns)
            tries = len(span.tries)
            if tries < TRIES or span.tries[0] <= block.until_ns - LAST_NS or until_ns <= max(block.until_ns, now_ns):
                continue
            block = replace(block, until_ns=until_ns)
            span.until_ns = until_ns
            entry.held[key] = (block, span)
            self.changed.add(subject)
            self._push(block, key)
            extended.append(Extended(time_ns=now_ns, block=block, refused=tries))
        return extended

    def hide(self, subject: Subject, since_ns: int, until_ns: int, *, ports: Ports = None) -> None:
        """Hide attempts for a short time without a block: somebody else is about to block (block.by: fail2ban)."""
        entry = self._entries.setdefault(subject, SubjectBlocks())
        entry.prune(since_ns)
        entry.spans.append(BlockSpan(since_ns, until_ns, "block", "dry-run", hides=True, ports=ports))

    def unhide(self, subject: Subject, now_ns: int) -> None:
        """End what `hide` began: nobody is about to block after all."""
        entry = self._entries.get(subject)
        for span in entry.spans if entry else ():
            if span.hides and span.mode == "dry-run":
                span.until_ns = min(span.until_ns, now_ns)

    @staticmethod
    def _span(entry: SubjectBlocks, block: Block, *, hides: bool) -> BlockSpan:
        span = BlockSpan(block.since_ns, block.until_ns, block.kind, block.mode, hides, block.ports)
        entry.spans.append(span)
        return span

    def cover(self, subject: Subject, time_ns: int, port: int) -> BlockSpan | None:
        """What an attempt at a time and port ran into: the strongest, or None."""
        entry = self._entries.get(subject)
        if entry is None:
            return None
        inside = [span for span in entry.spans if span.covers(time_ns, port)]
        if len(inside) == 1:
            return inside[0]
        return max(inside, key=strength_of, default=None)

    def clear_ns(self, subject: Subject) -> int:
        """From when on no attempt at any port can be inside a block that is known now; NEVER if there is none."""
        entry = self._entries.get(subject)
        return max((span.until_ns for span in entry.spans), default=NEVER) if entry else NEVER

    def outlook(self, subject: Subject, port: int) -> Outlook:
        """What is ahead of a subject at one port, as far as it is known now."""
        entry = self._entries.get(subject)
        spans = [span for span in entry.spans if span.ports is None or port in span.ports] if entry else []
        if not spans:
            return NEVER, None
        strongest = max(spans, key=lambda span: (*strength_of(span), span.until_ns))
        return max(span.until_ns for span in spans), strongest if strongest.hides else None

    def end(
        self,
        subject: Subject,
        *,
        source: str | None,
        by: str,
        reason: str,
        now_ns: int,
        address: bytes | None = None,
    ) -> list[Ended]:
        """End a subject's blocks.

        Args:
            subject: Whose.
            source: Of this source only; None for all.
            by: Who ends them.
            reason: Free text for people.
            now_ns: When.
            address: Only those over an attempt at this address; None for all.
        """
        entry = self._entries.get(subject)
        if entry is None:
            return []
        ended: list[Ended] = []
        for key, (block, span) in list(entry.held.items()):
            if source in {None, block.source} and address in {None, block.address}:
                del entry.held[key]
                self.changed.add(subject)
                span.until_ns = min(span.until_ns, now_ns)
                ended.append(Ended(time_ns=now_ns, block=block, by=by, reason=reason))
        if source is None and address is None:
            for span in entry.spans:
                span.until_ns = min(span.until_ns, now_ns)
        self._forget_if_empty(subject, entry, now_ns)
        return ended

    def expire(self, now_ns: int) -> list[Ended]:
        """The blocks whose time is over."""
        ended: list[Ended] = []
        while self._ends and self._ends[0][0] <= now_ns:
            until_ns, _, subject, key = heapq.heappop(self._ends)
            entry = self._entries.get(subject)
            if entry is None or (held := entry.held.get(key)) is None or held[0].until_ns != until_ns:
                continue  # ended by somebody, or replaced
            del entry.held[key]
            self.changed.add(subject)
            ended.append(Ended(time_ns=until_ns, block=held[0], by="time"))
            self._forget_if_empty(subject, entry, now_ns)
        return ended

    def next_deadline(self) -> int | None:
        """When the next block ends, at the earliest."""
        return min((heap[0][0] for heap in (self._ends, self._looks) if heap), default=None)

    def of(self, subject: Subject) -> list[Block]:
        """The blocks of one subject."""
        entry = self._entries.get(subject)
        return [block for block, _ in entry.held.values()] if entry else []

    def subjects(self) -> list[Subject]:
        """Who has blocks."""
        return [subject for subject, entry in self._entries.items() if entry.held]

    def __iter__(self) -> Iterator[Block]:
        for entry in self._entries.values():
            for block, _ in entry.held.values():
                yield block

    def update_ranges(self, subject: Subject, ranges: tuple[tuple[int, int], ...]) -> None:
        """Make all blocks of a subject cover its subordinate ranges as they are now."""
        entry = self._entries.get(subject)
        if entry is not None and any(block.ranges != ranges for block, _ in entry.held.values()):
            entry.held = {k: (replace(block, ranges=ranges), span) for k, (block, span) in entry.held.items()}
            self.changed.add(subject)

    def bind(self, block: Block, name: str) -> Block:
        """Bind a block that was made by uid alone to a name; the block as it is then.

        Args:
            block: One of those held.
            name: The account's login name.
        """
        held = self._entries[block.subject].held
        named = replace(block, name=name)
        for key, (known, span) in held.items():
            if known is block:
                held[key] = (named, span)
        return named

    def drop_idle(self, now_ns: int) -> None:
        """Forget what nothing late can concern any more."""
        for subject, entry in list(self._entries.items()):
            self._forget_if_empty(subject, entry, now_ns)

    def _forget_if_empty(self, subject: Subject, entry: SubjectBlocks, now_ns: int) -> None:
        if not entry.held and all(span.until_ns <= now_ns - LATE_NS for span in entry.spans):
            del self._entries[subject]
