"""Fuzzing of all that parses: one target for each parser, driven by hypothesis, by atheris, or by mutation."""
