"""Ray Serve stays out of zray, which is Ray Core only."""

raise ImportError(
    "Ray Serve is not part of zray, which is Ray Core only. Use a web server (uvicorn, Starlette) in front of actors"
)
