"""Modes so and rsyncso: sync handlers in C, loaded into a process of their own.

`handler` answers for batches; it starts a `process` and asks it to hand over what a batch is about, by the messages of
`protocol`. At the other end `child` loads the `host` library (C), which has what handlers may call, and the module; it
fills the structures of `layout` with what `values` says about the daemon.
"""
