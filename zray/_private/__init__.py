"""A few helpers from Ray's private package that programs use all the same. Nothing else of it exists here."""
