"""The package in which Ray has utilities (``ActorPool``, ``Queue``, placement groups, ...). zray has none yet."""
