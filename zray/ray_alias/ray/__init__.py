"""In the place of Ray for the Python processes that a program under the name ``ray`` starts; see ``zray.ray_name``.

``install`` puts the directory above on ``PYTHONPATH``. So ``import ray`` finds this file, which makes the name mean
zray in the new process, too. The import system then returns what is in ``sys.modules`` under the name.
"""

import sys

from zray import ray_name

del sys.modules["ray"]
ray_name.install()
__import__("ray")
