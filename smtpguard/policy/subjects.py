"""Whose uid is this: the one place that says whom an attempt counts for, and what account that is.

A uid of a subordinate range counts for its owner wherever it is seen (THREATS 3). Root's ranges are containers (LXC,
Proxmox, `nspawn -U`, rootful podman): each of their uids counts for itself, on the host's own network too, is told of
and never refused but by a person's word: it is not root, and no customer of the host either (THREATS 1, 4).
"""

from smtpguard.model import Account, Subject
from smtpguard.policy.directory import Directory

FOREIGN = "in another network namespace"
OF_ROOT = "in a subordinate range of root's"
HEARSAY = (1 << 62) + 1
"""The scope of what a sensor that can be fooled was alone to see: windows of their own, report-only. No namespace's."""


def subject_of(directory: Directory, uid: int, scope: int | None = None) -> Subject:
    """Whom a uid counts for.

    Args:
        directory: Accounts.
        uid: As a sensor, a file or a person gives it.
        scope: Where it was seen; None on this host.
    """
    owner = directory.owner(uid)
    if owner in {uid, 0} or scope == HEARSAY:
        return Subject(id=owner or uid, scope=scope)
    return Subject(id=owner)


def account_of(directory: Directory, subject: Subject) -> Account:
    """The account of a subject; a container's uid has none of the host's, whatever its number.

    Args:
        directory: Accounts.
        subject: Whose.
    """
    uid = subject.id
    if uid == 0:
        return directory.account(uid)
    if subject.scope is not None and subject.scope != HEARSAY:
        return Account(uid=uid, name=None, standing="container", reason=FOREIGN)
    account = directory.account(uid)
    if directory.owner(uid) == 0 and account.standing != "exempt":
        return Account(uid=uid, name=None, standing="container", reason=OF_ROOT)
    return account
