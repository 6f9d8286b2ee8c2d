"""Ray's place for utilities (``ActorPool``, ``Queue``, placement groups, ...). None of them is here yet."""
