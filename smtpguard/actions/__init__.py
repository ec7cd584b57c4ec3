"""What is done on a verdict: nftables, the event log, fail2ban."""
