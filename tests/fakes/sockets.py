"""Sockets as sock_diag tells of them."""

from smtpguard.decode.netlink.sock_diag import AF_INET, ESTABLISHED, Session

SESSION = Session(
    family=AF_INET,
    state=ESTABLISHED,
    source=bytes([10, 0, 0, 1]),
    source_port=40000,
    address=bytes([192, 0, 2, 1]),
    port=25,
    interface=0,
    cookie=7,
    uid=1001,
    inode=99,
)
