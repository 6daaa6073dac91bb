"""Tells what differs at a destination, without changing anything.

`base` is what the daemon knows. Local destinations are compared by a process of our own (`local`, `child`, `tree`),
others by a dry run of rsync (`handler.rsync.dryrun`).
"""
