"""clsync: live synchronisation of file trees."""

__version__ = "1.0.0.dev0"
