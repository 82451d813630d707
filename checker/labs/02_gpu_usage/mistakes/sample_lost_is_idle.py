# exercise: sample_utilisation
# outcome: failed
# says: A GPU that does not answer is drawn as idle.
def sample_utilisation(count, pause):
    found = []
    with nvml():
        for index in range(pynvml.nvmlDeviceGetCount()):
            readings, error = [], None
            for _ in range(count + 1):
                try:
                    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                    readings.append(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
                except pynvml.NVMLError as problem:
                    readings.append(0)
                    error = str(problem)
                time.sleep(pause)
            found.append({"index": index, "utilisation": sum(readings[1:]) / count, "error": error})
    return found
