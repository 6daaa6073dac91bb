"""One thin file per Linux facility: typed flags in, OSError with the path out; no policy."""
