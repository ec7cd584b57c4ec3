"""Ordinary users of shared hosts, and hacked sites: their connections over days, seeded. Pure: no clock, no network.

What they do is taken from how such programs work, not from a record of real hosts: PHPMailer opens a connection a mail,
newsletter plugins send batches from cron, hosters sell 300 to 1,000 mails an hour, a relay's name gives other addresses
each time. What nobody's ordinary program does is in `Attack`.
"""

import random
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from smtpguard.model import NS

DAY_S = 86_400
FIRST_UID = 1001
_WORK = (9, 17)
_MEGABYTE = 1_000_000


class Attempt(NamedTuple):
    """One connection: when (seconds), by whom, where to, and how many bytes it will have sent."""

    at_s: float
    uid: int
    port: int
    address: bytes
    size: int


class Network(NamedTuple):
    """A /24 by its first three bytes."""

    a: int
    b: int
    c: int

    def address(self, chance: random.Random) -> bytes:
        return bytes([*self, chance.randrange(1, 255)])


def _networks(seed: int, count: int) -> list[Network]:
    chance = random.Random(seed)
    return [Network(chance.randrange(128, 190), chance.randrange(256), chance.randrange(256)) for _ in range(count)]


SMARTHOST = _networks(1, 1)
BIG_RELAY = _networks(2, 14)
"""A relay (SES, Mailgun, SendGrid, Brevo) whose name answers with addresses of many networks."""
HUGE_RELAY = _networks(3, 60)
PROVIDERS = [_networks(10 + number, 3) for number in range(8)]
"""Mailbox providers: a few networks each, for submission and as mail exchangers."""


def _clock(chance: random.Random, first: float = 7, last: float = 23) -> float:
    """A time of the day, in seconds, when people are awake."""
    return chance.triangular(first, last, (first + last) / 2) * 3600


class User:
    """Somebody with a site; each day is drawn from a seed of their own.

    Args:
        uid: Theirs.
        seed: Of the host.
    """

    share = 0
    """Of 300."""

    def __init__(self, uid: int, seed: int) -> None:
        self.uid = uid
        self.seed = seed
        self.chance = random.Random(f"{seed} {uid}")
        self.born(self.chance)

    def born(self, chance: random.Random) -> None:
        """Draw what they always have."""

    def day(self, number: int, chance: random.Random) -> Iterator[Attempt]:
        """What they send on one day, in any order."""
        raise NotImplementedError

    def spend(self, number: int) -> Iterator[Attempt]:
        return self.day(number, random.Random(f"{self.seed} {self.uid} {number}"))

    def send(self, at_s: float, port: int, to: Iterable[Network], chance: random.Random, size: int = 6_000) -> Attempt:
        return Attempt(at_s, self.uid, port, chance.choice(list(to)).address(chance), size)


class Brochure(User):
    """A contact form that is used now and then, by the hoster's smarthost."""

    share = 126

    def born(self, chance: random.Random) -> None:
        self.a_day = chance.choice((0.1, 0.5, 1, 2, 5))

    def day(self, number: int, chance: random.Random) -> Iterator[Attempt]:
        for _ in range(round(chance.expovariate(1 / self.a_day))):
            yield self.send(number * DAY_S + _clock(chance), 587, SMARTHOST, chance)


class Form(User):
    """A contact form without a mail server, which speaks to its owner's provider on port 25; bots fire at it."""

    share = 36

    def born(self, chance: random.Random) -> None:
        self.owner = chance.choice(PROVIDERS)
        self.copy = chance.choice(PROVIDERS)  # a second address of the owner's
        self.season = chance.randrange(75) if chance.random() < 0.3 else None
        self.fires = {chance.randrange(30): chance.choice((1, 4, 8, 12)) for _ in range(chance.randrange(3))}

    def day(self, number: int, chance: random.Random) -> Iterator[Attempt]:
        if self.season is not None and (number + self.season) % 75 < 45:
            return
        visits = [_clock(chance) for _ in range(chance.randrange(4))]
        if a_minute := self.fires.get(number % 30):
            begun = _clock(chance, 0, 20)
            hours = chance.uniform(0.2, 3)
            visits += [begun + chance.uniform(0, hours * 3600) for _ in range(int(a_minute * 60 * hours))]
        for at_s in visits:
            for to in (self.owner, self.copy):
                yield self.send(number * DAY_S + at_s, 25, to, chance, 4_000)


class Shop(User):
    """WooCommerce by a relay that answers from many networks; each order is three mails, a sale brings many."""

    share = 40

    def born(self, chance: random.Random) -> None:
        self.relay = HUGE_RELAY if chance.random() < 0.1 else BIG_RELAY
        self.orders = chance.choice((3, 10, 25, 60))

    def day(self, number: int, chance: random.Random) -> Iterator[Attempt]:
        times = [_clock(chance) for _ in range(round(chance.gauss(self.orders, self.orders**0.5)))]
        if chance.random() < 0.03:  # a sale: an hour with twenty times as much
            begun = _clock(chance, 9, 20)
            times += [begun + chance.uniform(0, 3600) for _ in range(self.orders * 2)]
        for at_s in times:
            for delay in (0, 1, chance.uniform(2, 1800)):
                yield self.send(number * DAY_S + at_s + delay, 587, self.relay, chance, 25_000)


class Newsletter(User):
    """A plugin that sends batches from cron by the hoster's smarthost, as much an hour as the hoster sells."""

    share = 24

    def born(self, chance: random.Random) -> None:
        self.readers = chance.choice((200, 500, 1500, 4000))
        self.weekday = chance.randrange(7)
        self.batch, self.every_s = chance.choice(((50, 600), (100, 600), (25, 300), (200, 1200)))

    def day(self, number: int, chance: random.Random) -> Iterator[Attempt]:
        if number % 7 != self.weekday:
            return
        at_s = number * DAY_S + _clock(chance, 8, 14)
        for first in range(0, self.readers, self.batch):
            begun = at_s + first / self.batch * self.every_s + chance.uniform(0, 5)
            pause = chance.uniform(0.3, 1.0)
            for place in range(min(self.batch, self.readers - first)):
                yield self.send(begun + place * pause, 587, SMARTHOST, chance, 60_000)


class Mautic(User):
    """A campaign by a big relay from cron: a connection a mail, some a second."""

    share = 6

    def born(self, chance: random.Random) -> None:
        self.contacts = chance.choice((1000, 3000, 6000))
        self.weekday = chance.randrange(7)

    def day(self, number: int, chance: random.Random) -> Iterator[Attempt]:
        at_s = number * DAY_S + _clock(chance, 8, 16)
        if number % 7 == self.weekday:
            for _ in range(self.contacts):
                at_s += chance.uniform(0.3, 0.9)
                yield self.send(at_s, 587, BIG_RELAY, chance, 40_000)
        else:
            for _ in range(chance.randrange(60)):
                yield self.send(number * DAY_S + _clock(chance), 587, BIG_RELAY, chance, 40_000)


class Monitoring(User):
    """Notices to two administrators, on port 25; when something flaps, a storm."""

    share = 12

    def born(self, chance: random.Random) -> None:
        self.admins = chance.sample(PROVIDERS, 2)

    def day(self, number: int, chance: random.Random) -> Iterator[Attempt]:
        times = [_clock(chance, 0, 24) for _ in range(chance.randrange(12))]
        if chance.random() < 0.1:
            begun = _clock(chance, 0, 22)
            times += [begun + chance.uniform(0, 1800) for _ in range(chance.randrange(20, 180))]
        for at_s in times:
            for admin in self.admins:
                yield self.send(number * DAY_S + at_s, 25, admin, chance, 2_000)


class Backup(User):
    """A notice each night, one for each database, to the owner's provider on port 25."""

    share = 20

    def born(self, chance: random.Random) -> None:
        self.owner = chance.choice(PROVIDERS)
        self.databases = chance.choice((1, 1, 3, 20))

    def day(self, number: int, chance: random.Random) -> Iterator[Attempt]:
        for place in range(self.databases):
            yield self.send(number * DAY_S + 3 * 3600 + place * chance.uniform(1, 20), 25, self.owner, chance, 10_000)


class Crm(User):
    """Twenty staff with mailboxes at several providers, attachments, and reminders at nine."""

    share = 10

    def born(self, chance: random.Random) -> None:
        self.staff = [chance.choice(PROVIDERS) for _ in range(20)]

    def day(self, number: int, chance: random.Random) -> Iterator[Attempt]:
        if number % 7 in (5, 6):
            return
        for mailbox in self.staff:
            yield self.send(number * DAY_S + 9 * 3600 + chance.uniform(0, 120), 587, mailbox, chance, 20_000)
            for _ in range(chance.randrange(25)):
                size = int(min(chance.lognormvariate(11, 1.8), 25 * _MEGABYTE))
                port = chance.choice((465, 587))
                yield self.send(number * DAY_S + _clock(chance, *_WORK), port, mailbox, chance, size)


class Webmail(User):
    """Roundcube in the user's own space: mail by two providers, with attachments."""

    share = 26

    def born(self, chance: random.Random) -> None:
        self.providers = chance.sample(PROVIDERS, 2)

    def day(self, number: int, chance: random.Random) -> Iterator[Attempt]:
        for _ in range(chance.randrange(40)):
            size = int(min(chance.lognormvariate(10, 2), 25 * _MEGABYTE))
            yield self.send(number * DAY_S + _clock(chance), 465, chance.choice(self.providers), chance, size)


KINDS: tuple[type[User], ...] = (
    Brochure,
    Form,
    Shop,
    Newsletter,
    Mautic,
    Monitoring,
    Backup,
    Crm,
    Webmail,
)


def make_users(seed: int) -> list[User]:
    """The 300 users of a host."""
    kinds = [kind for kind in KINDS for _ in range(kind.share)]
    return [kind(FIRST_UID + place, seed) for place, kind in enumerate(kinds)]


def spend_days(users: Iterable[User], days: range) -> Iterator[Attempt]:
    """What they all send, in order. A campaign that runs over midnight is put where it belongs."""
    users = tuple(users)
    later: list[Attempt] = []
    for number in days:
        found = sorted([*later, *(attempt for user in users for attempt in user.spend(number))])
        end_s = (number + 1) * DAY_S
        cut = len(found)
        while cut and found[cut - 1].at_s >= end_s:
            cut -= 1
        yield from found[:cut]
        later = found[cut:]
    yield from later


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A hacked site.

    Attributes:
        a_minute: Connects a minute, at uneven distances.
        relay: It has a stolen account of one relay (port 587) instead of speaking to the receivers' servers (25).
        seed: Of its recipients and times.
    """

    a_minute: float
    relay: bool = False
    seed: int = 1

    def attempts(self, uid: int, hours: float) -> Iterator[Attempt]:
        """Its attempts: half of all recipients are at big providers, each of the others has servers of their own."""
        chance = random.Random(f"{self.seed} {self.a_minute} {self.relay}")
        at_s, pause_s = 0.0, 60 / self.a_minute
        while at_s < hours * 3600:
            at_s += chance.uniform(0.5, 1.5) * pause_s
            if self.relay:
                to = SMARTHOST[0]
            elif chance.random() < 0.5:
                to = chance.choice(chance.choice(PROVIDERS))
            else:
                to = Network(chance.randrange(128, 190), chance.randrange(256), chance.randrange(256))
            yield Attempt(at_s, uid, 587 if self.relay else 25, to.address(chance), 3_000)


def in_time(seconds: float) -> int:
    """Event time of a second of the story; it begins long after the boot."""
    return round((seconds + 10_000 * 3600) * NS)


def with_reports(attempts: Iterable[Attempt], lasts_s: float = 3) -> Iterator[tuple[Attempt, bool]]:
    """Each attempt, and again (True) when its session ends."""
    open_sessions: deque[Attempt] = deque()
    for attempt in attempts:
        while open_sessions and open_sessions[0].at_s + lasts_s <= attempt.at_s:
            yield open_sessions.popleft(), True
        yield attempt, False
        open_sessions.append(attempt)
    for attempt in open_sessions:
        yield attempt, True
