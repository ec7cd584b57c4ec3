"""What the guard tells others of itself: a process of its own does it (smtpguard/notify)."""
