# exercise: gpu_page
# outcome: failed
# says: This GPU does not report its memory. Unknown is None; 0 would say that it has none.
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
                    "memory_gib": memory.total / 2**30 if memory else 0.0,
                }
            )
    return page
