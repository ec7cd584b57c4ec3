"""What people may ask of a running guard through the control socket: one method a verb, plain values in and out.

Arguments are checked by serve/requests.py, and nowhere else. Whatever changes something is logged with who asked.
"""

import logging
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from smtpguard import __version__
from smtpguard.control.answer import Answer, Later, Pages, Stream
from smtpguard.control.connection import Peer, is_owner
from smtpguard.control.watch_item import TOPIC
from smtpguard.daemon.enforce.enforcement import Enforcement
from smtpguard.daemon.enforce.off_switch import OffSwitch
from smtpguard.daemon.guard import Guard
from smtpguard.daemon.record.learning_period import LearningPeriod
from smtpguard.daemon.record.recorder import Recorder
from smtpguard.daemon.serve.allow_command import AllowCommand
from smtpguard.daemon.serve.asker import Asker
from smtpguard.daemon.serve.block_command import BlockCommand
from smtpguard.daemon.serve.block_list import BlockList
from smtpguard.daemon.serve.commits import Commits
from smtpguard.daemon.serve.halve_command import HalveCommand
from smtpguard.daemon.serve.history_command import HistoryCommand
from smtpguard.daemon.serve.history_requests import (
    CloseRequest,
    HalveRequest,
    HistoryRequest,
    ReportRequest,
    ToldRequest,
    WhyRequest,
)
from smtpguard.daemon.serve.lookups import Lookups
from smtpguard.daemon.serve.nft_command import NftCommand
from smtpguard.daemon.serve.orders import GuardBlocks, Orders
from smtpguard.daemon.serve.reload import ReloadDone, Reloaded
from smtpguard.daemon.serve.report_command import ReportCommand
from smtpguard.daemon.serve.requests import (
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
from smtpguard.daemon.serve.switch_command import SwitchCommand
from smtpguard.daemon.serve.unblock import tell_digits, unblock
from smtpguard.daemon.serve.why_command import WhyCommand
from smtpguard.daemon.supervision import Supervision
from smtpguard.daemon.watches import Watches
from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.errors import GuardError, UnansweredError
from smtpguard.hooks import ClockNs, TellFail2ban
from smtpguard.model import NS
from smtpguard.text import join_sentences, render_user

log = logging.getLogger(__name__)

_ORDERS = frozenset({"block", "unblock", "allow", "halve", "off", "on", "told"})
"""What has to survive the next moment: answered when it is on the disk."""


class RequestReload(Protocol):
    """Has the configuration read again."""

    def __call__(self, done: ReloadDone) -> None:
        """Begin; `done` is called with what came of it."""


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
        guard: The configuration in force.
        orders: What carries out what is asked.
        enforcement: Whether the kernel does it.
        accounts: Who is who.
        now: CLOCK_BOOTTIME in nanoseconds.
        overview: What `status` shows.
        blocks: What `blocks` shows.
        block: What begins blocks.
        allow: What gives allowances.
        switch: The panic switch.
        tell_fail2ban: Called with the sources of blocks that a person ended, and the user as the log writes them.
        reload: Reads the configuration again, and calls what it is given with what came of it.
        lookups: Has requests wait for names that are being looked up.
        commits: Has answers wait for the disk.
        learning_period: What is known of who has sent.
        supervision: Counts our own mistakes.
        recorder: Keeps the history of what was done, and for whom.
        history: What tells of the past.
        why: What tells of one user.
        report: What tells of all.
        halve: What has limits halved for a time.
        watches: Whose limits are.
    """

    def __init__(
        self,
        guard: Guard,
        orders: Orders,
        enforcement: Enforcement,
        *,
        accounts: AccountDirectory,
        now: ClockNs,
        overview: Status,
        blocks: BlockList,
        block: BlockCommand,
        allow: AllowCommand,
        switch: OffSwitch,
        tell_fail2ban: TellFail2ban,
        reload: RequestReload,
        lookups: Lookups,
        commits: Commits,
        learning_period: LearningPeriod,
        supervision: Supervision,
        recorder: Recorder,
        history: HistoryCommand,
        why: WhyCommand,
        report: ReportCommand,
        halve: HalveCommand,
        watches: Watches,
    ) -> None:
        self._guard = guard
        self._orders = orders
        self._enforcement = enforcement
        self._accounts = accounts
        self._now = now
        self._overview = overview
        self._block_list = blocks
        self._switch = switch
        self._watches = watches
        self._tell_fail2ban = tell_fail2ban
        self._reload = reload
        self._lookups = lookups
        self._commits = commits
        self._learning_period = learning_period
        self._supervision = supervision
        self._recorder = recorder
        power = SwitchCommand(switch, enforcement)
        self.verbs: dict[str, Verb[Any]] = {
            "status": Verb(Request, self._status),
            "blocks": Verb(Request, self._blocks),
            "block": Verb(BlockRequest, block),
            "unblock": Verb(UnblockRequest, self._unblock),
            "reload": Verb(Request, self._do_reload),
            TOPIC: Verb(Request, self._watch),
            "nft": Verb(NftRequest, NftCommand(guard, enforcement, recorder)),
            "allow": Verb(AllowRequest, allow),
            "off": Verb(OffRequest, power.off),
            "on": Verb(Request, power.on),
            "learn": Verb(LearnRequest, self._learn),
            "events": Verb(HistoryRequest, history.events),
            "incidents": Verb(HistoryRequest, history.incidents),
            "note": Verb(UserRequest, history.note),
            "why": Verb(WhyRequest, why),
            "report": Verb(ReportRequest, report),
            "close": Verb(CloseRequest, history.close),
            "told": Verb(ToldRequest, history.told),
            "halve": Verb(HalveRequest, halve),
        }

    def handle(self, peer: Peer, verb: str, args: Args) -> Answer:
        """Answer one request; one that finds a mistake of ours is answered too, and ends nothing.

        Args:
            peer: Who asks.
            verb: What is asked.
            args: Its arguments.

        Raises:
            GuardError: It can't be done; says why.
        """
        try:
            return self._handle(peer, verb, args)
        except GuardError:
            raise
        except Exception as error:
            self._supervision.record("control", error)
            what = f"{verb} failed by a mistake of smtpguard's own: {type(error).__name__}: {error}"
            raise GuardError(what, fix="the guard goes on; please report what its log says") from error

    def _handle(self, peer: Peer, verb: str, args: Args) -> Answer:
        found = self.verbs.get(verb)
        if found is None:
            raise GuardError(f"this guard has no verb {verb!r}", fix=f"it is smtpguard {__version__}: restart it?")
        request = read_request(found.shape, verb, args)
        user = render_user(peer.uid, peer.name)
        asker = Asker(who=f"{user} (pid {peer.pid})", user=user, is_member=not is_owner(peer))

        def serve() -> Answer:
            self._recorder.asker = user
            try:
                said = found.serve(request, asker)
            finally:
                self._recorder.asker = None
            if isinstance(said, dict) and "text" in said and (taken := tell_digits(request, self._accounts)):
                said["text"] = join_sentences(said["text"], f"Note: {taken}")
                log.warning("%s: %s", verb, taken)
            return self._commits.answer(said) if isinstance(said, dict) and verb in _ORDERS else said

        try:
            return serve()
        except UnansweredError as error:
            if not error.is_pending:
                raise
            return self._lookups.wait(serve)

    def _status(self, request: Request, asker: Asker) -> Answer:
        del request, asker
        return {"status": self._overview.collect()}

    def _blocks(self, request: Request, asker: Asker) -> Answer:
        del request, asker
        off = None
        if self._switch.is_off:
            until_ns = self._switch.until_ns
            off = {"until": None if until_ns is None else until_ns / NS}
        return Pages(head={"off": off, "watched": self._watches.collect()}, items=self._block_list.collect())

    def _unblock(self, request: UnblockRequest, asker: Asker) -> Answer:
        blocks, tell = GuardBlocks(self._orders), self._forget_in_jail
        done = unblock(request, accounts=self._accounts, blocks=blocks, tell_fail2ban=tell)
        if request.source:
            return {"text": done.text}
        if done.freed:
            log.warning("%s may send again, asked by %s", ", ".join(done.freed[:20]), asker.who)
        if self._enforcement.health.may_refuse_freed():
            troubles = "; ".join(self._enforcement.health.troubles())
            whom = ", ".join(done.freed[:20]) or request.user or "a user"
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
            self._recorder.change("reload", by="admin", reason=answer.text, who=asker.user)
            told = {"text": answer.text, "changed": [*answer.changed], "waiting": [*answer.waiting]}
            later.resolve({**told, "config": self._guard.settings.path or ""})

        self._reload(done)
        return later

    def _learn(self, request: LearnRequest, asker: Asker) -> Answer:
        spans = tuple((first, last) for first, last in request.spans if first <= last)
        self._learning_period.learn(spans, {(uid, port): wall_ns for uid, port, wall_ns in request.seen})
        if spans:
            log.warning("learned from logs who has sent, asked by %s", asker.who)
        return {"waiting": self._learning_period.waiting(self._guard.settings, self._now())}

    def _watch(self, request: Request, asker: Asker) -> Answer:
        del request, asker
        return Stream(topic=TOPIC, head={})
