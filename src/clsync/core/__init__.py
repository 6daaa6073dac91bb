"""The pure core: paths, changes, rules, windows, dirty sets, batches. No I/O, no clock, no logging."""
