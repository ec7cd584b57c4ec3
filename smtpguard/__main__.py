"""`python -m smtpguard` is `smtpguard`."""

from smtpguard.cli import main

main(prog_name="smtpguard")
