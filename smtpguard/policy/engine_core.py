"""What the parts of an engine share: configuration, subjects, blocks, verdicts and the time. Nobody else holds it."""

from smtpguard.policy.blocks import BlockTable
from smtpguard.policy.directory import Directory
from smtpguard.policy.roster import Limits, Roster
from smtpguard.policy.rules import check_rules
from smtpguard.policy.subject_state import SubjectState
from smtpguard.policy.verdicts import Verdicts
from smtpguard.policy.windows import NEVER
from smtpguard.settings import Settings


class EngineCore:
    """What the parts of an engine share.

    Args:
        settings: The configuration.
        directory: Accounts.
        limits: How much may be held.

    Attributes:
        settings: The configuration.
        blocks: All blocks and throttles, the report-only ones too.
        roster: All subjects with their windows.
        verdicts: What follows from a rule that is exceeded.
        now_ns: Event time of the last `tick`.

    Raises:
        ConfigError: A rule counts what can't be counted.
    """

    __slots__ = ("blocks", "now_ns", "roster", "settings", "verdicts")

    def __init__(self, settings: Settings, directory: Directory, limits: Limits) -> None:
        check_rules(settings)
        self.settings = settings
        self.blocks = BlockTable()
        self.roster = Roster(settings, directory, limits, lambda subject: bool(self.blocks.of(subject)))
        self.verdicts = Verdicts(settings, self.blocks)
        self.now_ns = NEVER

    def settle(self, watched: SubjectState) -> None:
        """Tell the fast path from when on the subject's attempts are neither late nor inside a block.

        Due after everything that changes the subject's blocks: the fast path does not ask for them.
        """
        clear_ns = self.blocks.clear_ns(watched.subject)
        for book in watched.books:
            book.ready_ns = book.newest_ns()
            book.clear_ns = clear_ns
            book.ahead = None
