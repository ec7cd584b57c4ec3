"""Has this host an address that block lists can be asked for, where the configuration names some?"""

from collections.abc import Iterator

from smtpguard.doctor.finding import ExaminedHost, Finding

MAX_SHOWN = 5
_NAME = "block lists"


def check_block_lists(host: ExaminedHost) -> Iterator[Finding]:
    """What block lists are asked for."""
    from smtpguard.notify.list_round import find_public

    listed = host.settings.listed
    if not listed.zones:
        yield Finding(name=_NAME, level="ok", found="none is asked (listed.zones)")
    else:
        yield judge_addresses(find_public(listed.addresses))


def judge_addresses(addresses: tuple[str, ...]) -> Finding:
    """Whether there is something to ask for.

    Args:
        addresses: The public addresses of this host's interfaces, and those named.
    """
    if not addresses:
        return Finding(
            name=_NAME,
            level="bad",
            found="no interface has a public address, and listed.addresses names none",
            means="block lists are named in listed.zones, and asked for nothing",
            fix="name the address that others see (1:1 NAT) in listed.addresses",
        )
    shown = ", ".join(addresses[:MAX_SHOWN])
    more = f" and {len(addresses) - MAX_SHOWN} more" if len(addresses) > MAX_SHOWN else ""
    return Finding(name=_NAME, level="ok", found=f"asked for {shown}{more}")
