"""The control socket: its protocol, the server in the daemon, and a client."""
