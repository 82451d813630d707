# exercise: sample_utilisation
# outcome: failed
# says: The first reading is in the mean. Drop it
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
                found.append({"index": index, "utilisation": sum(readings) / len(readings), "error": None})
            except pynvml.NVMLError as error:
                found.append({"index": index, "utilisation": None, "error": str(error)})
    return found
