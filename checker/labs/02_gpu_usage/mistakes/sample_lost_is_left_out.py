# exercise: sample_utilisation
# outcome: failed
# says: GPUs are missing: a broken one must not hide itself or the others.
def sample_utilisation(count, pause):
    found = []
    with nvml():
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                readings = []
                for _ in range(count + 1):
                    readings.append(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
                    time.sleep(pause)
            except pynvml.NVMLError:
                continue
            found.append({"index": index, "utilisation": sum(readings[1:]) / count, "error": None})
    return found
