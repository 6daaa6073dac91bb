"""The rsync handler: exact batches through any rsync since 3.1.3, local, over ssh or to a daemon."""

from clsync.handler.rsync.handler import RsyncHandler
from clsync.handler.rsync.target import Target

__all__ = ["RsyncHandler", "Target"]
