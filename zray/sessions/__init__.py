"""The directories of clusters on this machine: made, locked, kept, and removed when their cluster is gone."""
