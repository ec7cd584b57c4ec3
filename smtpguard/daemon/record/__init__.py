"""What is written down: the event log, the history, and the windows that outlive a restart."""
