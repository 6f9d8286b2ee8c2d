"""A few helpers from a private package of Ray that programs' tests use all the same."""
