# exercise: who_uses
# outcome: failed
# says: That is the compute list alone.
def who_uses(index, pid):
    with nvml():
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        compute = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        graphics = pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle)
        used = pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2).used
    listed = compute
    processes = {p.pid: p.usedGpuMemory for p in listed}
    known = sum(m or 0 for m in processes.values())
    return {"processes": processes, "own_visible": pid in processes, "unattributed": used - known}
