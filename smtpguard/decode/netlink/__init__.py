"""Netlink, decoded and rendered: framing, audit, sock_diag, nfnetlink_log, nftables."""
