"""What is done with the memory of a process that CPython and the C library would do otherwise."""
