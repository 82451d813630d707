"""The machine's NVIDIA GPUs through NVML: what they do now, who uses them, and bounds on their memory.

The only package that imports ``pynvml``; everybody else takes plain data from here. One look at all GPUs is a *frame*::

    {"at": seconds since the epoch, when the look began, "took": seconds,
     "state": "ok" | "no driver" | "not loaded" | "mismatch" | "no permission" | "no gpu" | "too old" | "failed" |
              "silent",
     "available": whether the state is "ok", "message": empty, or a sentence with the remedy,
     "simulated": whether the library is a simulator's,
     "driver_version", "nvml_version", "cuda_version": str | None,
     "devices": [device]}

A device (``devices``) has its identity, figures and processes, and a ``state`` of its own: "ok", "lost", "reset
required", "no permission", "failed", "silent"; with another than "ok" its ``error`` says what to do. One bad GPU never
hides the others. A figure that the hardware does not report is None, never 0; one that could not be read is None too,
and ``problems`` has the reason by the figure's name. "silent" is what ``gradlab.gpu.sampling`` says of one that hangs.

* ``session``: the library, started once and asked again and again;
* ``devices``: one GPU; ``figures``: what it measures; ``mig``: its MIG instances; ``gpm``: how busy those are;
* ``events``: errors that the driver told of;
* ``processes``: which processes use a GPU, and how busy they keep it;
* ``limits``: hard limits on the GPU memory of a container, where driver and kernel have them;
* ``calls``: what NVML's answers mean, and in which words that is said.
"""

from gradlab.gpu.nvml.session import Nvml, read

__all__ = ["Nvml", "read"]
