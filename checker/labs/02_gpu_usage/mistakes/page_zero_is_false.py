# exercise: gpu_page
# outcome: failed
# says: NVML_DRIVER_WDDM is the number 0. A test for truth takes it for "nothing"; compare with None.
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
                    "driver_model": ["WDDM", "TCC", "MCDM"][model] if model else None,
                    "memory_gib": None if memory is None else memory.total / 2**30,
                }
            )
    return page
