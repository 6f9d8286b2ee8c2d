"""The runtime inside every driver and worker: core, shell, session. (``zray.client()`` joins a cluster, as in Ray.)"""
