"""Wires monitor, core and handler together: phases, signals, files. Knows all other packages."""
