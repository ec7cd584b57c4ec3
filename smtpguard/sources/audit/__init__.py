"""Sources that live on Linux audit: its netlink multicast, its log as it grows, and logs written earlier."""
