"""Commands that work without a daemon: kernel and state are looked at, and changed, directly."""
