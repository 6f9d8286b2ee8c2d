"""Ray Workflows stays out of zray, which is Ray Core only."""

raise ImportError(
    "Ray Workflows is not part of zray, which is Ray Core only. "
    "Use tasks and a store of your own for results; Ray has removed it, too"
)
