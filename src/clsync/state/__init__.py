"""Durable state: an index of what the targets are confirmed to hold, and a journal of what they may not hold."""
