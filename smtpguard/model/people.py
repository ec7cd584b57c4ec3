"""Whom an attempt counts for: a uid somewhere, and the account it is."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Standing = Literal["root", "mta", "exempt", "shared", "container", "tenant"]
_CONTAINED = 1 << 32
"""Beyond all uids."""


class Subject(NamedTuple):
    """Whom windows and blocks belong to: a uid and where it means somebody (a container's 1001 is not ours).

    Policy compares scopes and looks into none; policy/subjects.py says whom an attempt counts for. No dataclass, as it
    is a key: ten thousand blocks are looked up forty times each at a start, and a tuple's hash costs a fifth.

    Attributes:
        id: The account's uid; for a subordinate uid, its owner's.
        scope: Where that uid means somebody: None on this host, in the network namespace that the guard watches; else
            another network namespace, by its cookie.
    """

    id: int
    scope: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """Whose an account is, as the hosting panel says. What customers wrote themselves is untrusted.

    Attributes:
        domain: Their primary domain, lower case as in DNS; None if the panel names none.
        domains: Their domains, the primary one first; at most 100.
        reseller: The panel's name for who sold it to them; None for the host itself.
        package: The package or plan that they have.
        contact: One address that they can be reached at.
        language: In which language they use the panel, as `de`.
    """

    domain: str | None = None
    domains: tuple[str, ...] = ()
    reseller: str | None = None
    package: str | None = None
    contact: str | None = None
    language: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What is known of a subject's account, from what only root can write (passwd, group, subuid, login.defs).

    Attributes:
        uid: The account's uid.
        name: Login name that look-ups of the uid give; None if there is none, or it is not known yet.
        aliases: What else the account is called: further names of the uid, and configured spellings of a directory's.
        standing: Whom a verdict may hit: "root", "mta" and "exempt" are seen and never refused; "shared" is
            counted and told, not refused; so is "container", a uid that is nobody's on this host; "tenant" is refused.
        reason: Why it has that standing, for people.
        groups: Names of the groups the account is in.
        ranges: Subordinate uid ranges that belong to the account, as (first, count).
        customer: Whose it is; None if no panel knows it (yet), or none is asked.
    """

    uid: int
    name: str | None
    standing: Standing
    reason: str = ""
    aliases: tuple[str, ...] = ()
    groups: frozenset[str] = frozenset()
    ranges: tuple[tuple[int, int], ...] = ()
    customer: Customer | None = None

    @property
    def share(self) -> int:
        """Whose share of a budget it uses. All containers have one: root of one may take any number of uids."""
        return _CONTAINED if self.standing == "container" else self.uid

    @property
    def names(self) -> tuple[str, ...]:
        """All that the account is called, its login name first; empty if it has no name."""
        return self.aliases if self.name is None else (self.name, *self.aliases)

    def may_be(self, name: str | None) -> bool:
        """Whether what is bound to its uid and a name is this account's: so it is while either name is not known.

        Args:
            name: The name it was bound to; None if none was known then.
        """
        return name is None or self.name is None or name in self.names
