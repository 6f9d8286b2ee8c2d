"""The directories of sessions on this machine: made, locked, kept, and removed when their session has ended."""
