"""Puts smtpguard's files where the system looks for them, and takes them away again: `smtpguard setup`."""
