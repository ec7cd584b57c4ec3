"""What commands and daemon share of the control socket: protocol, client, server."""
