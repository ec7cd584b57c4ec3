"""`smtpguard watch`: every SMTP connection as it happens, as a full screen or one line each."""

import errno

import click

from smtpguard.cli.common import config_option, find_socket, socket_option, warn_broken
from smtpguard.cli.messages import print_message
from smtpguard.standalone.watch import Show


@click.command("watch")
@config_option
@socket_option
@click.option(
    "-l", "lines", is_flag=True, help="One line a connection to stdout; so it is where stdout is no terminal."
)
@click.option("-f", "path", metavar="FILE", help="Append the lines to FILE instead.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["guard", "classic", "json"]),
    default=None,
    help="Lines, as in the event log (guard, the default), in a known monitor's columns, or one JSON object each.",
)
@click.option("--source", "sources", metavar="S", multiple=True, help="Use this source, not the running daemon's.")
def command(
    config_path: str | None,
    socket_path: str | None,
    lines: bool,
    path: str | None,
    form: str | None,
    sources: tuple[str, ...],
) -> None:
    """Show every SMTP connection as it happens: on a terminal as a full screen, else one line each.

    With a running daemon it shows what that sees; without one it opens a source of its own. It decides nothing; on the
    screen you may block, unblock and allow (press ? for the keys). Lines end quietly when their reader goes away.
    """
    import os
    import sys
    from dataclasses import replace
    from typing import cast

    from smtpguard.cli.arguments import check_sensors
    from smtpguard.cli.watch_formats import Format, render_watch
    from smtpguard.cli.watch_screen import can_show_screen, show_screen
    from smtpguard.errors import ConfigError, NoDaemonError
    from smtpguard.model import Account, Connect
    from smtpguard.settings.load import load_settings, read_shipped

    if lines and path is not None:
        raise click.UsageError("-l and -f: choose one")
    check_sensors(sources)
    if not lines and path is None and form is None and can_show_screen():
        show_screen(config_path, socket_path, sources)
        return
    descriptor = sys.stdout.fileno() if path is None else _open_file(path)

    def show(connect: Connect, account: Account, wall_ns: int) -> None:
        line = render_watch(cast("Format", form or "guard"), connect, account, wall_ns)
        os.write(descriptor, line.encode("ascii") + b"\n")

    if path is None:
        _end_with_the_reader(descriptor)
    if not sources:
        try:
            _follow(find_socket(config_path, socket_path), show)
        except NoDaemonError:
            pass
        else:
            return
    from smtpguard.standalone.watch import observe

    try:
        settings = load_settings(config_path)
    except ConfigError as error:
        settings = read_shipped()
        warn_broken(error, "connections are shown as by the shipped defaults")
    observe(replace(settings, sources=sources) if sources else settings, show)


def _open_file(path: str) -> int:
    """A file to append to; never somebody else's, a link, or a pipe that keeps us waiting."""
    import os
    import stat

    from smtpguard.errors import GuardError
    from smtpguard.safe_files import find_distrust

    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o640)
    except OSError as error:
        raise GuardError(f"can't be opened: {error.strerror}", where=path) from error
    status = os.fstat(descriptor)
    if stat.S_ISCHR(status.st_mode):  # /dev/stdout, a terminal
        os.set_blocking(descriptor, True)
        return descriptor
    why = find_distrust(status)
    if not stat.S_ISREG(status.st_mode):
        why = "is no file"
    elif status.st_nlink > 1:
        why = "has other names: it may be somebody else's file"
    if why is not None:
        os.close(descriptor)
        raise GuardError(why, where=path, fix="name another file, in a folder of root's")
    return descriptor


def _follow(socket_path: str, show: Show) -> None:
    """Show what the daemon sees, until it ends or nobody reads."""
    from smtpguard.cli.answers import subscribe, tell_answer
    from smtpguard.control.watch_item import TOPIC, parse_item
    from smtpguard.errors import DecodeError

    try:
        for item in subscribe(socket_path, TOPIC):
            if "dropped" in item:
                print_message(f"smtpguard: {item['dropped']} connections were too fast to be shown")
                continue
            try:
                seen = parse_item(item)
            except DecodeError as error:
                raise tell_answer(socket_path, error) from error
            show(*seen)
    except (BrokenPipeError, KeyboardInterrupt):
        import os
        import sys

        # Python would complain about the closed pipe once more when it flushes stdout at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end_with_the_reader(descriptor: int) -> None:
    """Where nobody connects, no write would find out that nobody reads any more."""
    import os
    import select
    import signal
    import threading

    def end(number: int, frame: object) -> None:
        del number, frame
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    gone = select.poll()
    gone.register(descriptor, 0)  # errors are told without being asked for

    def wait() -> None:
        gone.poll()
        os.kill(os.getpid(), signal.SIGPIPE)

    signal.signal(signal.SIGPIPE, end)
    threading.Thread(target=wait, daemon=True).start()
