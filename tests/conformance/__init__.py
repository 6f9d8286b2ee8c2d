"""Scenarios in Ray's public API: a scenario that passes on Ray (``--impl ray``) must pass on zray."""
