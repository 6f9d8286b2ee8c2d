"""Ray AIR stays out of zray, which is Ray Core only."""

raise ImportError(
    "Ray AIR is not part of zray, which is Ray Core only. Use what the libraries below it use; Ray has removed it, too"
)
