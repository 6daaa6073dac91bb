"""From kernel events to changed paths: fanotify, inotify, polling, chosen for each mount."""

from clsync.monitor.base import Monitor
from clsync.monitor.composite import TreeMonitor

__all__ = ["Monitor", "TreeMonitor"]
