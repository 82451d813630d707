# exercise: who_uses
# outcome: error in your code
# says: TypeError: unsupported operand type(s) for +: 'int' and 'NoneType'
def who_uses(index, pid):
    with nvml():
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        compute = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        graphics = pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle)
        used = pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2).used
    listed = compute + graphics
    processes = {p.pid: p.usedGpuMemory for p in listed}
    known = sum(processes.values())
    return {"processes": processes, "own_visible": pid in processes, "unattributed": used - known}
