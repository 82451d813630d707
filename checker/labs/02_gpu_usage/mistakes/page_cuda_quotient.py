# exercise: gpu_page
# outcome: failed
# says: The CUDA version is 1000 * major + 10 * minor: 13040 is 13.4.
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
                    "cuda_version": None if cuda is None else str(cuda / 1000),
                    "driver_model": None if model is None else ["WDDM", "TCC", "MCDM"][model],
                    "memory_gib": None if memory is None else memory.total / 2**30,
                }
            )
    return page
