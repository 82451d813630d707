# exercise: memory_parts
# outcome: failed
# says: Your process is not listed, or its memory is not known: what torch holds is still in unattributed and counts
def memory_parts(index, pid, allocated, reserved):
    with nvml():
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2)
        listed = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        listed += pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle)
    processes = {p.pid: p.usedGpuMemory or 0 for p in listed}
    mine = processes.get(pid)
    others = sum(m for p, m in processes.items() if p != pid)
    return {
        "tensors": allocated,
        "cache": reserved - allocated,
        "context": mine - reserved if mine else None,
        "others": others,
        "unattributed": memory.used - others - (mine or 0),
        "driver": memory.reserved,
    }
