"""Scenarios in Ray's public API: what passes on Ray (``--impl ray``) is demanded of zray."""
