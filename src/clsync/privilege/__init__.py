"""Who may do what: the broker that keeps its rights, the worker that has none, and what they say to each other."""
