"""Settings of a process's memory that differ from the defaults of CPython and the C library."""
