"""The machine's NVIDIA GPUs through NVML: what they do now, who uses them, and bounds on their memory.

The only package that imports ``pynvml``; everybody else takes plain data from here:

* ``devices``: a reading of every GPU, for people to look at, with its MIG instances;
* ``processes``: which processes use which GPU, once a second, to tell use from idleness;
* ``limits``: hard limits on the GPU memory of a container, where driver and kernel have them;
* ``calls``: what NVML's answers mean, and in which words that is said.
"""

from gradlab.gpu.nvml.processes import Process, Sample, Use
from gradlab.gpu.nvml.session import Nvml, read

__all__ = ["Nvml", "Process", "Sample", "Use", "read"]
