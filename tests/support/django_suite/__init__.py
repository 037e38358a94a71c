"""Runs Django's own mail tests with every message taken through the codec; see ``shim``."""
