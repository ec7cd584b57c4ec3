"""The process that tells people and machines: it is started by the daemon and gets what it tells through a socket."""
