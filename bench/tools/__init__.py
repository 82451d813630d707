"""The tools that are compared: each judges one notebook or ten of them, and says how long it took.

Every measurement is followed by a look at the marks: a row that measured a failure would be worthless.
"""

from bench.tools.base import MANY, Tool
from bench.tools.ours import DOCKER_TITLE, Cold, Floor, Warm
from bench.tools.peers import Nbgrader, Otter, Papermill

__all__ = ["DOCKER_TITLE", "MANY", "Cold", "Floor", "Nbgrader", "Otter", "Papermill", "Tool", "Warm"]
