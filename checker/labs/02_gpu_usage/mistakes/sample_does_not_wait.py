# exercise: sample_utilisation
# outcome: failed
# says: did not wait: there are two pauses between three readings.
def sample_utilisation(count, pause):
    found = []
    with nvml():
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                readings = [pynvml.nvmlDeviceGetUtilizationRates(handle).gpu for _ in range(count + 1)]
                found.append({"index": index, "utilisation": sum(readings[1:]) / count, "error": None})
            except pynvml.NVMLError as error:
                found.append({"index": index, "utilisation": None, "error": str(error)})
    return found
