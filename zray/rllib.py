"""RLlib stays out of zray, which is Ray Core only."""

raise ImportError(
    "RLlib is not part of zray, which is Ray Core only. "
    "Use a library for reinforcement learning, with actors for its environments"
)
