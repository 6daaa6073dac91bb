"""The one option table, and everything that is made from it."""
