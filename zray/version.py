"""The version of zray."""

VERSION = "0.1.0"
