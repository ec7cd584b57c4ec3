"""`smtpguard demo`: a hacked site, an innocent one and the guard, in namespaces of their own."""

import os

import click

from smtpguard.errors import PrivilegeError


@click.command("demo")
def command() -> None:
    """Show a hacked site being stopped while its neighbour goes on.

    Everything happens in network namespaces and a sub-cgroup made for it; no account is needed, nothing is left.
    """
    from smtpguard.demo.story import tell

    if os.geteuid() != 0:
        raise PrivilegeError("the demonstration makes namespaces and loads a BPF program", fix="run it as root")
    for line in tell():
        click.echo(line)
