"""`smtpguard setup`: the unit, fail2ban's files, logrotate, a first configuration; a diff first, and the way back."""

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smtpguard.cli.common import config_option
from smtpguard.cli.messages import print_error, print_message
from smtpguard.cli.tables import print_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from smtpguard.setup.catalogue import Site
    from smtpguard.setup.plan import Step


@click.command("setup")
@config_option
@click.option("--root", default="/", metavar="DIR", help="Install into the root of an image instead of this system.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--remove", is_flag=True, help="Take away what setup wrote, as far as nobody has changed it.")
def command(config_path: str | None, root: str, yes: bool, remove: bool) -> None:
    """Install the systemd unit, fail2ban's filters, jails and action, logrotate's rules and a first configuration.

    Shows what would change as a diff and asks. A configuration that is there is never touched. Another file that
    somebody has changed is kept beside the new one, as NAME~. Nothing is started.
    Where the configuration names another event log or table, so do the installed files.
    """
    from smtpguard.setup.catalogue import MANIFEST, PACKAGED_UNITS, list_wanted
    from smtpguard.setup.files import Tree
    from smtpguard.setup.plan import merge_manifest, plan_install, plan_remove

    check_root(root)
    tree = Tree(Path(root), MANIFEST)
    manifest = tree.read_manifest()
    live = tree.root == Path("/")
    if remove:
        if not manifest.files:
            print_lines(["setup has written nothing here."])
            return
        check_disabled(tree.root)
        steps = plan_remove(tree.read(manifest.files), manifest)
    else:
        # An image gets everything; a living system no folder of a program that it does not have.
        fail2ban = not live or Path("/etc/fail2ban").is_dir()
        site = read_site(tree.root, config_path)
        packaged = [path for path in PACKAGED_UNITS if (tree.root / path[1:]).exists()]
        wanted = list_wanted(site, unit=not packaged, fail2ban=fail2ban)
        steps = plan_install(wanted, tree.read(file.path for file in wanted), manifest)
        if live:
            warn_of_writers(site.program)
        elif not (tree.root / site.program[1:]).exists():
            print_message(
                f"warning: {root} has no smtpguard: its unit will run {site.program}, this host's path. "
                "Install smtpguard there, then run setup again."
            )
        if packaged:
            print_lines([f"{packaged[0]} is the unit of a package: setup writes none."])
        if not fail2ban:
            print_lines(["fail2ban is not installed: its files are left out. Run setup again when it is."])
    changes = print_steps(steps)
    if changes and not yes:
        try:
            click.confirm(f"{'Remove' if remove else 'Write'} {changes} file{'s' if changes > 1 else ''}?", abort=True)
        except click.Abort:
            print_message("Nothing was changed.")
            raise
    if remove:
        tree.apply(steps)
        tree.forget(manifest)
        left = list_left(tree.root, steps, read_site(tree.root, config_path) if live else None)
        print_lines([f"Removed. Left here, and yours now: {', '.join(left)}." if left else "Removed."])
    elif changes:
        tree.write_manifest(merge_manifest(manifest, steps, tree.list_missing_folders(steps)))
        tree.apply(steps)
        click.echo("Written.")
    else:
        click.echo("Nothing to do.")
    if live and (changes or remove):
        print_next(remove=remove)
    elif changes and not remove:
        print_lines([f"Next:\n  systemctl --root={shlex.quote(str(tree.root))} enable smtpguard.service"])


def check_root(root: str) -> None:
    """Refuse early what can't end well: no such folder (exit 2), or nobody who may write there (exit 4)."""
    from smtpguard.errors import PrivilegeError

    if not root or not Path(root).is_dir():
        raise click.BadParameter(f"there is no folder {shlex.quote(root)}", param_hint="--root")
    if os.geteuid() != 0 and (Path(root).resolve() == Path("/") or not os.access(root, os.W_OK | os.X_OK)):
        raise PrivilegeError("may not write there", where=root, fix="run it as root, or give --root DIR")


def check_disabled(root: Path) -> None:
    """Refuse to take the unit from under a service: systemctl can't disable what has no unit any more."""
    from smtpguard.errors import GuardError

    if (root / "etc/systemd/system/multi-user.target.wants/smtpguard.service").is_symlink():
        words = "disable --now" if root == Path("/") else f"--root={shlex.quote(str(root))} disable"
        raise GuardError("smtpguard.service is enabled still", fix=f"first: systemctl {words} smtpguard.service")


def read_site(root: Path, config_path: str | None) -> "Site":
    """What is this installation's own; the configuration of this host says nothing about an image."""
    from smtpguard.settings.load import load_settings
    from smtpguard.setup.catalogue import CONFIG, Site

    program = find_program(root)
    if root != Path("/") and config_path is None:
        return Site(program=program)
    settings = load_settings(config_path)
    config = str(Path(settings.path).absolute()) if settings.path else CONFIG
    return Site(program=program, config=config, log=settings.log_path, table=settings.nft_table)


def find_program(root: Path) -> str:
    """Absolute path of the smtpguard to run: the image's own, else as it was called, else beside the interpreter."""
    for place in ("/usr/bin/smtpguard", "/usr/local/bin/smtpguard"):
        if root != Path("/") and (root / place[1:]).exists():
            return place
    called = shutil.which(sys.argv[0]) if Path(sys.argv[0]).name == "smtpguard" else None
    return str(Path(called or Path(sys.executable).with_name("smtpguard")).absolute())


def warn_of_writers(program: str) -> None:
    """Say so when the program that is to run as root can be changed by somebody else."""
    from smtpguard.errors import ConfigError
    from smtpguard.safe_files import read_trusted

    try:
        read_trusted(program, max_bytes=1 << 20)
    except FileNotFoundError:
        print_message(f"warning: {program} is not there; the unit and fail2ban are to run it")
    except ConfigError as error:
        print_error(error, begin="warning: ", end=": who can change it becomes root with the unit")


def print_steps(steps: "Sequence[Step]") -> int:
    """Show what would happen to each file, changes as diffs; returns how many files change."""
    from smtpguard.setup.plan import WRITES, render_diff

    changes = 0
    for step in steps:
        print_lines([f"{step.act} {step.path}{f' ({step.reason})' if step.reason else ''}"])
        if diff := render_diff(step):
            click.echo(diff)
        changes += step.act in WRITES or step.act == "remove"
    return changes


def list_left(root: Path, steps: "Sequence[Step]", site: "Site | None") -> list[str]:
    """What of smtpguard's is there still after `--remove`: changed files, old copies, the log and the state."""
    from smtpguard.setup.catalogue import Site
    from smtpguard.setup.plan import BACKUP_SUFFIX

    paths = [step.path for step in steps if step.act == "leave"]
    paths += [step.path + BACKUP_SUFFIX for step in steps]
    paths += [str(Path((site or Site()).log).parent), "/var/lib/smtpguard"]
    return [path for path in dict.fromkeys(paths) if os.path.lexists(root / path[1:])]


def print_next(*, remove: bool) -> None:
    """What is left for the administrator to start or stop."""
    if remove:
        words = ["systemctl daemon-reload", "smtpguard nft remove"]
    else:
        words = ["systemctl daemon-reload", "systemctl enable --now smtpguard.service"]
    if Path("/etc/fail2ban").is_dir():
        words.append("fail2ban-client reload")
    click.echo("Next:")
    for line in words:
        click.echo(f"  {line}")
