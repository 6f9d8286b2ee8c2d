"""Installs the parts of runtime environments: what runs in the processes of ``zray.worker.host.installers``.

Each process installs one part into one new directory. It succeeds if its exit code is 0. Its output explains a failure.
"""
