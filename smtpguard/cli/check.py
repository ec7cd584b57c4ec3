"""`smtpguard check`: is the configuration right, and is it meant so? Reads files only; needs no daemon and no root."""

from collections.abc import Collection, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import NoReturn

import click

from smtpguard.cli.common import EXIT_CONFIG, config_option, json_option, print_json
from smtpguard.cli.messages import print_message
from smtpguard.cli.tables import print_lines
from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.enrich.accounts.spellings import is_plain, parse_uid
from smtpguard.errors import ConfigError, GuardError, UnansweredError
from smtpguard.policy.rules import matches_package
from smtpguard.policy.standing import OVERFLOW_UID
from smtpguard.settings import Settings
from smtpguard.settings.notify import CustomerNotices
from smtpguard.text import render_count

MAX_NAMES = 100
"""Names that are looked up on the host; each may wait for a directory server."""


@click.command()
@config_option
@json_option
@click.pass_context
def command(ctx: click.Context, config_path: str | None, as_json: bool) -> None:
    """Check the configuration.

    Errors go to stderr, one a line with file and line, and end with code 78. Warnings are about what is allowed but
    seldom meant; they leave the code at 0.
    """
    from smtpguard.doctor.metrics import find_textfile_trouble
    from smtpguard.doctor.rules import can_see_outcomes
    from smtpguard.policy.countable import find_uncounted
    from smtpguard.settings.advice import find_doubts, find_notes
    from smtpguard.settings.checks import show_sources
    from smtpguard.settings.load import load_settings
    from smtpguard.settings.yaml_lines import SettingsError

    try:
        settings = load_settings(config_path)
    except ConfigError as error:
        errors = error.lines if isinstance(error, SettingsError) else [str(error)]
        _fail(ctx, errors, str(error), as_json=as_json)
    outcomes = can_see_outcomes(settings)
    uncounted = find_uncounted(settings, outcomes=outcomes is True)
    if outcomes is False and uncounted.broken:
        where = settings.path or "shipped defaults"
        lacking = (
            "failures and bytes need the source bpf, which is not available here. "
            "Take the rule out, or see: smtpguard doctor"
        )
        errors = [f"{where}: rule {name} can't be counted: {lacking}" for name in uncounted.broken]
        _fail(ctx, errors, "\n".join(errors), as_json=as_json)
    if mistakes := list(_find_template_mistakes(settings.notify.customers)):
        _fail(ctx, mistakes, "\n".join(mistakes), as_json=as_json)
    accounts = AccountDirectory(settings)
    warnings = [
        *settings.warnings,
        *find_doubts(settings, uid_min=accounts.facts.uid_min),
        *find_absent(settings, accounts),
    ]
    warnings += [*find_lookalikes(settings, accounts), *find_unsold(settings)]
    if settings.metrics_textfile is not None and (trouble := find_textfile_trouble(settings.metrics_textfile)):
        warnings.append(f"metrics.textfile: {trouble}")
    if settings.notify.has_channels:
        from smtpguard.notify.readiness import find_unready

        warnings += find_unready(settings.notify)
    summary = {
        "ok": True,
        "file": settings.path,
        "dry_run": settings.dry_run,
        "sources": settings.sources if isinstance(settings.sources, str) else list(settings.sources),
        "ports": sorted(settings.ports),
        "rules": [rule.name for rule in settings.rules],
        "inactive_rules": None if outcomes is None else list(uncounted.inactive),
        "errors": [],
        "warnings": warnings,
        "notes": find_notes(settings),
    }
    if as_json:
        print_json(summary)
        return
    mode = "dry run" if settings.dry_run else "enforcing"
    found = f"{mode}; sources {show_sources(settings.sources)}; ports {' '.join(map(str, sorted(settings.ports)))}"
    lines = [f"{settings.path or 'shipped defaults'}: ok: {found}; {render_count(len(settings.rules), 'rule')}"]
    lines += [f"warning: {warning}" for warning in warnings]
    lines += [f"note: {note}." for note in find_notes(settings)]
    for name in uncounted.inactive:
        found = (
            "run check as root to see whether it is there"
            if outcomes is None
            else "it is not available: the rule is inactive"
        )
        lines.append(f"note: rule {name} needs the source bpf; {found}")
    print_lines(lines)


def _find_template_mistakes(wanted: CustomerNotices) -> Iterator[str]:
    """What is wrong with the administrator's own templates; a text for customers that is wanted and not there."""
    from smtpguard.resources import OWN_FILES

    if not (OWN_FILES / "templates").is_dir() and not wanted.enabled:
        return
    from smtpguard.report.customer_text import list_spoken, name_template
    from smtpguard.report.templates import find_mistakes
    from smtpguard.report.why_texts import CUSTOMER, TEMPLATES

    name = name_template(wanted.template)
    yield from find_mistakes({**TEMPLATES, name: CUSTOMER}, own_files=OWN_FILES)
    if wanted.enabled and wanted.language not in (known := list_spoken(name, OWN_FILES)):
        where = f"{OWN_FILES}/templates/{wanted.language}/{name}"
        yield f"notify.customers: there is no {where}" + (f", only in {', '.join(known)}" if known else "")


def _fail(ctx: click.Context, errors: list[str], text: str, *, as_json: bool) -> NoReturn:
    """Tell what is wrong, and end."""
    if as_json:
        print_json({"ok": False, "errors": errors, "warnings": []})
    else:
        print_message(text)
        print_message(f"smtpguard: {len(errors)} {'error' if len(errors) == 1 else 'errors'}")
    ctx.exit(EXIT_CONFIG)


def find_absent(settings: Settings, accounts: AccountDirectory) -> Iterator[str]:
    """Warnings about users and groups that are named and not there: a typing error exempts nobody.

    Args:
        settings: The whole configuration.
        accounts: Who is who on this host.
    """
    users = [("exempt.users", name) for name in settings.exempt.users]
    users += [("shared_users.block", name) for name in sorted(settings.shared_block)]
    groups = [("exempt.groups", name) for name in settings.exempt.groups]
    for index, override in enumerate(settings.overrides):
        users += [(f"users[{index}].match.users", name) for name in override.match.users]
        groups += [(f"users[{index}].match.groups", name) for name in override.match.groups]
    if settings.control_group is not None:
        groups.append(("control.group", settings.control_group))
    if settings.metrics_group is not None:
        groups.append(("metrics.group", settings.metrics_group))
    for place, name in users[:MAX_NAMES]:
        if is_plain(name):
            yield from _find_odd_user(place, name, accounts)
    for place, name in groups[:MAX_NAMES]:
        try:
            known = accounts.lookup.group_name(name)
        except UnansweredError as error:
            yield f"{place}: the group {name!a} could not be looked up: {error.what}"
            continue
        if known is None:
            yield f"{place}: there is no group {name!a} on this host"
        elif known != name:
            yield f"{place}: the system calls the group {name!a} {known!a}: write it so, or nobody is meant"


def _find_odd_user(place: str, name: str, accounts: AccountDirectory) -> Iterator[str]:
    """What is odd about one configured user: not there, or called something else by the system."""
    try:
        uid = accounts.lookup.find_uid(name)
    except UnansweredError as error:
        yield f"{place}: {error.what}"
        return
    if uid is None:
        number = parse_uid(name)
        hint = "" if number is None else f"; for the uid {number} use {place.replace('users', 'uids')}"
        yield f"{place}: there is no user {name!a} on this host{hint}"
        return
    account = accounts.account(uid)
    if name not in account.names and account.name is not None:
        yield f"{place}: the system calls {name!a} {account.name!a} (uid {uid}): write it so, or nobody is meant"


def find_unsold(settings: Settings) -> Iterator[str]:
    """Warnings about packages and resellers in `users` that nobody has, or of which nobody tells."""
    wanted = [
        (f"users[{index}].match.{key}", names, at)
        for index, override in enumerate(settings.overrides)
        for at, key in enumerate(("packages", "resellers"))
        if (names := getattr(override.match, key))
    ]
    if not wanted:
        return
    from smtpguard.panels.customers_on_demand import CustomersOnDemand

    try:
        known = CustomersOnDemand(settings).read()
    except GuardError as error:
        yield f"{wanted[0][0]}: whose accounts are can't be read: {error}"
        return
    if not len(known):
        nobody = "accounts is none" if settings.accounts == "none" else "nobody has told whose accounts are yet"
        for place, _, _ in wanted:
            yield f"{place}: matches nobody: {nobody}"
        return
    packages, resellers = known.labels()
    for place, names, at in wanted:
        for name in names:
            if at == 0:
                yield from _find_unsold_package(place, name, names, packages, known.panel)
            elif not any(fnmatchcase(label, name) for label in resellers):
                yield f"{place}: no account has {name!a} by {known.panel}"


def _find_unsold_package(
    place: str, name: str, names: Collection[str], packages: Iterable[tuple[str, str | None]], panel: str
) -> Iterator[str]:
    packages = sorted(packages, key=str)
    if not any(matches_package(package, reseller, name) for package, reseller in packages):
        yield f"{place}: no account has {name!a} by {panel}"
    others = [
        package
        for package, reseller in packages
        if reseller
        and package.startswith(f"{reseller}/")
        and matches_package(package, reseller, f"*/{name}")
        and not any(matches_package(package, reseller, meant) for meant in names)
    ]
    if "/" not in name and others:
        yield f"{place}: {name!a} does not mean {others[0]!a}, a reseller's own; if it shall, write that too"


def find_lookalikes(settings: Settings, accounts: AccountDirectory) -> Iterator[str]:
    """Warnings about accounts of /etc/passwd that are people's by uid and called like a service of the shipped list.

    Args:
        settings: The whole configuration.
        accounts: Who is who on this host.
    """
    for uid in accounts.listed_uids():
        if uid < accounts.facts.uid_min or uid == OVERFLOW_UID:
            continue
        account = accounts.account(uid)
        for name in sorted(settings.shared_shipped.intersection(account.names) if account.standing == "tenant" else ()):
            yield (
                f"shared_users.users: {name} (uid {uid}) is limited like any customer: the shipped names hold below "
                f"UID_MIN {accounts.facts.uid_min} only; if many sites run under it: shared_users: {{users: [{name}]}}"
            )
