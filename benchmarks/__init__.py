"""Speed of clsync beside clsync 0.4 and lsyncd, measured in one run: `python -m benchmarks.run --help`."""
