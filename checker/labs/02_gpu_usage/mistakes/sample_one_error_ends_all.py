# exercise: sample_utilisation
# outcome: failed
# says: One GPU's error ended the readings of all
def sample_utilisation(count, pause):
    found = []
    with nvml():
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            readings = []
            for _ in range(count + 1):
                readings.append(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
                time.sleep(pause)
            found.append({"index": index, "utilisation": sum(readings[1:]) / count, "error": None})
    return found
