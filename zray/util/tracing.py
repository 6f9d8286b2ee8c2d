"""Ray's ``ray.util.tracing``, which is not part of zray: the import says what to use."""

from __future__ import annotations

raise ImportError(
    "zray does not report to OpenTelemetry (ray.util.tracing): start the SDK of OpenTelemetry in the remote functions",
    name=__name__,
)
