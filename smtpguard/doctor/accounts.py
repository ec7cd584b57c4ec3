"""Who would never be refused here, and who could hurt whom: mail servers, shared users, subordinate uids."""

import re
from collections.abc import Iterator

from smtpguard.doctor.finding import ExaminedHost, Finding
from smtpguard.doctor.sites import read_pools
from smtpguard.errors import UnansweredError
from smtpguard.model import Account
from smtpguard.policy.standing import MTA_NAMES, OVERFLOW_UID
from smtpguard.text import render_user

MAX_SHOWN = 10
FIRST_OLD_UID = 500
"""Where people's uids began on Red Hat until version 6, and panels kept them."""
MAX_PASSWD_BYTES = 64 << 20
_NO_LOGIN = ("/nologin", "/false", "/sync", "/shutdown", "/halt")
_PANEL_PLACES = ("var/cpanel/users", "usr/local/directadmin/data/users", "usr/local/hestia/data/users")
_SUBID = re.compile(r"^\s*subid:\s*(.+)$", re.MULTILINE)


def check_mail_servers(host: ExaminedHost) -> Iterator[Finding]:
    """Accounts of mail servers; they and root are never refused."""
    yield judge_mail_servers([_show(account) for account in host.accounts.mail_servers()])


def judge_mail_servers(names: list[str]) -> Finding:
    """What it means which mail servers' accounts were found.

    Args:
        names: Of them.
    """
    name = "mail servers"
    if not names:
        return Finding(
            name=name,
            level="note",
            found="no mail server account was found",
            means="a mail server under its own user would be counted, and may be throttled or blocked",
            fix="name its user in exempt.users",
        )
    return Finding(name=name, level="ok", found=f"never blocked (mail server accounts): {_join(names)}")


def check_chosen_names(host: ExaminedHost) -> Iterator[Finding]:
    """Accounts of people, by their uid, to whom a name gives standing or seems to."""
    protected: list[str] = []
    lookalikes: list[str] = []
    uid_min = host.accounts.facts.uid_min
    for uid in host.accounts.listed_uids():
        if uid < uid_min or uid == OVERFLOW_UID:
            continue
        account = host.accounts.account(uid)
        if account.standing == "tenant" and account.name in host.settings.shared_shipped | MTA_NAMES:
            lookalikes.append(_show(account))
        elif account.reason.startswith(("shared_users", "exempt.users")):
            protected.append(f"{_show(account)} ({account.reason})")
    yield judge_chosen_names(protected, lookalikes, uid_min)


def judge_chosen_names(protected: list[str], lookalikes: list[str], uid_min: int) -> Finding:
    """What it means that accounts of people have such names.

    Args:
        protected: Whom a name in the configuration protects, each with what says so.
        lookalikes: Who is called like a service and is a tenant like any other.
        uid_min: First uid of people.
    """
    name = "names that protect"
    if lookalikes:
        return Finding(
            name=name,
            level="note",
            found=f"called like a service, uid {uid_min} or above: {_join(lookalikes)}",
            means="limited like any customer: at sign-up anybody may choose such a name",
            fix="if it really serves many customers: list it in shared_users.users, or in exempt.users",
        )
    if protected:
        return Finding(
            name=name,
            level="note",
            found=f"never blocked, by name: {_join(protected)}",
            means="whoever gets one of these names is protected too",
        )
    return Finding(name=name, level="ok", found=f"no name protects an account of uid {uid_min} or above")


def check_old_numbers(host: ExaminedHost) -> Iterator[Finding]:
    """Customers below UID_MIN, as hosts have them that kept the numbers of before 2011."""
    uid_min = host.accounts.facts.uid_min
    found: list[str] = []
    for line in (host.read("etc/passwd", MAX_PASSWD_BYTES) or "").splitlines():
        fields = line.split(":")
        if len(fields) < 7 or not (fields[2].isascii() and fields[2].isdigit()):
            continue
        uid, home, shell = int(fields[2]), fields[5], fields[6]
        if not FIRST_OLD_UID <= uid < uid_min or host.accounts.account(uid).standing != "shared":
            continue
        lives_here = home.startswith("/home") and not shell.endswith(_NO_LOGIN)
        if lives_here or any(
            (host.root / place / fields[0]).exists() for place in _PANEL_PLACES if "/" not in fields[0]
        ):
            found.append(render_user(uid, fields[0]))
    yield judge_old_numbers(found, uid_min)


def judge_old_numbers(found: list[str], uid_min: int) -> Finding:
    """What it means which customers are below UID_MIN.

    Args:
        found: Who.
        uid_min: First uid of people.
    """
    name = "old numbers"
    if not found:
        return Finding(name=name, level="ok", found=f"no customer's uid is below {uid_min}")
    return Finding(
        name=name,
        level="bad",
        found=f"customers with a uid below {uid_min}: {_join(found)}",
        means="taken for system accounts: counted and reported, never refused",
        fix=f"uid_min: {FIRST_OLD_UID} in the configuration",
    )


def check_shared(host: ExaminedHost) -> Iterator[Finding]:
    """Which sites share a uid, and what that means for a block of it."""
    pools, problems = read_pools(host.root)
    sites: dict[Account, list[str]] = {}
    unknown = 0
    for user, names in pools.items():
        try:
            account = host.accounts.lookup.by_name(user) if unknown < MAX_SHOWN else None
        except UnansweredError as error:
            problems = [*problems, error.what]
            if len(problems) > MAX_SHOWN:
                break  # each takes a second
            continue
        unknown += account is None
        if account is not None:
            sites[account] = sites.get(account, []) + names
    yield from judge_shared(sites, blockable=host.settings.shared_block)
    if unknown:
        found = f"{unknown} users of PHP pools are no accounts of this host"
        yield Finding(name="shared users", level="note", found=found)
    for problem in problems:
        yield Finding(name="shared users", level="unknown", found=problem)


def judge_shared(sites: dict[Account, list[str]], *, blockable: frozenset[str]) -> Iterator[Finding]:
    """What it means which sites run under which account.

    Args:
        sites: Account to names of PHP-FPM pools that run under it.
        blockable: shared_users.block.
    """
    name = "shared users"
    nothing = True
    for account, pools in sorted(sites.items(), key=lambda item: item[0].uid):
        shown = f"{_show(account)} runs {len(pools)} PHP pools: {_join(sorted(pools))}"
        if account.standing == "shared" and not blockable.isdisjoint(account.names):
            nothing = False
            yield Finding(name=name, level="note", found=shown, means="a block stops all of these sites' mail")
        elif account.standing == "shared":
            nothing = False
            yield Finding(
                name=name,
                level="bad" if len(pools) > 1 else "note",
                found=shown,
                means="counted and reported, never refused: a hacked site among them goes on sending",
                fix="give each site a user of its own, or list the user in shared_users.block",
            )
        elif len(pools) > 1:
            nothing = False
            yield Finding(name=name, level="note", found=shown, means="a block stops all of these sites' mail")
    if nothing:
        yield Finding(name=name, level="ok", found="no PHP pools of several sites under one user")


def check_subordinate(host: ExaminedHost) -> Iterator[Finding]:
    """Subordinate uids, for which their owner answers."""
    match = _SUBID.search(host.read("etc/nsswitch.conf") or "")
    elsewhere = match[1].split() if match and match[1].split() != ["files"] else []
    yield judge_subordinate(len(host.accounts.ranges()), list(host.accounts.problems), elsewhere)


def judge_subordinate(count: int, problems: list[str], elsewhere: list[str]) -> Finding:
    """What is odd about subordinate uids and account files.

    Args:
        count: Ranges that count for an owner.
        problems: What was left out.
        elsewhere: Where else the system takes ranges from (nsswitch.conf), where it is not files alone.
    """
    name = "subordinate uids"
    if problems:
        return Finding(
            name=name,
            level="bad",
            found=_join(problems),
            means="these uids count each for itself: a tenant who may become them has as many fresh limits",
            fix="give each user ranges of their own in /etc/subuid that no account lies in",
        )
    if elsewhere:
        return Finding(
            name=name,
            level="bad",
            found=f"nsswitch.conf takes them from {' '.join(elsewhere)}",
            means="only /etc/subuid is read: uids from elsewhere count each for itself",
            fix="list the ranges in /etc/subuid too",
        )
    return Finding(name=name, level="ok", found=f"{count} ranges count for their owners")


def _show(account: Account) -> str:
    return render_user(account.uid, account.name)


def _join(words: list[str]) -> str:
    shown = ", ".join(words[:MAX_SHOWN])
    return shown if len(words) <= MAX_SHOWN else f"{shown} and {len(words) - MAX_SHOWN} more"
