"""Which configuration a service starts with where its file is wrong: a guard is never down over a file.

The last good one, which the state keeps, is checked as any file is. Where there is none, the shipped defaults hold:
connections are watched and told, nobody is refused. Whoever starts the guard by hand is told what is wrong instead.
"""

from smtpguard import __version__
from smtpguard.errors import ConfigError, StateError
from smtpguard.logline import render_time
from smtpguard.settings import Settings
from smtpguard.settings.load import load_settings, load_text
from smtpguard.settings.salvage import salvage_places
from smtpguard.state.last_good import read_kept


def load_for_service(path: str | None) -> tuple[Settings, str | None]:
    """The configuration to start with.

    Args:
        path: What --config named; None for the usual order.

    Returns:
        The settings, and why they are not the file's, for people; None if they are.
    """
    try:
        return load_settings(path), None
    except ConfigError as error:
        return recover(path, error)


def recover(path: str | None, error: ConfigError) -> tuple[Settings, str]:
    """The last good configuration, or the shipped defaults, and what a person has to know.

    Args:
        path: As for `load_for_service`.
        error: What is wrong with the file.
    """
    places = salvage_places(path)
    wrong, *more = str(error).splitlines()
    rest = f" (and {len(more)} more)" if more else ""
    try:
        kept = read_kept(places.state_path)
        settings = load_text(kept.text, kept.path)
    except (StateError, ConfigError) as failure:
        reason = str(failure).splitlines()[0]
        held = f"no good one is known ({reason}), so THE SHIPPED DEFAULTS are in force and nobody is refused"
        settings = places
    else:
        since = render_time(kept.wall_ns)[:19].replace("T", " ")
        by = f" by smtpguard {kept.version}" if kept.version != __version__ else ""
        held = f"the last good one is in force, of {since}{by}"
    return settings, f"THE CONFIGURATION FILE IS WRONG: {held}: {wrong}{rest}"
