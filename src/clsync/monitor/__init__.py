"""Monitors: kernel events in, changed paths out. They do not know the handlers."""
