"""The nftables table of the `nflog` source: has SYNs to SMTP ports logged, within a budget for each uid.

What is beyond a uid's budget is counted in the table instead, by uid and port. A subordinate uid has a budget of its
own: nftables knows no owners. SYNs to loopback are left out where it does not count: whoever likes can make any number
of them.
"""

from collections.abc import Iterable
from string import Template

from smtpguard.decode.netlink.messages import split_attributes
from smtpguard.decode.netlink.nft_elements import read_port_counts
from smtpguard.decode.netlink.nft_numbers import Kind, render_delete_table, render_names
from smtpguard.decode.netlink.nft_ruleset import read_dormant
from smtpguard.errors import EnforceError, SourceError
from smtpguard.kernel.nft.access import Nft, NftError
from smtpguard.kernel.nft.wire import render_create, render_flush
from smtpguard.resources import read_resource
from smtpguard.sources.base import Unsent

RATE = 2000
"""So many SYNs a second of one uid are told of, and so many at once: as in bpf/budget.bpf.h."""


class NflogTable:
    """The table.

    Args:
        name: What it is called.
        group: Of nfnetlink_log.
        nft: The way to nft.
    """

    def __init__(self, name: str, group: int, nft: Nft) -> None:
        self.name = name
        self._group = group
        self._nft = nft
        self._rules = 0

    def load(self, ports: Iterable[int], *, loopback: bool) -> None:
        """Make it, or make it anew. Raises SourceError; then what was there is there still.

        Args:
            ports: Which are SMTP.
            loopback: Whether connections to loopback are told of.
        """
        numbers = sorted(ports)
        text = Template(read_resource("nft", "watch.nft")).substitute(
            table=self.name,
            ports=", ".join(map(str, numbers)),  # asked for by templates of before 0.2
            group=self._group,
            rate=RATE,
            loopback="" if loopback else read_resource("nft", "watch-loopback.nft").rstrip("\n"),
        )
        nft = self._nft
        try:
            ruleset = nft.compile(self.name, text)
            contents = []
            if "ports" in ruleset.sets:
                elements = [(port, port, None, "") for port in numbers]
                contents = [*render_flush(self.name, "ports"), *render_create(self.name, "ports", elements, 2)]
            load = ruleset.render(contents)
            try:
                nft.transact(load)
            except NftError as error:
                if not (error.present or error.unsupported):
                    raise
                nft.transact([*render_delete_table(self.name), *load])  # a chain of another shape, an older version's
            self._rules = len(ruleset.rules)
        except EnforceError as error:
            raise SourceError(f"the log rule was refused: {error.what}", where=f"table inet {self.name}") from error

    def is_whole(self) -> bool:
        """Whether the table is awake and its chains have their rules."""
        try:
            [table] = self._nft.get(Kind.GETTABLE, render_names(self.name), dump=False)
            rules = self._nft.get(Kind.GETRULE, render_names(self.name), dump=True)
            return not read_dormant(table) and len(rules) == self._rules
        except (NftError, ValueError):
            return False

    def read_unsent(self) -> list[Unsent]:
        """What was counted and not told of, of the last day. Raises SourceError."""
        try:
            bodies = self._nft.get(Kind.GETSETELEM, render_names(self.name, "unsent"), dump=True)
        except NftError as error:
            if error.missing:  # somebody's own template, or somebody took it
                return []
            raise SourceError(f"what was not told of can't be read: {error.what}", where="nflog") from error
        counts = read_port_counts([split_attributes(body).get(3, b"") for body in bodies])
        return [
            Unsent(owner=uid, port=port, refused_by=None, news=None, count=count)
            for (uid, port), count in counts.items()
        ]

    def delete(self) -> None:
        """Take it away. Raises EnforceError."""
        self._nft.transact(render_delete_table(self.name))
