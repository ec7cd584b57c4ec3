"""The account that a person, the event log or fail2ban means: by a name or a number, and with the C library's help."""

from smtpguard.enrich.accounts.known_accounts import KnownAccounts
from smtpguard.enrich.accounts.nss import find_group
from smtpguard.enrich.accounts.spellings import may_be_name, parse_uid, unescape_name
from smtpguard.errors import AmbiguousUserError, UnansweredError
from smtpguard.model import Account
from smtpguard.policy.subjects import account_of, subject_of
from smtpguard.text import render_escaped, to_bytes


class AccountLookup:
    """Finds accounts by what somebody wrote.

    Args:
        known: The accounts.
        patience_s: How long a look-up waits for the C library; 0 in the daemon, which must not wait.
    """

    def __init__(self, known: KnownAccounts, patience_s: float) -> None:
        self._known = known
        self._patience_s = patience_s

    def by_name(self, text: str) -> Account | None:
        """The account a person means: a login name; digits or `uid:N` are a uid. None if there is no such name.

        A name as the log writes it (`%2Dx`) is understood too, where nobody has exactly that name. A subordinate uid
        means its owner. May wait a second for the C library.

        Args:
            text: What the person wrote; may be anything.

        Raises:
            UnansweredError: Nobody has said (yet), or can say, whether there is such a name.
        """
        number = text.removeprefix("uid:")
        if number.isascii() and number.isdigit():
            return self._by_number(number)
        uid = self.find_uid(text)
        if uid is None and "%" in text:
            uid = self.find_uid(unescape_name(text))
        return None if uid is None else self._known.account(uid)

    def by_person(self, text: str) -> Account | None:
        """As `by_name`; besides, a domain that an account owns means that account, and so does an address at one.

        Args:
            text: What the person wrote; may be anything.

        Raises:
            UnansweredError: Nobody has said (yet), or can say, whether there is such a name.
            AmbiguousUserError: Two own the domain, or one owns it and another is called so.
        """
        called, owner = self.by_name(text), self._by_domain(text)
        if called is not None and owner is not None and called.uid != owner.uid:
            what = (
                f"{_show(text)} is a domain of {_show(owner.name)} (uid {owner.uid}), and the login of uid {called.uid}"
            )
            raise AmbiguousUserError(what, fix="give uid:N")
        return called or owner

    def tell_domain(self, text: str) -> str:
        """Whom a domain or an address was taken for, for people; "" where something else was written."""
        owner = None if self._known.snapshot.passwd.uids.get(text) is not None else self._by_domain(text)
        return "" if owner is None else f"{_show(text)} is a domain of {_show(owner.name)}"

    def _by_domain(self, text: str) -> Account | None:
        owners = self._known.customers.owners(text) if self._known.customers is not None else ()
        found = {owner: uid for owner in owners if (uid := self._known.snapshot.passwd.uids.get(owner)) is not None}
        if len(found) > 1:
            named = " and ".join(f"{_show(owner)} (uid {uid})" for owner, uid in sorted(found.items()))
            raise AmbiguousUserError(f"{_show(text)} is a domain of {named}", fix="give a login name, or uid:N")
        return next(map(self._known.account, found.values()), None)

    def by_login(self, text: str) -> Account | None:
        """The account that the event log or fail2ban means: a login name as the log writes it, digits too, or `uid:N`.

        Args:
            text: A USER field; may be anything. May wait a second for the C library.
        """
        if text.startswith("uid:"):
            return self._by_number(text.removeprefix("uid:"))
        uid = self.find_uid(unescape_name(text)) if "%" in text else None
        if uid is None:
            uid = self.find_uid(text)
        return None if uid is None else self._known.account(uid)

    def find_namesake(self, text: str) -> int | None:
        """The uid of an account that is *called* what was taken as a number; None if there is none, or it is the same.

        Args:
            text: What a person wrote. Nobody is waited for.
        """
        uid = parse_uid(text)
        if uid is None:
            return None
        known = self._known.snapshot.passwd.uids.get(text)
        if known is None and self._known.names is not None and (answer := self._known.names.find(text)) is not None:
            known = answer.uid
        return None if known in (None, uid) else known

    def _by_number(self, digits: str) -> Account | None:
        uid = parse_uid(digits)
        return None if uid is None else account_of(self._known, subject_of(self._known, uid))

    def group_name(self, name: str) -> str | None:
        """What the system calls a group; None if there is none. Asks the C library, which may wait.

        Args:
            name: Group name, as a directory may know it under several spellings.

        Raises:
            UnansweredError: Nobody can say.
        """
        if name in self._known.snapshot.groups.names.values():
            return name
        return find_group(name) if self._known.names is not None else None

    def find_uid(self, name: str) -> int | None:
        """The uid of a login name, and of nothing else; may wait a second for the C library. None if there is none.

        Args:
            name: Login name.

        Raises:
            UnansweredError: Nobody has said (yet), or can say.
        """
        uid = self._known.snapshot.passwd.uids.get(name)
        if uid is not None or self._known.names is None or not may_be_name(name):
            return uid
        try:
            found = self._known.names.wait_for(name, self._patience_s)
            if found is not None and found.uid not in self._known.snapshot.passwd.names:
                self._known.names.wait_for(found.uid, self._patience_s)
        except UnansweredError as error:
            raise UnansweredError(
                f"{render_escaped(to_bytes(name[:64]))} could not be looked up: {error.what}",
                fix="try again; uid:N needs no look-up",
                is_pending=error.is_pending,
            ) from error
        if found is None:
            return None
        if found.uid not in self._known.snapshot.passwd.names and self._known.is_another(found.uid):
            self._known.untold.add(found.uid)
        return found.uid


def _show(text: str | None) -> str:
    return render_escaped(to_bytes((text or "")[:300]))
