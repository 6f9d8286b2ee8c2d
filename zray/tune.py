"""Ray Tune stays out of zray, which is Ray Core only."""

raise ImportError(
    "Ray Tune is not part of zray, which is Ray Core only. "
    "Use optuna or another search library, with a task for each trial"
)
