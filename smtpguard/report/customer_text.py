"""The text for a customer: what `why --customer` shows is what they are sent, see notify/customers_duty.py."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smtpguard.report.templates import DEFAULT_LANGUAGE, list_languages, render_template
from smtpguard.report.why_texts import build_customer
from smtpguard.resources import OWN_FILES, shipped

SUBJECT = "customer_subject.txt"
_NAME = re.compile(r"[a-z][a-z_]{0,31}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerText:
    """What a customer is told.

    Attributes:
        state: How they fare, see why_texts.CUSTOMER.
        subject: One line.
        body: The text.
    """

    state: str
    subject: str
    body: str


def write_customer_text(
    why: Mapping[str, Any], host: str, *, language: str | None = None, own_files: Path = OWN_FILES
) -> CustomerText:
    """What a customer is told now.

    Args:
        why: From `build_why`.
        host: This host's name.
        language: In which language; None for the panel's, or notify.customers.language.
        own_files: Where an administrator's templates are; tests give another.

    Raises:
        GuardError: The account is not known to be one customer's.
        ConfigError: A template is not there, can't be trusted, or is wrong.
    """
    values = build_customer(why, host)
    return render_customer_text(values, pick_languages(why), why["notice"], language=language, own_files=own_files)


def render_customer_text(
    values: Mapping[str, Any],
    languages: tuple[str, ...],
    notice: Mapping[str, Any] | None,
    *,
    language: str | None = None,
    own_files: Path = OWN_FILES,
) -> CustomerText:
    """The same from values that are known. Raises ConfigError.

    Args:
        values: From `build_customer`.
        languages: In which of them, the best first.
        notice: What is configured, as the daemon says.
        language: As in `write_customer_text`.
        own_files: Likewise.
    """
    name = name_template(str((notice or {}).get("template") or "default"))
    wanted = language or find_language(name, languages, own_files)
    titled = find_language(SUBJECT, (wanted,), own_files)
    subject = render_template(SUBJECT, values, language=titled, own_files=own_files)
    return CustomerText(
        state=str(values["state"]),
        subject=" ".join(subject.split()),
        body=render_template(name, values, language=wanted, own_files=own_files),
    )


def pick_languages(why: Mapping[str, Any]) -> tuple[str, ...]:
    """The panel's language of an account, then the configured one."""
    found = ((why["account"] or {}).get("language"), (why["notice"] or {}).get("language"))
    return tuple(str(language) for language in found if language)


def name_template(template: str) -> str:
    """The file that `notify.customers.template` means."""
    return f"{template}.txt" if template != "default" and _NAME.fullmatch(template) else "customer.txt"


def find_language(name: str, languages: tuple[str, ...], own_files: Path = OWN_FILES) -> str:
    """The first language in which there is a template of a name, or the default one."""
    known = list_spoken(name, own_files)
    return next((each for each in languages if each in known), DEFAULT_LANGUAGE)


def list_spoken(name: str, own_files: Path = OWN_FILES) -> list[str]:
    """Languages in which there is a template of a name."""
    folders = (own_files / "templates", shipped("templates"))
    return [
        language
        for language in list_languages(own_files)
        if any(os.path.exists(folder / language / name) for folder in folders)  # noqa: PTH110 - False where nobody may look
    ]
