"""Faults at random instants: whatever happens, nothing is lost, and every file at the destination is whole."""
