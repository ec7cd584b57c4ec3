"""What people may ask of a running guard through the control socket: one method a verb, plain values in and out.

Arguments are checked by serve/requests.py, and nowhere else. Whatever changes something is logged with who asked.
"""

import logging
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from smtpguard import __version__
from smtpguard.clock import render_moment
from smtpguard.control.connection import Later, Pages, Peer
from smtpguard.control.server import Answer, Stream, is_owner
from smtpguard.control.watch_item import TOPIC
from smtpguard.daemon.enforce.off_switch import OffSwitch
from smtpguard.daemon.record.learning import Learning
from smtpguard.daemon.serve.allowance_terms import check_member, check_standing, render_kept, render_much
from smtpguard.daemon.serve.block_list import list_blocks
from smtpguard.daemon.serve.block_wish import USUAL_NS, check_ports, merge_wish
from smtpguard.daemon.serve.commits import Commits
from smtpguard.daemon.serve.jail_bans import JailBans
from smtpguard.daemon.serve.lookups import Lookups
from smtpguard.daemon.serve.orders import GuardBlocks, Orders
from smtpguard.daemon.serve.reload import ReloadDone, Reloaded
from smtpguard.daemon.serve.requests import (
    MAX_SPAN_NS,
    AllowRequest,
    Args,
    BlockRequest,
    LearnRequest,
    NftRequest,
    OffRequest,
    Request,
    UnblockRequest,
    UserRequest,
    read_request,
)
from smtpguard.daemon.serve.status import Status
from smtpguard.daemon.serve.unblock import MAX_REASON, Wish, find_account, unblock
from smtpguard.errors import GuardError, PolicyError
from smtpguard.hooks import TellFail2ban
from smtpguard.model import NS, Account, Allowance, Block, Subject
from smtpguard.text import join_sentences, render_ports, render_user

log = logging.getLogger(__name__)

_ORDERS = frozenset({"block", "unblock", "allow", "off", "on"})
"""What has to survive the next moment: answered when it is on the disk."""

_MAX_ID = 255
_MAX_IDS = 8
OFF_NS = 4 * 3600 * NS
"""How long the guard is off for which no time was said: whoever forgets it is guarded again by the next shift."""


class RequestReload(Protocol):
    """Has the configuration read again."""

    def __call__(self, done: ReloadDone) -> None:
        """Begin; `done` is called with what came of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Who asks.

    Attributes:
        who: For the log.
        is_member: Whether they are a member of control.group only.
    """

    who: str
    is_member: bool


R_contra = TypeVar("R_contra", bound=Request, contravariant=True)
R = TypeVar("R", bound=Request)


class Serve(Protocol[R_contra]):
    """Answers one kind of request."""

    def __call__(self, request: R_contra, asker: Asker, /) -> Answer:
        """What came of it. Raises GuardError."""
        ...


@dataclass(frozen=True, slots=True)
class Verb(Generic[R]):
    """What may be asked.

    Attributes:
        shape: What its requests say.
        serve: What answers them.
    """

    shape: type[R]
    serve: Serve[R]


class Handlers:
    """Answers requests.

    Args:
        orders: What carries out what is asked.
        overview: What `status` shows.
        switch: The panic switch.
        tell_fail2ban: Called with the sources of blocks that a person ended, and the user as the log writes him.
        reload: Reads the configuration again, and calls what it is given with what came of it.
        lookups: Has requests wait for names that are being looked up.
        commits: Has answers wait for the disk.
        learning: What is known of who has sent.
    """

    def __init__(
        self,
        orders: Orders,
        overview: Status,
        *,
        switch: OffSwitch,
        tell_fail2ban: TellFail2ban,
        reload: RequestReload,
        lookups: Lookups,
        commits: Commits,
        learning: Learning,
    ) -> None:
        self._guard = orders.guard
        self._orders = orders
        self._jail = JailBans(orders)
        self._guard.jail = self._jail
        self._overview = overview
        self._switch = switch
        self._tell_fail2ban = tell_fail2ban
        self._reload = reload
        self._lookups = lookups
        self._commits = commits
        self._learning = learning
        self.verbs: dict[str, Verb[Any]] = {
            "status": Verb(Request, self._status),
            "blocks": Verb(Request, self._blocks),
            "block": Verb(BlockRequest, self._block),
            "unblock": Verb(UnblockRequest, self._unblock),
            "reload": Verb(Request, self._do_reload),
            TOPIC: Verb(Request, self._watch),
            "nft": Verb(NftRequest, self._nft),
            "allow": Verb(AllowRequest, self._allow),
            "off": Verb(OffRequest, self._off),
            "on": Verb(Request, self._on),
            "learn": Verb(LearnRequest, self._learn),
        }

    def handle(self, peer: Peer, verb: str, args: Args) -> Answer:
        """Answer one request.

        Args:
            peer: Who asks.
            verb: What is asked.
            args: Its arguments.

        Raises:
            GuardError: It can't be done; says why.
        """
        found = self.verbs.get(verb)
        if found is None:
            raise GuardError(f"this guard has no verb {verb!r}", fix=f"it is smtpguard {__version__}: restart it?")
        request = read_request(found.shape, verb, args)
        who = f"{render_user(peer.uid, peer.name)} (pid {peer.pid})"
        asker = Asker(who=who, is_member=not is_owner(peer))

        def serve() -> Answer:
            said = found.serve(request, asker)
            if isinstance(said, dict) and "text" in said and (taken := self._taken(request)):
                said["text"] = join_sentences(said["text"], f"Note: {taken}")
                log.warning("%s: %s", verb, taken)
            return self._commits.answer(said) if isinstance(said, dict) and verb in _ORDERS else said

        return self._lookups.answer(serve)

    def _status(self, request: Request, asker: Asker) -> Answer:
        del request, asker
        return {"status": self._overview.collect()}

    def _blocks(self, request: Request, asker: Asker) -> Answer:
        del request, asker
        off = None
        if self._switch.is_off:
            until_ns = self._switch.until_ns
            off = {"until": None if until_ns is None else until_ns / NS}
        return Pages(head={"off": off}, items=list_blocks(self._guard))

    def _block(self, request: BlockRequest, asker: Asker) -> Answer:
        guard = self._guard
        source = request.source or "admin"
        account = self._find(request, from_fail2ban=source != "admin")
        user = render_user(account.uid, account.name)
        subject = Subject(id=account.uid)
        now_ns = guard.now()
        # fail2ban's bantime -1, a ban without end, is the longest that a person can ask for.
        usual_ns = USUAL_NS if source == "admin" else MAX_SPAN_NS
        length_ns = min(request.for_ns if request.for_ns is not None else usual_ns, MAX_SPAN_NS)
        ports = check_ports(request.ports, guard.settings.ports)
        since_ns = now_ns
        if source != "admin":
            if request.at is not None:
                since_ns = min(now_ns, round(request.at * NS) - guard.wall.offset_ns)
            if account.standing != "tenant":
                raise PolicyError(f"{user} is not blocked: {account.standing}: {account.reason}")
            if since_ns + length_ns <= now_ns:
                return {"text": f"{user} is not blocked: that ban is over already"}
            if guard.doubts is not None and guard.doubts.is_undone(subject, since_ns):
                self._tell_fail2ban([source], request.user or user)
                return {"text": f"{user} is not blocked: that verdict was over an exempt destination"}
            if ports is None:
                ports = self._jail.ports_of(subject, source, since_ns)
            if guard.settings.dry_run:
                until = self._moment(since_ns + length_ns)
                return {"text": f"DRY RUN, nothing refused: would block {user} until {until}"}
        block = Block(
            subject=subject,
            name=account.name,
            source=source,
            kind="block",
            since_ns=now_ns,
            until_ns=since_ns + length_ns,
            mode="enforce",
            reason=request.reason[:MAX_REASON],
            ids=self._list_ids(subject, source, request.user),
            ports=ports,
        )
        before_ns = None
        if source == "admin":
            merged = merge_wish(block, guard.engine.blocks_of(subject), has_length=request.for_ns is not None)
            block, before_ns = merged.block, merged.before_ns
        fine = self._orders.begin(block, force=request.force)
        log.warning("block %s by %s, asked by %s", user, source, asker.who)
        text = f"{user} is blocked{render_ports(ports)} until {self._moment(block.until_ns)}"
        if before_ns is not None:
            text += f" (was until {self._moment(before_ns)}, now {self._moment(block.until_ns)})"
        if self._switch.is_off:
            text += ". smtpguard is OFF: nothing is refused before `smtpguard on`"
        elif guard.settings.dry_run:
            text += " (enforced, although this is a dry run)"
        if account.standing == "shared":
            text += f". Note: {account.reason}: every site that runs as {user} is blocked"
        if not fine:
            raise self._not_carried_out(text)
        return {"text": text, "until": (block.until_ns + guard.wall.offset_ns) / NS}

    def _list_ids(self, subject: Subject, source: str, known_as: str) -> tuple[str, ...]:
        """Every id under which a jail holds a user: a person may ban by uid whom the log calls by name."""
        if source == "admin":
            return ()
        held = [id_ for b in self._guard.engine.blocks_of(subject) if b.source == source for id_ in b.ids]
        known = dict.fromkeys((*held, *filter(None, [known_as[:_MAX_ID]])))
        return tuple(known)[-_MAX_IDS:]

    def _unblock(self, request: UnblockRequest, asker: Asker) -> Answer:
        wish = Wish(
            user=request.user,
            uid=request.uid,
            everybody=request.everybody,
            source=request.source,
            reason=request.reason,
        )
        done = unblock(
            wish, accounts=self._guard.accounts, blocks=GuardBlocks(self._orders), tell_fail2ban=self._forget_in_jail
        )
        if wish.source:
            return {"text": done.text}
        if done.freed:
            log.warning("unblock %s, asked by %s", ", ".join(done.freed[:20]), asker.who)
        enforcement = self._guard.enforcement
        if enforcement.may_refuse_freed():
            troubles = "; ".join(enforcement.troubles())
            whom = ", ".join(done.freed[:20]) or wish.user or "a user"
            what = f"{whom} may still be refused by the kernel: {troubles}"
            raise GuardError(what, fix="it is tried again")
        return {"text": done.text, "freed": done.freed}

    def _forget_in_jail(self, *, jail: str, known_as: str) -> None:
        self._tell_fail2ban([f"fail2ban:{jail}"], known_as)

    def _do_reload(self, request: Request, asker: Asker) -> Answer:
        del request
        log.warning("reload asked by %s", asker.who)
        later = Later()

        def done(answer: Reloaded | GuardError) -> None:
            if isinstance(answer, GuardError):
                later.resolve(answer)
                return
            if (unmet := answer.as_error()) is not None:
                log.error("%s", unmet)
                later.resolve(unmet)
                return
            log.info("%s", answer.text)
            told = {"text": answer.text, "changed": [*answer.changed], "waiting": [*answer.waiting]}
            later.resolve({**told, "config": self._guard.settings.path or ""})

        self._reload(done)
        return later

    def _allow(self, request: AllowRequest, asker: Asker) -> Answer:
        guard = self._guard
        account = self._find(request)
        user = render_user(account.uid, account.name)
        subject = Subject(id=account.uid)
        reason = request.reason[:MAX_REASON]
        if request.for_ns is None or request.end:
            ended = self._orders.end_allowance(subject, reason=reason)
            log.warning("allow --end %s, asked by %s", user, asker.who)
            return self._told_kernel(
                f"Allowance of {user} removed. Normal limits apply now." if ended else f"{user} has no allowance."
            )
        note = check_standing(account, user)
        now_ns = guard.now()
        allowance = Allowance(
            subject=subject,
            name=account.name,
            since_ns=now_ns,
            until_ns=now_ns + request.for_ns,
            by="admin",
            reason=reason,
            limit=request.limit,
            window_ns=request.window_ns,
            everything=request.everything,
        )
        if asker.is_member:
            longest_ns = guard.settings.control_allow_max_ns
            check_member(allowance, guard.engine.blocks_of(subject), longest_ns=longest_ns)
        self._orders.allow(allowance)
        log.warning("allow %s, asked by %s", user, asker.who)
        return self._told_kernel(
            f"{user} may open {render_much(allowance)} until {self._moment(allowance.until_ns)}"
            f"{render_kept(allowance)}{note}"
        )

    def _told_kernel(self, text: str) -> Answer:
        """What was done about an allowance, if the kernel does it too."""
        enforcement = self._guard.enforcement
        if enforcement.may_refuse_freed() or not enforcement.reconciler.knows_exemptions():
            raise self._not_carried_out(text)
        return {"text": text}

    def _not_carried_out(self, text: str) -> GuardError:
        troubles = "; ".join(self._guard.enforcement.troubles())
        what = join_sentences(text, f"But the kernel does not carry it out yet: {troubles}")
        return GuardError(what, fix="it is tried again")

    def _off(self, request: OffRequest, asker: Asker) -> Answer:
        span_ns = None if request.ever else request.for_ns or OFF_NS
        lifted = self._switch.switch_off(span_ns, by=asker.who)
        until_ns = self._switch.until_ns
        tail = f"until {render_moment(until_ns / NS)}" if until_ns is not None else "until `smtpguard on`"
        if not lifted:
            trouble = self._guard.enforcement.activation.trouble
            what = f"OFF {tail}. But the nft table can't be removed, and may still refuse: {trouble}"
            raise GuardError(what, fix="it is tried again every second")
        return {"text": f"OFF {tail}: nobody is refused, watching goes on. Switch on: smtpguard on"}

    def _on(self, request: Request, asker: Asker) -> Answer:
        del request
        if not self._switch.is_off:
            return {"text": "It is on already."}
        if not self._switch.switch_on(by=asker.who):
            trouble = self._guard.enforcement.activation.trouble
            what = f"ON. But the nft table can't be put back: {trouble}"
            raise GuardError(what, fix="it is tried again every second")
        return {"text": "ON. Blocks are in force again for the rest of their time."}

    def _learn(self, request: LearnRequest, asker: Asker) -> Answer:
        guard = self._guard
        spans = tuple((first, last) for first, last in request.spans if first <= last)
        self._learning.learn(spans, {(uid, port): wall_ns for uid, port, wall_ns in request.seen})
        if spans:
            log.warning("learned from logs who has sent, asked by %s", asker.who)
        return {"waiting": self._learning.waiting(guard.settings, guard.now())}

    def _nft(self, request: NftRequest, asker: Asker) -> Answer:
        """`nft ensure` and `nft remove`: what was removed so is not healed."""
        guard, do = self._guard, request.do
        table = f"table inet {guard.settings.nft_table}"
        log.warning("nft %s asked by %s", do, asker.who)
        activation = guard.enforcement.activation
        guard.enforcement.healing = do == "ensure"
        if not guard.enforcement.refresh("table"):
            raise GuardError(f"{table}: {activation.trouble}", fix="it is tried again every second")
        if do == "remove":
            return {"text": f"{table} is removed. It comes back with: smtpguard nft ensure"}
        if not activation.up:
            return {"text": f"{table} is not needed: this is a dry run, and nobody is blocked by hand."}
        return {"text": f"{table} is in place"}

    def _watch(self, request: Request, asker: Asker) -> Answer:
        del request, asker
        return Stream(topic=TOPIC, head={})

    def _find(self, request: UserRequest, *, from_fail2ban: bool = False) -> Account:
        """The account that a request is about."""
        return find_account(self._guard.accounts, user=request.user, uid=request.uid, from_fail2ban=from_fail2ban)

    def _taken(self, request: Request) -> str:
        """What to add to an answer where digits name two: a uid, and an account that is called so."""
        if not isinstance(request, UserRequest) or request.uid is not None:
            return ""
        name = request.user
        namesake = self._guard.accounts.find_namesake(name)
        if namesake is None:
            return ""
        if isinstance(request, BlockRequest | UnblockRequest) and request.source:
            return f"{name} was taken as the name of uid:{namesake}; the uid would be uid:{name.lstrip('0') or '0'}"
        return f"{name} was taken as a uid; the account called {name} is uid:{namesake}"

    def _moment(self, time_ns: int) -> str:
        return render_moment((time_ns + self._guard.wall.offset_ns) / NS)
