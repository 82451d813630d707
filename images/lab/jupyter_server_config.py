"""Learners' servers in containers, beside what labkit/config says for all servers."""

import os

c = get_config()  # noqa: F821

# A kernel that nobody has open and that computes nothing gives its memory back, on the GPU too. 0 switches that off.
c.MappingKernelManager.cull_idle_timeout = int(os.environ.get("GRADLAB_KERNEL_IDLE_SECONDS") or 3600)
c.MappingKernelManager.cull_interval = 60
c.MappingKernelManager.cull_busy = False
c.MappingKernelManager.cull_connected = False
