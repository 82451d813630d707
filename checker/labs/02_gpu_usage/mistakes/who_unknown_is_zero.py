# exercise: who_uses
# outcome: failed
# says: A process whose memory the driver does not tell is None; 0 would say that it holds none.
def who_uses(index, pid):
    with nvml():
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        compute = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        graphics = pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle)
        used = pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2).used
    listed = compute + graphics
    processes = {p.pid: p.usedGpuMemory or 0 for p in listed}
    known = sum(m or 0 for m in processes.values())
    return {"processes": processes, "own_visible": pid in processes, "unattributed": used - known}
