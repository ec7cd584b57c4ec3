"""What the daemon answers through its control socket."""
