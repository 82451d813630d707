# %% exercise="dxdiag_gpus"
def dxdiag_gpus(text: str) -> list[dict[str, Any]]:
    """What dxdiag knows of the NVIDIA cards."""
    cards: list[dict[str, str]] = []
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "Card name":
            cards.append({})
        if cards:
            # The first one counts: sections further down use the same words.
            cards[-1].setdefault(key.strip(), value.strip())
    gpus = []
    for card in cards:
        if card["Manufacturer"] == "NVIDIA":
            digits = card["Driver Version"].replace(".", "")[-5:]
            gpus.append(
                {
                    "name": card["Card name"],
                    "driver_version": f"{digits[:3]}.{digits[3:]}",
                    "driver_model": card["Driver Model"],
                    "memory_mib": int(card["Dedicated Memory"].split()[0]),
                }
            )
    return gpus


# %% exercise="gpu_page"
DRIVER_MODELS = {
    pynvml.NVML_DRIVER_WDDM: "WDDM",
    pynvml.NVML_DRIVER_WDM: "TCC",
    pynvml.NVML_DRIVER_MCDM: "MCDM",
}


def reported(query: Callable[..., Any], *args: Any) -> Any:
    try:
        return query(*args)
    except pynvml.NVMLError:
        return None


def gpu_page() -> list[dict[str, Any]]:
    """Name, driver, CUDA version, driver model and memory of every GPU."""
    page = []
    with nvml():
        driver = reported(pynvml.nvmlSystemGetDriverVersion)
        cuda = reported(pynvml.nvmlSystemGetCudaDriverVersion_v2)
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            model = reported(pynvml.nvmlDeviceGetCurrentDriverModel, handle)
            memory = reported(pynvml.nvmlDeviceGetMemoryInfo, handle)
            page.append(
                {
                    "name": reported(pynvml.nvmlDeviceGetName, handle),
                    "driver_version": driver,
                    "cuda_version": None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
                    "driver_model": DRIVER_MODELS.get(model),
                    "memory_gib": None if memory is None else memory.total / 2**30,
                }
            )
    return page


# %% exercise="read_smi"
SCALES = {"[MiB]": 2**20, "[W]": 1000}


def smi_value(text: str, unit: str) -> str | int | None:
    if text.startswith("[") or text == "N/A":
        return None
    if not unit:
        return text
    return round(float(text.split()[0]) * SCALES.get(unit, 1))


def read_smi(text: str) -> list[dict[str, Any]]:
    """Lines of `nvidia-smi --query-gpu=… --format=csv` in NVML's units."""
    header, *lines = [
        [cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.strip()
    ]
    columns = [cell.partition(" ") for cell in header]
    return [{name: smi_value(cell, unit) for (name, _, unit), cell in zip(columns, line)} for line in lines]


# %% exercise="utilisation"
def utilisation(kernels: list[Kernel], start: int, end: int, sms: int) -> tuple[float, float]:
    """Percent of the window in which any kernel ran, and mean percent of the SMs in use."""
    busy = occupied = 0
    seen = start  # busy counts what lies before this
    for begin, stop, used in sorted(kernels):
        begin, stop = max(begin, start), min(stop, end)
        if begin >= stop:
            continue
        occupied += (stop - begin) * used
        busy += max(0, stop - max(begin, seen))
        seen = max(seen, stop)
    return 100 * busy / (end - start), 100 * occupied / ((end - start) * sms)


# %% exercise="sample_utilisation"
def sample_utilisation(count: int, pause: float) -> list[dict[str, Any]]:
    """The mean utilisation of every GPU, or what is wrong with it."""
    with nvml():
        gpus = range(pynvml.nvmlDeviceGetCount())
        readings: list[list[int]] = [[] for _ in gpus]
        errors: list[str | None] = [None for _ in gpus]
        for number in range(count + 1):
            if number:
                time.sleep(pause)
            for index in gpus:
                try:
                    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                    readings[index].append(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
                except pynvml.NVMLError as error:
                    errors[index] = errors[index] or str(error)
    return [
        {"index": i, "utilisation": None if errors[i] else sum(readings[i][1:]) / count, "error": errors[i]}
        for i in gpus
    ]


# %% exercise="who_uses"
def who_uses(index: int, pid: int) -> dict[str, Any]:
    """The processes on a GPU, whether `pid` is one of them, and what belongs to none."""
    with nvml():
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        listed = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        listed += pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle)
        used = pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2).used
    processes = {process.pid: process.usedGpuMemory for process in listed}
    known = sum(memory for memory in processes.values() if memory is not None)
    return {"processes": processes, "own_visible": pid in processes, "unattributed": used - known}


# %% exercise="memory_parts"
def memory_parts(index: int, pid: int, allocated: int, reserved: int) -> dict[str, int | None]:
    """The memory in use on a GPU, split into parts that add up."""
    with nvml():
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        driver = pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2).reserved
    found = who_uses(index, pid)
    mine = found["processes"].get(pid)
    return {
        "tensors": allocated,
        "cache": reserved - allocated,
        "context": None if mine is None else mine - reserved,
        "others": sum(memory or 0 for other, memory in found["processes"].items() if other != pid),
        # What torch holds in a process that is not listed would be there as well.
        "unattributed": found["unattributed"] - (reserved if mine is None else 0),
        "driver": driver,
    }
