# exercise: sample_utilisation
# outcome: failed
# says: This GPU was lost while you were reading.
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
                    error = str(problem)
                time.sleep(pause)
            kept = readings[1:]
            mean = sum(kept) / len(kept) if kept else None
            found.append({"index": index, "utilisation": mean, "error": None if kept else error})
    return found
