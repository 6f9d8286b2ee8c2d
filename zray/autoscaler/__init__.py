"""Ray's autoscaler. zray has none: hosts are started by hand, by Slurm or by Kubernetes, see ``docs/deploy.md``."""
