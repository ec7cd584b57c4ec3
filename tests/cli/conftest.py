"""What the tests of commands that run in this process start from."""

import pytest


@pytest.fixture(autouse=True)
def _only_local_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No question goes to this host's name service: it may be slow, and know more users than a test expects."""
    monkeypatch.setattr("smtpguard.enrich.accounts.name_service.find_passwd", lambda _key: None)
