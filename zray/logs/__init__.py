"""Summing up lines of output and logs, showing them, and writing them."""
