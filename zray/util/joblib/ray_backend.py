"""``RayBackend``, the name of the backend's class in Ray."""

from zray.util.joblib.backend import ZrayBackend as RayBackend

__all__ = ["RayBackend"]
