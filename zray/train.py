"""Ray Train stays out of zray, which is Ray Core only."""

raise ImportError(
    "Ray Train is not part of zray, which is Ray Core only. "
    "Use the training library itself (torch.distributed, Lightning, xgboost), one actor for each worker"
)
