"""NVIDIA's driver without a GPU: a real ``libnvidia-ml.so.1`` whose answers come from a scenario.

Programs that use NVML, NVIDIA's binding and other people's monitors among them, load it unmodified in a process of
their own and see the GPUs, processes and faults of the scenario, which may change while they run:

* ``scenario``: what may be simulated, and the file that says so;
* ``library``: compiles the library and gives the environment in which a program finds it;
* ``nvml.c``: the library.
"""

from gradlab.gpu.simulator.library import build, environment
from gradlab.gpu.simulator.scenario import write

__all__ = ["build", "environment", "write"]
