"""The laboratory: what its programs do not see of the host."""

from pathlib import Path

import pytest

from smtpguard.demo import lab

pytestmark = pytest.mark.kernel


def test_the_hosts_own_guard_has_no_files_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests and demonstration run on hosts that are guarded."""
    own = tmp_path / "smtpguard"
    own.mkdir()
    (own / "smtpguard.yaml").write_text("broken: [")
    monkeypatch.setattr(lab, "HOSTS_OWN", (str(own), str(tmp_path / "missing")))
    with lab.Lab() as made:
        assert made.run(["ls", "-A", str(own)]).stdout == ""
        assert made.run(["touch", f"{own}/state.db"]).returncode == 0
    assert [path.name for path in own.iterdir()] == ["smtpguard.yaml"]


def test_the_shipped_places_are_among_them() -> None:
    assert set(lab.HOSTS_OWN) == {"/etc/smtpguard", "/var/log/smtpguard", "/var/lib/smtpguard"}


def test_no_name_service_of_the_host_is_asked_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is slow would be asked for every uid that `nft` reads."""
    service = tmp_path / "nscd"
    service.mkdir()
    (service / "socket").touch()
    monkeypatch.setattr(lab, "NAME_SERVICES", (str(service),))
    with lab.Lab({"web01": 61101}) as made:
        assert made.run(["ls", "-A", str(service)]).stdout == ""
        assert "passwd: files\n" in made.run(["cat", "/etc/nsswitch.conf"]).stdout
        assert made.run(["id", "-u", "web01"]).stdout == "61101\n"
