"""Ways into the kernel that several adapters share: nftables, its notifications, sock_diag. They decide nothing."""
