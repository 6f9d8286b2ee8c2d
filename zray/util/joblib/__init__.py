"""joblib on a cluster: ``register_zray()``, then ``joblib.parallel_config("zray")``.

Programs written for Ray call ``register_ray()`` and use the backend ``"ray"``: it is the same one.
"""

__all__ = ["register_ray", "register_zray"]


def register_zray() -> None:
    """Registers the joblib backend ``"zray"``.

    Raises:
        ImportError: joblib is not installed.
    """
    _register("zray")


def register_ray() -> None:
    """Registers the joblib backend ``"ray"``, and ``"zray"``, which is the same.

    Raises:
        ImportError: joblib is not installed.
    """
    _register("ray")
    _register("zray")


def _register(name: str) -> None:
    try:
        from joblib import register_parallel_backend
    except ImportError as error:
        raise ImportError("the joblib backend of zray needs joblib: pip install joblib") from error
    from zray.util.joblib.backend import ZrayBackend

    register_parallel_backend(name, ZrayBackend)
