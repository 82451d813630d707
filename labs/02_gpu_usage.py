# %% [markdown]
# # Checking the GPU: what it is, what it does, who uses it
#
# **You will be able to** read the real state of an NVIDIA GPU from Python and from `nvidia-smi`; say what
# "utilisation" measures and what it does not; keep a broken GPU from looking like an idle one; name
# everybody who holds its memory; and explain why PyTorch, the process list and the driver give three
# different figures for it.
#
# **Before you start:** dicts, `try`/`except`, a `with` block. **Out of scope:** running work on a GPU (lab
# 5), profilers.
#
# **How it works.** Read, write the function, try it, run its check; `lab.hint("name")` gives a hint, then a
# better one. Seven exercises, about 45 minutes. You do not need a GPU: on a server without one, the cell
# below puts a simulated driver under NVIDIA's own Python binding. The judge does the same with machines
# that you have not seen.

# %%
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib.pyplot as plt
import pynvml

lab.simulate_gpu(seed=1893)  # leave the seed out to get other GPUs each time


@contextmanager
def nvml() -> Iterator[None]:
    """NVML works inside the `with` block, and is given back after it whatever happens."""
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def is_written(function: Callable[..., Any], *example: Any) -> bool:
    """Whether the function has been written already; if not, one line says so."""
    try:
        function(*example)
    except NotImplementedError:
        print(f"{function.__name__} is not written yet. Fill in its cell above, run it, then run this one.")
        return False
    return True


# %% [markdown]
# `pynvml` is the module; the package that brings it is **nvidia-ml-py**. (The package that is *called*
# pynvml is deprecated, which is a nice trap.) It wraps NVML, the driver's own library, and `nvidia-smi` is
# a command-line program over that same library. Every function of NVML has a Python twin of the same name:

# %%
with nvml():
    print("driver", pynvml.nvmlSystemGetDriverVersion())
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        print("GPU", index, pynvml.nvmlDeviceGetName(handle))
        try:
            print("    driver model", pynvml.nvmlDeviceGetCurrentDriverModel(handle))
        except pynvml.NVMLError as error:
            print("    driver model:", type(error).__name__, error)

# %% [markdown]
# ## 1. The answer that people give
#
# > *Interview:* "How do you check GPU usage?"
#
# **People say:** "On Windows, open **dxdiag** and read *Driver Model* on the Display tab." Put it to the
# test: this is what dxdiag writes when you press *Save All Information*, shortened.

# %%
DXDIAG = r"""
---------------
Display Devices
---------------
           Card name: Intel(R) UHD Graphics 630
        Manufacturer: Intel Corporation
      Display Memory: 8242 MB
    Dedicated Memory: 128 MB
       Shared Memory: 8114 MB
        Current Mode: 1920 x 1080 (32 bit) (120Hz)
 Driver File Version: 31.00.0101.2115 (English)
      Driver Version: 31.0.101.2115
        Driver Model: WDDM 2.7

           Card name: NVIDIA GeForce RTX 2080 SUPER
        Manufacturer: NVIDIA
          Device Key: Enum\PCI\VEN_10DE&DEV_1E81&SUBSYS_40051458&REV_A1
      Display Memory: 24306 MB
    Dedicated Memory: 7987 MB
       Shared Memory: 16319 MB
        Current Mode: 2560 x 1440 (32 bit) (144Hz)
         Driver Name: C:\Windows\System32\DriverStore\FileRepository\nv_dispi.inf_amd64\nvldumdx.dll
 Driver File Version: 32.00.0016.1062 (English)
      Driver Version: 32.0.16.1062
        Driver Model: WDDM 3.2

-------------
Sound Devices
-------------
            Description: Speakers (USB Audio)
            Driver Name: usbaudio.sys
         Driver Version: 10.0.26100.1
"""

# %% [markdown]
# **Task.** `dxdiag_gpus(text)` gives one dict for each **NVIDIA** card, in order, with
#
# | key | value | in the dump above |
# |---|---|---|
# | `"name"` | `str` | `"NVIDIA GeForce RTX 2080 SUPER"` |
# | `"driver_version"` | the version as NVIDIA and `nvidia-smi` write it, `str` | `"610.62"` |
# | `"driver_model"` | `str` | `"WDDM 3.2"` |
# | `"memory_mib"` | the card's own memory, `int` | `7987` |
#
# Windows has a numbering of its own for drivers. NVIDIA's is hidden in it: the **last five digits**, dots
# left out, with a dot before the last two. The "display memory" counts half of the computer's RAM as well,
# so that is not it. And a text of many sections has many drivers in it.


# %% exercise="dxdiag_gpus"
def dxdiag_gpus(text: str) -> list[dict[str, Any]]:
    """What dxdiag knows of the NVIDIA cards. (roughly 15 lines)"""
    raise NotImplementedError


# %%
if is_written(dxdiag_gpus, DXDIAG):
    for gpu in dxdiag_gpus(DXDIAG):
        print(gpu)

print("\nHow often does the dump say anything of …")
for fact in ("utilization", "usage", "process", "memory used", "temperature", "power", "CUDA"):
    print(f"    {fact:12} {DXDIAG.lower().count(fact.lower())} times")

# %%
lab.check("dxdiag_gpus")

# %% [markdown]
# ## 2. The page about the machine
#
# > *Interview:* "You get a login on a GPU machine. What do you find out first, and how?"
#
# Name, driver, the newest CUDA version which that driver can run, memory. Four traps are waiting:
#
# * NVML gives the CUDA version as a number, `1000 * major + 10 * minor`.
# * The **driver model** exists on Windows only. There it is `pynvml.NVML_DRIVER_WDDM`, `…_WDM` (the
#   deprecated TCC) or `…_MCDM`. Linux raises `NVMLError_NotSupported`. That is an answer, too.
# * So a value may be unknown. Unknown is `None`. A GPU with 0 GiB is a lie that somebody will plot.
# * One unknown value must not cost you the rest of the page.

# %%
print("the driver models:", pynvml.NVML_DRIVER_WDDM, pynvml.NVML_DRIVER_WDM, pynvml.NVML_DRIVER_MCDM)
with nvml():
    print("CUDA:", pynvml.nvmlSystemGetCudaDriverVersion_v2())
    print(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)))

# %% [markdown]
# **Task.** `gpu_page()` gives a list with one dict a GPU, in order of their index:
#
# `{"name": "NVIDIA H200", "driver_version": "615.71.09", "cuda_version": "13.4", "driver_model": None,
# "memory_gib": 140.4}`
#
# The driver model is `"WDDM"`, `"TCC"`, `"MCDM"` or `None`; memory is all that the GPU has, in GiB (2**30
# bytes), a float that is not rounded. Whatever NVML does not report (any `pynvml.NVMLError`) is `None`.
#
# Your function runs alone in the judge, so let it start NVML itself: `with nvml():`.


# %% exercise="gpu_page"
def gpu_page() -> list[dict[str, Any]]:
    """Name, driver, CUDA version, driver model and memory of every GPU. (roughly 20 lines)"""
    raise NotImplementedError


# %%
if is_written(gpu_page):
    for gpu in gpu_page():
        for key, value in gpu.items():
            print(f"{key:>16}  {value!r}")
        print()

# %%
lab.check("gpu_page")

# %% [markdown]
# ## 3. The same without Python
#
# > *Interview:* "A colleague sends you the output of `nvidia-smi`. Can your script read that, too?"
#
# Never parse the picture that plain `nvidia-smi` draws. Ask for the columns that you want:
#
# `nvidia-smi --query-gpu=name,memory.total,utilization.gpu,power.draw,driver_model.current --format=csv`
#
# The first line has the units. These are lines of real GPUs. The second runs under MIG (split into
# instances), where NVML reports no utilisation; the third is a Windows machine.

# %%
SMI = """\
name, memory.total [MiB], memory.used [MiB], utilization.gpu [%], power.draw [W], driver_model.current
NVIDIA L40S, 46068 MiB, 0 MiB, 100 %, 144.97 W, [N/A]
NVIDIA H200, 143771 MiB, 55 MiB, [N/A], 78.28 W, [N/A]
NVIDIA GeForce RTX 2080 SUPER, 8192 MiB, 797 MiB, 0 %, 39.25 W, WDDM
"""

# %% [markdown]
# **Task.** `read_smi(text)` gives one dict a line. Its keys are the columns' names without the unit; its
# values are what NVML would have given, in NVML's units:
#
# | column | value |
# |---|---|
# | `memory.… [MiB]` | bytes, `int` |
# | `… [%]`, `… [MHz]` | `int` |
# | `power.… [W]` | milliwatts, `int` |
# | without a unit | the text |
# | anything in brackets (`[N/A]`, `[Insufficient Permissions]`, …), or a bare `N/A` | `None` |
#
# Any columns, in any order. With `--format=csv,nounits` the values come without their units (`46068`,
# `144.97`), while the first line keeps them; read that as well.


# %% exercise="read_smi"
def read_smi(text: str) -> list[dict[str, Any]]:
    """Lines of `nvidia-smi --query-gpu=… --format=csv` in NVML's units. (roughly 20 lines)"""
    raise NotImplementedError


# %%
if is_written(read_smi, SMI):
    for gpu in read_smi(SMI):
        print(gpu)

# %%
lab.check("read_smi")

# %% [markdown]
# Look at the L40S once more: **100 %** utilisation with **0 MiB** used. That was a real machine without a
# single process. How can that be?
#
# ## 4. What does 100 % mean?
#
# > *Interview:* "`nvidia-smi` shows 100 %. Is the GPU used well?"
#
# **People say:** "At 100 % all of its cores are busy." Find out. NVML's header defines it as the share of
# the last sample period, between 1/6 s and 1 s, in which **one or more kernels** were running. (An idle
# driver that scrubs its memory when it starts up is running one, too.) How many of the GPU's
# multiprocessors (SMs) the kernels occupied does not come into it.
#
# **Task.** `utilisation(kernels, start, end, sms)` computes both. A kernel is `(start, end, sms)`: it runs
# from `start` up to, but not including, `end` (whole microseconds), on so many of the GPU's
# multiprocessors. The slow specification:

# %%
Kernel = tuple[int, int, int]


def utilisation_spec(kernels: list[Kernel], start: int, end: int, sms: int) -> tuple[float, float]:
    busy = occupied = 0
    for now in range(start, end):
        running = [kernel for kernel in kernels if kernel[0] <= now < kernel[1]]
        busy += len(running) > 0
        occupied += sum(kernel[2] for kernel in running)
    return 100 * busy / (end - start), 100 * occupied / ((end - start) * sms)


tiny = [(at, at + 10, 1) for at in range(0, 1000, 10)]
print("one tiny kernel after another:", utilisation_spec(tiny, 0, 1000, 132))
print("two at once, half of the time:", utilisation_spec([(0, 500, 60), (0, 500, 60)], 0, 1000, 132))

# %% [markdown]
# Yours has to do without visiting every microsecond: the judge's windows are up to a second long. The
# kernels come in any order, may overlap (streams), contain each other, and reach beyond the window or lie
# outside it.


# %% exercise="utilisation"
def utilisation(kernels: list[Kernel], start: int, end: int, sms: int) -> tuple[float, float]:
    """Percent of the window with any kernel running, and mean percent of SMs in use. (roughly 12 lines)"""
    raise NotImplementedError


# %%
workloads = {
    "a tiny kernel, over and over": [(at, at + 50, 1) for at in range(0, 1000, 50)],
    "big kernels, waiting for data": [(at, at + 120, 132) for at in range(0, 1000, 250)],
    "two streams": [(0, 600, 66), (300, 1000, 66)],
}
fig, axes = plt.subplots(len(workloads), 1, figsize=(8, 4.5), sharex=True, constrained_layout=True)
for axis, (title, kernels) in zip(axes, workloads.items()):
    bottoms: list[Kernel] = []
    for begin, stop, used in kernels:
        below = sum(k[2] for k in bottoms if k[0] < stop and begin < k[1])
        axis.broken_barh([(begin, stop - begin)], (below, used), edgecolor="white", linewidth=0.5)
        bottoms.append((begin, stop, used))
    busy, occupied = utilisation_spec(kernels, 0, 1000, 132)
    axis.set(title=f"{title}: nvidia-smi says {busy:.0f} %, SMs in use {occupied:.1f} %")
    axis.set(ylim=(0, 132), ylabel="SMs")
axes[-1].set_xlabel("microseconds")
plt.show()

if is_written(utilisation, [], 0, 1000, 132):
    for title, kernels in workloads.items():
        time_used, sms_used = utilisation(kernels, 0, 1000, 132)
        print(f"{title:30} yours: {time_used:5.1f} % of the time, {sms_used:4.1f} % of the SMs")

# %%
lab.check("utilisation")

# %% [markdown]
# ## 5. Watching it
#
# > *Interview:* "How do you tell a training run that starves its GPU from a GPU that has died?"
#
# One reading says little, and the first one says least: right after the driver has started it can be 100 %
# of nothing, as above. So read several times, drop the first, and average.
#
# A GPU can also fall off the bus, before you begin or in the middle. Then every question about it, often
# already the one for its handle, raises `NVMLError_GpuIsLost`. The others are fine. A monitor that dies
# there hides eight GPUs because of one. A monitor that draws the lost one as 0 % is worse: it looks free.
#
# **Task.** `sample_utilisation(count, pause)` reads every GPU `count + 1` times, with `pause` seconds
# between the readings, and gives a list with one dict a GPU, in order of their index:
#
# * `{"index": 0, "utilisation": 71.5, "error": None}`: the mean of all readings but the first, a `float`;
# * `{"index": 1, "utilisation": None, "error": "GPU is lost"}`: as soon as **any** reading of this GPU
#   raises a `pynvml.NVMLError`, that error as a `str`. (A GPU under MIG says `"Not Supported"`.)


# %% exercise="sample_utilisation"
def sample_utilisation(count: int, pause: float) -> list[dict[str, Any]]:
    """The mean utilisation of every GPU, or what is wrong with it. (roughly 20 lines)"""
    raise NotImplementedError


# %%
if is_written(sample_utilisation, 1, 0.0):
    for gpu in sample_utilisation(3, 0.2):
        percent = gpu["utilisation"]
        bar = gpu["error"] if percent is None else f"{'█' * round(percent / 4):25} {percent:.0f} %"
        print(f"GPU {gpu['index']}  {bar}")

# %% [markdown]
# Where there is a real GPU, give it something to do and watch the number rise:

# %%
import torch

if torch.cuda.is_available():
    x = torch.randn(8192, 8192, device="cuda")
    until = time.monotonic() + 3
    while time.monotonic() < until:
        x = (x @ x).tanh()
    print("after three seconds of matmul:", torch.cuda.utilization(), "%")
else:
    print("torch sees no CUDA device here, so there is nothing to load. Simulated GPUs compute nothing.")

# %%
lab.check("sample_utilisation")

# %% [markdown]
# ## 6. Who is on it?
#
# > *Interview:* "CUDA is out of memory, but your process holds almost nothing. Who has the rest?"
#
# NVML lists processes in two lists: **compute** (CUDA) and **graphics**. A process that does both is in
# both, with the same memory. And a process list is never all of the truth:
#
# * Under WDDM, Windows manages the memory, and each process's `usedGpuMemory` is `None`.
# * In a container you see the processes of *your* PID namespace. Others' are left out without a word, and
#   with them what they hold. Even your own may be missing.
#
# What is used and belongs to nobody you can see is **unattributed**. Show it, and nobody has to wonder.

# %%
with nvml():
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
        print("compute ", process.pid, process.usedGpuMemory)
    for process in pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle):
        print("graphics", process.pid, process.usedGpuMemory)
    print("version 1:", pynvml.nvmlDeviceGetMemoryInfo(handle))
    print("version 2:", pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2))

# %% [markdown]
# Compare the last two lines. Version 1 counts what the driver keeps for itself as used; version 2 has it
# apart, as `reserved`, and so has `nvidia-smi`.
#
# **Task.** `who_uses(index, pid)` gives a dict:
#
# * `"processes"`: a dict from PID to bytes, or to `None` where the driver does not say;
# * `"own_visible"`: whether the process `pid` is among them, a `bool`;
# * `"unattributed"`: bytes in use on this GPU (without the driver's reserve) that no listed process
#   accounts for.


# %% exercise="who_uses"
def who_uses(index: int, pid: int) -> dict[str, Any]:
    """The processes on a GPU, whether `pid` is one of them, and what belongs to none. (roughly 15 lines)"""
    raise NotImplementedError


# %%
if is_written(who_uses, 0, os.getpid()):
    found = who_uses(0, os.getpid())
    for pid, memory in found["processes"].items():
        print(f"{pid:>12}  {'unknown' if memory is None else f'{memory / 2**20:.0f} MiB'}")
    print(f"unattributed  {found['unattributed'] / 2**20:.0f} MiB")
    print(f"this notebook (PID {os.getpid()}) is {'' if found['own_visible'] else 'not '}in the list")

# %%
lab.check("who_uses")

# %% [markdown]
# ## 7. Where did the memory go?
#
# > *Interview:* "`torch.cuda.memory_allocated()` says 2 GiB, `nvidia-smi` says 4. Does PyTorch leak?"
#
# **People say** yes. Reconcile the figures, and see what is left to explain:
#
# | figure | what is in it |
# |---|---|
# | `torch.cuda.memory_allocated()` | tensors that are alive |
# | `torch.cuda.memory_reserved()` | those, and free blocks that torch keeps for the next tensor |
# | your process in NVML's list | that, and its CUDA context: loaded kernels, libraries' own memory |
# | `used`, version 2 | all processes', and what belongs to nobody you can see |
# | `used`, version 1, and `torch.cuda.device_memory_used()` | that, and the driver's own reserve |
#
# **Task.** `memory_parts(index, pid, allocated, reserved)` takes torch's two figures for the process `pid`
# and NVML's for the GPU `index`, all in bytes, and gives a dict of six parts, in bytes:
#
# `"tensors"`, `"cache"`, `"context"` (your process's), `"others"` (all other listed processes),
# `"unattributed"`, `"driver"`
#
# which add up to version 1's `used` (an unknown one counts as 0). If your process is not listed, or its
# memory is unknown, `"context"` is `None`. What it really is then hides in `"unattributed"`; what torch
# holds is still yours. Take the others' unknown memory the same way. You may call `who_uses`.


# %% exercise="memory_parts"
def memory_parts(index: int, pid: int, allocated: int, reserved: int) -> dict[str, int | None]:
    """The memory in use on a GPU, split into parts that add up. (roughly 15 lines)"""
    raise NotImplementedError


# %%
if torch.cuda.is_available():
    x = torch.zeros(2**28, device="cuda")  # 1 GiB
    freed = torch.zeros(2**27, device="cuda")
    del freed  # goes back to the cache, not to the driver
    me, allocated, reserved = os.getpid(), torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
else:  # let some process on the first GPU be ours
    with nvml():
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        listed = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    me, mine = (listed[0].pid, listed[0].usedGpuMemory or 0) if listed else (os.getpid(), 0)
    allocated, reserved = mine * 5 // 10, mine * 8 // 10

if is_written(memory_parts, 0, me, allocated, reserved):
    parts = memory_parts(0, me, allocated, reserved)
    fig, axis = plt.subplots(figsize=(8, 1.8), constrained_layout=True)
    left = 0.0
    for part, size in parts.items():
        width = (size or 0) / 2**30
        label = f"{part}: unknown" if size is None else f"{part}: {width:.2f} GiB"
        axis.barh(["used"], width, left=left, label=label)
        left += width
    axis.set_xlabel("GiB")
    axis.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    plt.show()

# %%
lab.check("memory_parts")

# %% [markdown]
# **Say it in one breath:** "`nvidia-smi` or NVML (`nvidia-ml-py`), not dxdiag. Utilisation is the share of
# time in which any kernel ran, so I look at power, SM activity and throughput as well. For memory I
# separate live tensors, torch's cache, the context, other processes and what nobody accounts for."
