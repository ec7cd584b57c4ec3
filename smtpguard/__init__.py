"""smtpguard: sees every outbound SMTP connection of a shared web host and stops the offender alone."""

__version__ = "0.1.0"
