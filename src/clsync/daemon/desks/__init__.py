"""Desks of the broker: each answers one kind of what a worker may ask (`privilege.wire.Op`)."""
