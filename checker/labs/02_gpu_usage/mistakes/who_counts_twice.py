# exercise: who_uses
# outcome: failed
# says: A process in both lists is the same process with the same memory; it counts once.
def who_uses(index, pid):
    with nvml():
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        compute = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        graphics = pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle)
        used = pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2).used
    listed = compute + graphics
    processes = {p.pid: p.usedGpuMemory for p in listed}
    known = sum(p.usedGpuMemory or 0 for p in listed)
    return {"processes": processes, "own_visible": pid in processes, "unattributed": used - known}
