"""The rows of `blocks`."""

from collections import Counter
from unittest.mock import Mock

from smtpguard.daemon.serve.block_list import BlockList
from smtpguard.model import NS, Subject
from tests.support.policy import person


def test_what_would_be_refused_has_refused_nothing() -> None:
    """A block of the dry run stays in the list when that ends; what another block refuses is not its own."""
    user = Subject(id=1001)
    held = [
        Mock(subject=user, until_ns=9 * NS, since_ns=0, reason="", ports=None, mode=mode)
        for mode in ("dry-run", "enforce")
    ]
    execution = Mock(refused=Counter({user: 9}), account_of=lambda _: person(1001, "tenant"))
    rows = BlockList(Mock(blocks=lambda: held, allowances=list), execution, Mock(offset_ns=0), lambda: 0).collect()
    assert [(row["mode"], row["refused"]) for row in rows] == [("dry-run", 0), ("enforce", 9)]
