"""Sync handlers: a batch goes in, an outcome comes out. They do not know the monitors."""
