"""`smtpguard setup` on real folders: what it shows, asks, writes and takes away again."""

import json
import os
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from smtpguard.cli import main
from smtpguard.cli import setup as setup_command
from smtpguard.setup.catalogue import MANIFEST
from smtpguard.setup.plan import compute_digest

EVENT_LOG = "/var/log/smtpguard/events.log"
JAIL = "etc/fail2ban/jail.d/smtpguard.conf"
UNIT = "etc/systemd/system/smtpguard.service"
CONFIG = "etc/smtpguard/smtpguard.yaml"
ALL = {
    CONFIG,
    UNIT,
    "etc/logrotate.d/smtpguard",
    EVENT_LOG[1:],
    "etc/fail2ban/filter.d/smtpguard.conf",
    "etc/fail2ban/filter.d/smtpguard-connect.conf",
    "etc/fail2ban/action.d/smtpguard.conf",
    JAIL,
}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    root = tmp_path / "image"
    (root / "etc").mkdir(parents=True)
    (root / "etc/hostname").write_text("host\n")
    return root


def setup(image: Path, *words: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(main, ["setup", "--root", str(image), *words], input=answer)


def snapshot(root: Path) -> dict[str, str]:
    """Every path below a root with its content, or what kind of thing it is."""
    return {
        str(path.relative_to(root)): path.read_text() if path.is_file() and not path.is_symlink() else "other"
        for path in root.rglob("*")
    }


def files(root: Path) -> set[str]:
    return {name for name, content in snapshot(root).items() if content != "other"}


def test_fresh_image_gets_everything(image: Path) -> None:
    result = setup(image, "--yes")
    assert result.exit_code == 0, result.output
    assert files(image) == ALL | {"etc/hostname", MANIFEST[1:]}
    assert f"create /{JAIL}\n--- /dev/null\n+++ /{JAIL}\n@@ -0,0 +1," in result.output
    assert "+[smtpguard]" in result.output
    assert stat.S_IMODE((image / CONFIG).stat().st_mode) == 0o640
    assert stat.S_IMODE((image / UNIT).stat().st_mode) == 0o644
    assert stat.S_IMODE((image / EVENT_LOG[1:]).stat().st_mode) == 0o640
    assert stat.S_IMODE((image / "var/log/smtpguard").stat().st_mode) == 0o750
    assert stat.S_IMODE((image / "var/lib/smtpguard").stat().st_mode) == 0o700
    assert stat.S_IMODE((image / MANIFEST[1:]).stat().st_mode) == 0o600


def test_an_image_without_the_program_is_warned_of_and_what_to_start_is_said(image: Path) -> None:
    result = setup(image, "--yes")
    assert f"warning: {image} has no smtpguard: its unit will run " in result.stderr
    assert result.stdout.endswith(f"Next:\n  systemctl --root={image} enable smtpguard.service\n")
    (image / "usr/bin").mkdir(parents=True)
    (image / "usr/bin/smtpguard").touch()
    assert "warning" not in setup(image, "--yes").stderr


def test_removal_names_what_it_leaves(image: Path) -> None:
    setup(image, "--yes")
    (image / UNIT).write_text("[Service]\n")
    (image / "var/log/smtpguard/events.log.1").touch()
    result = setup(image, "--remove", "--yes")
    assert f"Left here, and yours now: /{UNIT}, /var/log/smtpguard." in result.stdout


def test_modes_do_not_depend_on_the_umask(image: Path) -> None:
    before = os.umask(0o077)
    try:
        setup(image, "--yes")
    finally:
        os.umask(before)
    assert stat.S_IMODE((image / JAIL).stat().st_mode) == 0o644
    assert stat.S_IMODE((image / "etc/fail2ban").stat().st_mode) == 0o755


def test_second_run_changes_nothing(image: Path) -> None:
    setup(image, "--yes")
    before = snapshot(image)
    result = setup(image)
    assert result.exit_code == 0
    assert result.output.endswith("Nothing to do.\n")
    assert snapshot(image) == before


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_without_a_yes_nothing_is_written(image: Path, answer: str) -> None:
    before = snapshot(image)
    result = setup(image, answer=answer)
    assert result.exit_code == 1
    assert "Write 8 files? [y/N]" in result.output
    assert snapshot(image) == before


def test_yes_at_the_question_is_enough(image: Path) -> None:
    assert setup(image, answer="y\n").exit_code == 0
    assert files(image) >= ALL


def test_removal_takes_exactly_what_was_written(image: Path) -> None:
    (image / "etc/logrotate.d").mkdir()
    before = snapshot(image)
    setup(image, "--yes")
    result = setup(image, "--remove", "--yes")
    assert result.exit_code == 0, result.output
    assert f"remove /{JAIL}\n--- /{JAIL}\n+++ /dev/null\n" in result.output
    assert snapshot(image) == before


def test_removal_asks_too(image: Path) -> None:
    setup(image, "--yes")
    before = snapshot(image)
    result = setup(image, "--remove", answer="n\n")
    assert result.exit_code == 1
    assert "Remove 8 files? [y/N]" in result.output
    assert snapshot(image) == before


def test_removal_leaves_what_others_wrote_or_changed(image: Path) -> None:
    (image / "etc/fail2ban/jail.d").mkdir(parents=True)
    (image / "etc/fail2ban/jail.d/mine.conf").write_text("mine\n")
    setup(image, "--yes")
    (image / CONFIG).write_text("version: 1\n")
    (image / EVENT_LOG[1:]).write_text("an event\n")
    (image / UNIT).unlink()
    (image / JAIL).unlink()
    (image / JAIL).symlink_to("mine.conf")
    result = setup(image, "--remove", "--yes")
    assert result.exit_code == 0, result.output
    assert f"leave /{CONFIG} (changed since it was written)" in result.output
    assert f"leave /{JAIL} (is a symbolic link)" in result.output
    assert files(image) == {"etc/hostname", "etc/fail2ban/jail.d/mine.conf", CONFIG, EVENT_LOG[1:]}
    assert (image / JAIL).is_symlink()
    assert setup(image, "--remove", "--yes").output == "setup has written nothing here.\n"


def test_unit_of_an_enabled_service_is_not_removed(image: Path) -> None:
    setup(image, "--yes")
    wants = image / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir()
    (wants / "smtpguard.service").symlink_to("/etc/systemd/system/smtpguard.service")
    before = snapshot(image)
    result = setup(image, "--remove", "--yes")
    assert result.exit_code == 1
    assert f"enabled still (first: systemctl --root={image} disable smtpguard.service)" in result.output
    assert snapshot(image) == before


def test_removal_without_an_installation_touches_nothing(image: Path) -> None:
    (image / "etc/smtpguard").mkdir()
    (image / CONFIG).write_text("version: 1\n")
    before = snapshot(image)
    result = setup(image, "--remove", "--yes")
    assert (result.exit_code, result.output) == (0, "setup has written nothing here.\n")
    assert snapshot(image) == before


def test_file_that_was_there_already_is_not_ours_to_remove(image: Path) -> None:
    setup(image, "--yes")
    unit = (image / UNIT).read_text()
    setup(image, "--remove", "--yes")
    (image / UNIT).parent.mkdir(parents=True)
    (image / UNIT).write_text(unit)
    setup(image, "--yes")
    setup(image, "--remove", "--yes")
    assert files(image) == {"etc/hostname", UNIT}


def test_configuration_is_never_touched(image: Path) -> None:
    (image / "etc/smtpguard").mkdir()
    (image / CONFIG).write_text("version: 1\nports: [25]\n")
    result = setup(image, "--yes")
    assert f"keep /{CONFIG} (is yours)" in result.output
    assert (image / CONFIG).read_text() == "version: 1\nports: [25]\n"
    assert not (image / f"{CONFIG}~").exists()


def test_what_an_administrator_changed_is_shown_and_kept(image: Path) -> None:
    setup(image, "--yes")
    shipped = (image / JAIL).read_text()
    changed = shipped.replace("bantime        = 30m", "bantime        = 2h", 1) + "# mine \x1b[31m\n"
    (image / JAIL).write_text(changed)
    refused = setup(image, answer="n\n")
    assert refused.exit_code == 1
    assert f"replace /{JAIL} (not written by setup, or changed since: kept as /{JAIL}~)" in refused.output
    assert "-bantime        = 2h\n+bantime        = 30m\n" in refused.output
    assert "-# mine \\x1b[31m\n" in refused.output
    assert "\x1b" not in refused.output
    assert (image / JAIL).read_text() == changed
    assert setup(image, "--yes").exit_code == 0
    assert (image / JAIL).read_text() == shipped
    assert (image / f"{JAIL}~").read_text() == changed


def test_what_an_earlier_version_wrote_is_updated_without_a_copy(image: Path) -> None:
    setup(image, "--yes")
    shipped = (image / UNIT).read_text()
    old = "[Unit]\nDescription=old\n"
    (image / UNIT).write_text(old)
    manifest = json.loads((image / MANIFEST[1:]).read_text())
    manifest["files"]["/" + UNIT] = compute_digest(old.encode())
    (image / MANIFEST[1:]).write_text(json.dumps(manifest))
    result = setup(image, "--yes")
    assert f"update /{UNIT} (written by an earlier version)" in result.output
    assert "-Description=old\n" in result.output
    assert (image / UNIT).read_text() == shipped
    assert not (image / f"{UNIT}~").exists()


def test_masked_unit_and_other_odd_things_are_left_alone(image: Path) -> None:
    (image / UNIT).parent.mkdir(parents=True)
    (image / UNIT).symlink_to("/dev/null")
    (image / JAIL).mkdir(parents=True)
    (image / "etc/logrotate.d").mkdir()
    os.mkfifo(image / "etc/logrotate.d/smtpguard")
    result = setup(image, "--yes")
    assert result.exit_code == 0, result.output
    assert f"leave /{UNIT} (is a symbolic link)" in result.output
    assert f"leave /{JAIL} (is no file)" in result.output
    assert "leave /etc/logrotate.d/smtpguard (is no file)" in result.output
    assert (image / UNIT).readlink() == Path("/dev/null")
    setup(image, "--remove", "--yes")
    assert (image / UNIT).readlink() == Path("/dev/null")


def test_folder_that_leads_out_of_the_image_is_not_followed(image: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (image / "etc/fail2ban").symlink_to(outside)
    result = setup(image, "--yes")
    assert f"leads out of {image}" in result.output
    assert list(outside.rglob("*")) == []


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        '{"files": []}',
        '{"files": {"/etc/../../passwd": "00"}, "folders": []}',
        '{"files": {"etc/passwd": "00"}, "folders": []}',
        '{"files": {}, "folders": [1]}',
        '{"files": 3, "folders": []}',
        "[" * 100_000,
    ],
)
def test_manifest_that_setup_did_not_write_stops_it(image: Path, text: str) -> None:
    (image / MANIFEST[1:]).parent.mkdir(parents=True)
    (image / MANIFEST[1:]).write_text(text)
    before = snapshot(image)
    for words in (["--yes"], ["--remove", "--yes"]):
        result = setup(image, *words)
        assert result.exit_code == 1
        assert f"{image / MANIFEST[1:]}: is not what setup wrote" in result.output
    assert snapshot(image) == before


def test_interrupted_setup_can_be_taken_back(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(image)
    real = os.replace

    def fail_at_the_jail(source: str, target: Path) -> None:
        if str(target).endswith(JAIL):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", fail_at_the_jail)
    result = setup(image, "--yes")
    assert result.exit_code == 1
    assert f"{image / JAIL}: can't be changed: No space left on device" in result.output
    assert files(image) == (ALL - {JAIL}) | {"etc/hostname", MANIFEST[1:]}, "no half-written file stays"
    monkeypatch.undo()
    setup(image, "--remove", "--yes")
    assert snapshot(image) == before


def test_unit_and_jail_run_the_smtpguard_that_was_installed(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup_command, "find_program", lambda _root: "/opt/guard/bin/smtpguard")
    setup(image, "--yes")
    assert "\nExecStart=/opt/guard/bin/smtpguard run --service\n" in (image / UNIT).read_text()
    assert (image / JAIL).read_text().count("\ncommand        = /opt/guard/bin/smtpguard\n") == 2


def test_program_of_the_image_is_the_one_to_run(image: Path) -> None:
    (image / "usr/bin").mkdir(parents=True)
    (image / "usr/bin/smtpguard").touch()
    setup(image, "--yes")
    assert "\nExecStart=/usr/bin/smtpguard run --service\n" in (image / UNIT).read_text()
    assert "\ncommand        = smtpguard\n" in (image / JAIL).read_text()


def test_unit_of_a_package_is_not_hidden(image: Path) -> None:
    unit = image / "usr/lib/systemd/system/smtpguard.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Unit]\n")
    result = setup(image, "--yes")
    assert "/usr/lib/systemd/system/smtpguard.service is the unit of a package: setup writes none.\n" in result.output
    assert not (image / UNIT).exists()
    assert (image / JAIL).exists()


def test_path_that_systemd_would_misread_is_refused(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup_command, "find_program", lambda _root: "/opt/my guard/$x/smtpguard")
    before = snapshot(image)
    result = setup(image, "--yes")
    assert result.exit_code == 78
    assert "(use a plain path)" in result.output
    assert snapshot(image) == before


def test_installed_files_follow_the_configuration(image: Path, tmp_path: Path) -> None:
    config = tmp_path / "second.yaml"
    config.write_text("log: {path: /srv/log/second.log}\nnft: {table: second}\n")
    assert setup(image, "--config", str(config), "--yes").exit_code == 0
    assert f"smtpguard run --service --config {config}\n" in (image / UNIT).read_text()
    assert "\nlogpath        = /srv/log/second.log\n" in (image / JAIL).read_text()
    assert f"env SMTPGUARD_CONFIG={config} " in (image / JAIL).read_text()
    assert "\ntable   = second\n" in (image / "etc/fail2ban/action.d/smtpguard.conf").read_text()
    assert "\n/srv/log/second.log {\n" in (image / "etc/logrotate.d/smtpguard").read_text()
    assert (image / "srv/log/second.log").read_text() == ""
    assert "/var/log/smtpguard" not in "".join(snapshot(image / "etc").values())
    assert not (image / CONFIG).exists()


def test_configuration_of_this_host_says_nothing_about_an_image(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "host.yaml").write_text("nft: {table: host}\n")
    monkeypatch.setenv("SMTPGUARD_CONFIG", str(tmp_path / "host.yaml"))
    setup(image, "--yes")
    assert "\ntable   = smtpguard\n" in (image / "etc/fail2ban/action.d/smtpguard.conf").read_text()


def test_bad_configuration_stops_it(image: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("nft: {bogus: x}\n")
    before = snapshot(image)
    result = setup(image, "--config", str(tmp_path / "bad.yaml"), "--yes")
    assert result.exit_code == 78
    assert "bogus" in result.output
    assert snapshot(image) == before


@pytest.mark.parametrize("root", ["nowhere", ""])
def test_missing_root_is_a_usage_error(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["setup", "--root", root, "--yes"])
    assert result.exit_code == 2
    assert "there is no folder" in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [[], ["--remove"], ["--yes"]])
def test_not_root_lacks_the_privilege(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 61001)
    result = CliRunner().invoke(main, ["setup", *words])
    assert result.exit_code == 4
    assert "run it as root, or give --root DIR" in result.output


def test_not_root_may_fill_a_folder_of_his_own(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 61001)
    assert setup(image, "--yes").exit_code == 0
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    assert setup(image, "--yes").exit_code == 4
