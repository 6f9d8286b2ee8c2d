"""Names of resources that the cluster itself gives to hosts."""

HEAD_NODE_RESOURCE_NAME = "node:__internal_head__"
"""The resource of the cluster's first host."""
NODE_ID_PREFIX = "node:"
"""What the resource that each host has of itself, ``node:<ip>``, begins with."""
