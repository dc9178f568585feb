"""Runtimes: one session class each. See ``base``."""
