# exercise: gpu_page
# outcome: failed
# says: Those are 10**9 bytes each; a GiB is 2**30.
def reported(query, *args):
    try:
        return query(*args)
    except pynvml.NVMLError:
        return None


def gpu_page():
    page = []
    with nvml():
        cuda = reported(pynvml.nvmlSystemGetCudaDriverVersion_v2)
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            model = reported(pynvml.nvmlDeviceGetCurrentDriverModel, handle)
            memory = reported(pynvml.nvmlDeviceGetMemoryInfo, handle)
            page.append(
                {
                    "name": pynvml.nvmlDeviceGetName(handle),
                    "driver_version": pynvml.nvmlSystemGetDriverVersion(),
                    "cuda_version": None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
                    "driver_model": None if model is None else ["WDDM", "TCC", "MCDM"][model],
                    "memory_gib": None if memory is None else memory.total / 1e9,
                }
            )
    return page
