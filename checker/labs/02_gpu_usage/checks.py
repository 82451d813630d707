# %% tags=["parameters"]
job = ""

# %%
import copy
import time
from typing import Any

import pynvml

from checker.spec import Failure, begin
from labkit import nvsim

check, student, draw = begin(job)

MIB = 2**20
SECTION = "-" * 15


# %%
def show(state: dict[str, Any]) -> None:
    student.simulate_gpu(state)


def said(error: str) -> str:
    """NVML's own words for an error of the simulation."""
    return str(pynvml.NVMLError(nvsim.ERRORS[error]))


# %% [markdown]
# ## dxdiag_gpus

# %%
CARDS = [
    "NVIDIA GeForce RTX 2080 SUPER",
    "NVIDIA GeForce RTX 4080 SUPER",
    "NVIDIA RTX A2000",
    "NVIDIA GeForce GT 710",
]
OTHER_CARDS = ["Intel(R) UHD Graphics 630", "AMD Radeon(TM) Graphics"]
WINDOWS_VERSION = "That is Windows's number: NVIDIA's is in its last five digits, 610.62 in 32.0.16.1062."
SHARED = "That is the display memory, with half of the computer's RAM in it: its own is the dedicated memory."
SOUND = "That is the sound device's driver: a later section has written over the card's."


def random_card(nvidia: bool) -> dict[str, Any]:
    series, build = draw.integer(11, 16), draw.integer(100, 9999)
    dedicated, shared = draw.integer(1000, 49000), draw.integer(4000, 65000)
    return {
        "name": draw.choice(CARDS if nvidia else OTHER_CARDS),
        "maker": "NVIDIA" if nvidia else draw.choice(["Intel Corporation", "Advanced Micro Devices, Inc."]),
        "version": f"{draw.integer(27, 32)}.0.{series}.{build:04d}",
        "model": f"WDDM {draw.choice(['2.7', '3.0', '3.1', '3.2'])}",
        "dedicated": dedicated,
        "shared": shared,
    }


def dump(cards: list[dict[str, Any]], sound: str, newline: str = "\n") -> str:
    """What dxdiag writes, shortened: the cards, then a section with keys of the same names."""
    lines = [SECTION, "Display Devices", SECTION]
    for card in cards:
        lines += [
            f"           Card name: {card['name']}",
            f"        Manufacturer: {card['maker']}",
            "          Device Key: Enum\\PCI\\VEN_10DE&DEV_1E81&SUBSYS_40051458&REV_A1",
            f"      Display Memory: {card['dedicated'] + card['shared']} MB",
            f"    Dedicated Memory: {card['dedicated']} MB",
            f"       Shared Memory: {card['shared']} MB",
            "         Driver Name: C:\\Windows\\System32\\DriverStore\\FileRepository\\some.inf\\driver.dll",
            f" Driver File Version: 0{card['version']} (English)",
            f"      Driver Version: {card['version']}",
            f"        Driver Model: {card['model']}",
            "",
        ]
    lines += ["-" * 13, "Sound Devices", "-" * 13, "            Description: Speakers (USB Audio)"]
    lines += ["            Driver Name: usbaudio.sys", f"         Driver Version: {sound}", ""]
    return newline.join(lines)


def nvidia_version(text: str) -> str:
    digits = text.replace(".", "")
    return f"{digits[-5:-2]}.{digits[-2:]}"


def known(card: dict[str, Any]) -> dict[str, Any]:
    version = nvidia_version(card["version"])
    return {
        "name": card["name"],
        "driver_version": version,
        "driver_model": card["model"],
        "memory_mib": card["dedicated"],
    }


def check_dump(cards: list[dict[str, Any]], sound: str, newline: str = "\n") -> None:
    want = [known(card) for card in cards if card["maker"] == "NVIDIA"]
    mine = [card for card in cards if card["maker"] == "NVIDIA"]
    sounding = [copy.deepcopy(want), copy.deepcopy(want)]
    if cards[-1]["maker"] == "NVIDIA":
        sounding[0][-1]["driver_version"] = nvidia_version(sound)
        sounding[1][-1]["driver_version"] = sound
    student.dxdiag_gpus(dump(cards, sound, newline)).equals(
        want,
        diagnose={
            WINDOWS_VERSION: [gpu | {"driver_version": card["version"]} for gpu, card in zip(want, mine)],
            SHARED: [
                gpu | {"memory_mib": card["dedicated"] + card["shared"]} for gpu, card in zip(want, mine)
            ],
            "The cards of other makers are in it, too.": [known(card) for card in cards],
            SOUND: sounding[0],
            SOUND + " And NVIDIA's is in the last five digits of the card's.": sounding[1],
        },
    )


@check("dxdiag_gpus")
def reads_a_card():
    """A machine with one NVIDIA card gives its name, NVIDIA's version, driver model and own memory."""
    for _ in range(3):
        check_dump([random_card(True)], "10.0.26100.1")


@check("dxdiag_gpus")
def picks_the_nvidia_cards():
    """Among cards of several makers, the NVIDIA ones are given in order; without any, the list is empty."""
    for kinds in ([False, True], [True, False, True], [False], [True, True]):
        check_dump(
            [random_card(kind) for kind in kinds],
            f"10.0.{draw.integer(19000, 26200)}.{draw.integer(1, 4000)}",
        )


@check("dxdiag_gpus")
def reads_windows_line_ends():
    """A file with Windows line ends reads the same."""
    check_dump([random_card(False), random_card(True)], "6.3.9600.17415", "\r\n")


# %% [markdown]
# ## gpu_page

# %%
MODELS = ["WDDM", "TCC", "MCDM"]
CUDA_QUOTIENT = "The CUDA version is 1000 * major + 10 * minor: 13040 is 13.4."
DECIMAL_GB = "Those are 10**9 bytes each; a GiB is 2**30."
ZERO_MODEL = 'NVML_DRIVER_WDDM is the number 0. A test for truth takes it for "nothing"; compare with None.'
LINUX_MODEL = (
    "This machine has no driver models (NVML says Not Supported): that is None, and no other word for it."
)
ZERO_MEMORY = "This GPU does not report its memory. Unknown is None; 0 would say that it has none."


def cuda_name(number: int | None) -> str | None:
    return None if number is None else f"{number // 1000}.{number % 1000 // 10}"


def page(state: dict[str, Any]) -> list[dict[str, Any]]:
    cuda = state["cuda_version"]
    return [
        {
            "name": device["name"],
            "driver_version": state["driver_version"],
            "cuda_version": None if isinstance(cuda, str) else cuda_name(cuda),
            "driver_model": device["driver_model"] and MODELS[device["driver_model"][0]],
            "memory_gib": device["memory"] and device["memory"]["total"] / 2**30,
        }
        for device in state["devices"]
    ]


def each(gpus: list[dict[str, Any]], **values: Any) -> list[dict[str, Any]]:
    """The same page with a key changed everywhere."""
    return [gpu | values for gpu in gpus]


def check_page(state: dict[str, Any]) -> None:
    show(state)
    want = page(state)
    cuda = state["cuda_version"]
    number = cuda if isinstance(cuda, int) else 0
    decimal = [gpu | {"memory_gib": gpu["memory_gib"] and gpu["memory_gib"] * 2**30 / 1e9} for gpu in want]
    no_zero = [gpu | {"driver_model": None} if gpu["driver_model"] == "WDDM" else gpu for gpu in want]
    zero = [gpu | {"memory_gib": 0.0} if gpu["memory_gib"] is None else gpu for gpu in want]
    linux = all(device["driver_model"] is None for device in state["devices"])
    no_models = {
        LINUX_MODEL: each(want, driver_model="not applicable on Linux"),
        "A driver model on Linux? " + LINUX_MODEL: each(want, driver_model="WDDM"),
    }
    student.gpu_page().is_close(
        want,
        rtol=1e-9,
        diagnose={
            CUDA_QUOTIENT: each(want, cuda_version=str(number / 1000)),
            "That is the number as it came: " + CUDA_QUOTIENT: each(want, cuda_version=str(number)),
            DECIMAL_GB: decimal,
            ZERO_MODEL: no_zero,
            ZERO_MEMORY: zero,
        }
        | (no_models if linux else {}),
    )


@check("gpu_page")
def reads_a_linux_machine():
    """On Linux machines with one to four GPUs the page is right, with None for the driver model."""
    for gpus in (1, draw.integer(2, 4)):
        check_page(nvsim.random_state(draw.random, gpus=gpus))


@check("gpu_page")
def names_driver_models():
    """On Windows machines the driver model is WDDM, TCC or MCDM."""
    for models in ([0, 2], [2, 1, 0]):
        state = nvsim.random_state(draw.random, gpus=len(models), windows=True)
        for device, model in zip(state["devices"], models):
            device["driver_model"] = [model, draw.integer(0, 2)]  # the second is for after the next restart
        check_page(state)


@check("gpu_page")
def writes_cuda_versions():
    """Any CUDA version is written as people write it: 11.8, 12.0, 13.10."""
    for number in (11080, 12000, 13010, 13100, 1000 * draw.integer(11, 14) + 10 * draw.integer(0, 12)):
        check_page(nvsim.random_state(draw.random, gpus=1) | {"cuda_version": number})


@check("gpu_page")
def keeps_the_unknown_unknown():
    """What NVML does not report is None, and everything else is still there."""
    state = nvsim.random_state(draw.random, gpus=3)
    state["devices"][draw.integer(0, 2)]["memory"] = None
    check_page(state)
    check_page(nvsim.random_state(draw.random, gpus=1) | {"cuda_version": "library not found"})


@check("gpu_page")
def knows_empty_machines():
    """A driver without a GPU gives an empty list."""
    state = nvsim.random_state(draw.random, gpus=0)
    show(state)
    student.gpu_page().equals([])


# %% [markdown]
# ## read_smi

# %%
NOT_REPORTED = ["[N/A]", "[Not Supported]", "[Insufficient Permissions]", "[Unknown Error]", "N/A"]
UNITS = {
    "memory.total": "MiB",
    "memory.used": "MiB",
    "memory.reserved": "MiB",
    "power.draw": "W",
    "power.limit": "W",
}
UNITS |= {"utilization.gpu": "%", "utilization.memory": "%", "fan.speed": "%", "clocks.sm": "MHz"}
TEXTS = ["name", "uuid", "driver_version", "pstate", "driver_model.current"]
DECIMAL_MIB = "A MiB is 2**20 bytes, not a million."
ROUNDED_OFF = (
    "A milliwatt got lost: int() cuts off, and 32.16 * 1000 is 32159.999999999996 in floats. Round."
)
WATTS = "NVML gives power in milliwatts, nvidia-smi in watts."
UNKNOWN_ZERO = "What is not reported became 0. Unknown is None."


def random_cell(column: str) -> tuple[str, Any]:
    """A cell without its unit, and NVML's value for it."""
    unit = UNITS.get(column)
    if unit == "MiB":
        mib = draw.integer(0, 200_000)
        return str(mib), mib * MIB
    if unit == "W":
        # In the first four, the float is a little less than what is written.
        milliwatts = draw.choice([32_160, 64_020, 64_070, 64_100, 10 * draw.integer(500, 70_000)])
        return f"{milliwatts // 1000}.{milliwatts % 1000 // 10:02d}", milliwatts
    if unit is not None:
        number = draw.integer(0, 100)
        return str(number), number
    text = {"name": draw.choice(CARDS), "pstate": f"P{draw.integer(0, 12)}", "driver_version": "595.80"}
    return (text.get(column, draw.word()),) * 2


def table(columns: list[str], rows: int, *, units: bool, missing: float) -> tuple[str, list[dict[str, Any]]]:
    """The text that nvidia-smi prints, and what is in it."""
    heads = [f"{column} [{UNITS[column]}]" if column in UNITS else column for column in columns]
    lines, want = [", ".join(heads)], []
    for _ in range(rows):
        cells, values = [], {}
        for column in columns:
            text, values[column] = random_cell(column)
            if column != "name" and draw.real(0, 1) < missing:
                text, values[column] = draw.choice(NOT_REPORTED), None
            elif units and column in UNITS:
                text += f" {UNITS[column]}"
            cells.append(text)
        lines.append(", ".join(cells))
        want.append(values)
    return "\n".join(lines) + "\n", want


def changed(rows: list[dict[str, Any]], unit: str, change: Any) -> list[dict[str, Any]]:
    return [
        {k: change(v) if UNITS.get(k) == unit and v is not None else v for k, v in row.items()}
        for row in rows
    ]


def check_table(text: str, want: list[dict[str, Any]]) -> None:
    student.read_smi(text).equals(
        want,
        diagnose={
            DECIMAL_MIB: changed(want, "MiB", lambda value: value // MIB * 10**6),
            "Those are MiB; NVML gives bytes.": changed(want, "MiB", lambda value: value // MIB),
            WATTS: changed(want, "W", lambda value: value / 1000),
            ROUNDED_OFF: changed(want, "W", lambda value: int(value / 1000 * 1000)),
            UNKNOWN_ZERO: [{k: 0 if v is None else v for k, v in row.items()} for row in want],
        },
    )


@check("read_smi")
def reads_numbers_in_nvml_units():
    """Memory becomes bytes, power milliwatts, percent and MHz whole numbers; text stays."""
    check_table(*table(["name", "memory.total", "utilization.gpu"], 2, units=True, missing=0))
    check_table(*table(["name", "power.draw", "power.limit"], 6, units=True, missing=0))
    check_table(*table(["clocks.sm", "uuid", "driver_model.current"], 1, units=True, missing=0))


@check("read_smi")
def keeps_the_unreported_unknown():
    """Whatever nvidia-smi puts in brackets, and a bare N/A, is None, in columns with and without a unit."""
    for word in NOT_REPORTED:
        head = "name, memory.used [MiB], driver_model.current, power.draw [W]"
        text = f"{head}\nNVIDIA L40S, {word}, {word}, {word}\n"
        want = {"name": "NVIDIA L40S", "memory.used": None, "driver_model.current": None, "power.draw": None}
        check_table(text, [want])


@check("read_smi")
def takes_any_columns():
    """Any columns in any order are read, and no line at all is an empty list."""
    for rows in (0, 1, 4):
        columns = draw.sample([*UNITS, *TEXTS], draw.integer(2, 9))
        check_table(*table(columns, rows, units=True, missing=0.2))


@check("read_smi")
def reads_nounits():
    """With nounits the cells have no unit, the first line still has, and the values are the same."""
    for _ in range(2):
        check_table(*table(draw.shuffled([*UNITS, *TEXTS]), 3, units=False, missing=0.2))


# %% [markdown]
# ## utilisation

# %%
TWICE = "Moments with two kernels count twice in the first number. A moment is busy or it is not."
UNCUT = "The kernels are not cut to the window: what lies outside it is counted."
NOT_SMS = "The second number is about multiprocessors: each kernel counts with how many of them it occupies."
SHORTER = (
    "A kernel that ends within a longer one makes you forget the longer one: keep the later of the two ends."
)


def parts_of(kernels: list[Any], start: int, end: int) -> list[tuple[int, int, int]]:
    """The kernels cut to the window, by their beginning."""
    return sorted((max(b, start), min(e, end), s) for b, e, s in kernels if max(b, start) < min(e, end))


def measured(kernels: list[Any], start: int, end: int, sms: int) -> tuple[float, float]:
    """Both numbers, counted on the stretches between all beginnings and ends."""
    busy, edge = 0, start
    for begin, stop, _ in parts_of(kernels, start, end):
        busy, edge = busy + max(0, stop - max(begin, edge)), max(edge, stop)
    area = sum((stop - begin) * used for begin, stop, used in parts_of(kernels, start, end))
    return 100 * busy / (end - start), 100 * area / ((end - start) * sms)


def forgetful(kernels: list[Any], start: int, end: int) -> float:
    busy, edge = 0, start
    for begin, stop, _ in parts_of(kernels, start, end):
        busy, edge = busy + max(0, stop - max(begin, edge)), stop
    return 100 * busy / (end - start)


def check_kernels(kernels: list[Any], start: int, end: int, sms: int) -> None:
    kernels = draw.shuffled(kernels)
    span = end - start
    any_kernel, occupied = measured(kernels, start, end, sms)
    cut = parts_of(kernels, start, end)
    uncut = measured(kernels, -(10**9), 10**9, sms)
    twice = 100 * sum(e - b for b, e, _ in cut) / span
    twice_uncut = 100 * sum(e - b for b, e, _ in kernels) / span
    student.utilisation(kernels, start, end, sms).is_close(
        (any_kernel, occupied),
        rtol=1e-9,
        diagnose={
            TWICE: (twice, occupied),
            UNCUT: (uncut[0] * 2 * 10**9 / span, uncut[1] * 2 * 10**9 / span),
            UNCUT + " " + TWICE: (twice_uncut, uncut[1] * 2 * 10**9 / span),
            SHORTER: (forgetful(kernels, start, end), occupied),
            NOT_SMS: (any_kernel, any_kernel),
        },
    )


def random_kernels(count: int, span: int, sms: int, longest: int) -> list[tuple[int, int, int]]:
    begins = [draw.integer(0, span - 1) for _ in range(count)]
    return [(b, min(span, b + draw.integer(1, longest)), draw.integer(1, sms)) for b in begins]


@check("utilisation")
def tells_busy_from_occupied():
    """A tiny kernel over and over is 100 % utilisation with hardly any SM in use; no kernel is 0 and 0."""
    sms, step = draw.choice([46, 84, 132]), draw.integer(5, 20)
    check_kernels([(at, at + step, 1) for at in range(0, 100 * step, step)], 0, 100 * step, sms)
    check_kernels([], 0, 1000, sms)
    check_kernels([(100, 400, sms)], 0, 1000, sms)


@check("utilisation")
def counts_overlaps_once():
    """Where kernels overlap, or one contains others, time counts once and their SMs add up."""
    check_kernels([(0, 600, 66), (300, 1000, 60)], 0, 1000, 132)
    check_kernels([(0, 900, 10), (100, 200, 20), (300, 400, 30), (500, 600, 40)], 0, 1000, 132)
    for _ in range(3):
        check_kernels(random_kernels(12, 1000, 10, 150), 0, 1000, 132)


@check("utilisation")
def cuts_to_the_window():
    """Kernels that reach beyond the window count with their part inside; those outside do not count."""
    check_kernels([(0, 300, 5), (900, 2000, 7), (2500, 2600, 9)], 200, 1200, 84)
    check_kernels([(0, 5000, 84)], 1000, 2000, 84)
    check_kernels([(0, 1000, 3), (2000, 3000, 3)], 1000, 2000, 84)


@check("utilisation")
def handles_a_whole_second():
    """A second with hundreds of kernels is measured without visiting every microsecond."""
    check_kernels(random_kernels(250, 1_000_000, 8, 6000), 0, 1_000_000, 132)


# %% [markdown]
# ## sample_utilisation

# %%
FIRST_COUNTED = (
    "The first reading is in the mean. Drop it: just after the driver starts it can be 100 % of nothing."
)
TOO_FEW = "There are count + 1 readings, and the first is not in the mean: it can be 100 % of nothing."
LOST_IDLE = "A GPU that does not answer is drawn as idle. Unknown is None, with the error beside it."
LOST_MIDWAY = "This GPU was lost while you were reading. A mean hides that: give None and the error."
HIDDEN = "GPUs are missing: a broken one must not hide itself or the others."
ABORTED = "One GPU's error ended the readings of all: put the try around a single GPU's handle and reading."


def moments(count: int) -> list[dict[str, Any]]:
    """Readings: the first a spike, as after the start of the driver, then ``count`` others."""
    rates = [100, *(draw.integer(0, 99) for _ in range(count))]
    return [{"utilisation": {"gpu": rate, "memory": rate // 2}} for rate in rates]


def watched(count: int, *devices: dict[str, Any]) -> dict[str, Any]:
    """A machine with these changes to its GPUs, each of which is read ``count + 1`` times."""
    state = nvsim.random_state(draw.random, gpus=len(devices))
    for device, change in zip(state["devices"], devices):
        device |= {"moments": moments(count)} | change
    return state


def rates_of(device: dict[str, Any]) -> list[int]:
    return [moment["utilisation"]["gpu"] for moment in device["moments"] if moment.get("utilisation")]


def sampled(state: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """What has to come out: an error anywhere among the readings wins."""
    found = []
    for index, device in enumerate(state["devices"]):
        error = next((m["error"] for m in (device, *device["moments"]) if m.get("error")), None)
        if error is None and len(rates_of(device)) < len(device["moments"]):
            error = "not supported"
        mean = None if error else sum(rates_of(device)[1:]) / count
        found.append({"index": index, "utilisation": mean, "error": error and said(error)})
    return found


def mean(rates: list[int]) -> float:
    return sum(rates) / max(1, len(rates))


def with_means(gpus: list[dict[str, Any]], means: list[float]) -> list[dict[str, Any]]:
    """The same answer with other means, where there is one."""
    return [gpu if gpu["error"] else gpu | {"utilisation": value} for gpu, value in zip(gpus, means)]


def check_samples(state: dict[str, Any], count: int, pause: float = 0.0) -> float:
    """The readings are right; returns the seconds that the call took."""
    show(state)
    want, devices = sampled(state, count), state["devices"]
    started = time.monotonic()
    answer = student.sample_utilisation(count, pause)
    seconds = time.monotonic() - started
    if (
        answer.error is not None
        and answer.error.type.startswith("NVMLError")
        and any(gpu["error"] for gpu in want)
    ):
        raise Failure(f"{answer.call} raised {answer.error.type}: {answer.error.message}. {ABORTED}")
    broken_as_zero = [gpu | {"utilisation": 0.0} if gpu["error"] else gpu for gpu in want]
    before = [
        gpu | {"utilisation": mean(rates_of(d)[1:]), "error": None} if gpu["error"] and rates_of(d) else gpu
        for gpu, d in zip(want, devices)
    ]
    answer.is_close(
        want,
        rtol=1e-9,
        diagnose={
            FIRST_COUNTED: with_means(want, [mean(rates_of(device)) for device in devices]),
            TOO_FEW: with_means(want, [mean(rates_of(device)[:count]) for device in devices]),
            LOST_IDLE: broken_as_zero,
            "No error is named. " + LOST_IDLE: [gpu | {"error": None} for gpu in broken_as_zero],
            LOST_MIDWAY: before,
            HIDDEN: [gpu for gpu in want if not gpu["error"]],
        },
    )
    return seconds


@check("sample_utilisation")
def averages_without_the_first():
    """Every GPU gets the mean of its readings without the first one, and an idle GPU 0.0."""
    for count in (1, draw.integer(3, 8)):
        check_samples(watched(count, {}, {}), count)
    idle = [{"utilisation": {"gpu": rate, "memory": 0}} for rate in (100, 0, 0, 0)]
    check_samples(watched(3, {"moments": idle}), 3)


@check("sample_utilisation")
def reports_a_lost_gpu():
    """A GPU that is lost from the beginning has None and its error; the others are as ever."""
    for place in draw.sample(range(3), 2):
        devices: list[dict[str, Any]] = [{}, {}, {}]
        devices[place] = {"error": "lost", "moments": []}
        check_samples(watched(4, *devices), 4)


@check("sample_utilisation")
def reports_a_gpu_lost_midway():
    """A GPU that is lost between two readings has None and its error."""
    count = draw.integer(3, 6)
    falling = moments(count)
    falling[draw.integer(2, count) :] = [{"error": "lost"}]
    check_samples(watched(count, {"moments": falling}, {}), count)


@check("sample_utilisation")
def reports_what_is_not_supported():
    """A GPU that reports no utilisation, as under MIG, says so instead of 0."""
    check_samples(watched(2, {}, {"moments": [{"utilisation": None}] * 3}), 2)


@check("sample_utilisation")
def waits_between_readings():
    """It waits between the readings: the driver's figure is an average over up to a second."""
    pause = 0.15  # well above what a call without any pause takes
    if check_samples(watched(2, {}), 2, pause) < 2 * pause:
        raise Failure(
            f"sample_utilisation(2, {pause}) did not wait: there are two pauses between three readings."
        )


# %% [markdown]
# ## who_uses

# %%
RESERVE = (
    "The driver's own reserve is blamed on somebody: version 1's used contains it, version 2's does not."
)
BOTH_LISTS = "A process in both lists is the same process with the same memory; it counts once."
ONLY_COMPUTE = "That is the compute list alone. Processes that draw hold memory, too."
SEEN_ZERO = "A process whose memory the driver does not tell is None; 0 would say that it holds none."


def busy_device(processes: int = 4) -> dict[str, Any]:
    """A GPU with so many processes of all kinds, at least one of which is in both lists."""
    device = nvsim.random_state(draw.random, gpus=1)["devices"][0]
    share = device["memory"]["total"] // (processes + 3)
    pids = draw.sample(range(1_000, 4_000_000), processes)
    kinds = draw.shuffled(["C+G", "G", "C", "C", *(["C"] * processes)][:processes])
    device["processes"] = [
        {"pid": pid, "memory": draw.integer(1, share >> 16) << 16, "type": kind}
        for pid, kind in zip(pids, kinds)
    ]
    device["memory"]["used"] = accounted(device) + (draw.integer(1, 900) << 16)
    return device


def accounted(device: dict[str, Any], kind: str = "") -> int:
    return sum(p["memory"] or 0 for p in device["processes"] if kind in p["type"])


def with_devices(*devices: dict[str, Any]) -> dict[str, Any]:
    return nvsim.random_state(draw.random, gpus=0) | {"devices": list(devices)}


def users(device: dict[str, Any], pid: int) -> dict[str, Any]:
    processes = {p["pid"]: p["memory"] for p in device["processes"]}
    return {
        "processes": processes,
        "own_visible": pid in processes,
        "unattributed": device["memory"]["used"] - accounted(device),
    }


def check_users(state: dict[str, Any], index: int, pid: int) -> None:
    show(state)
    device = state["devices"][index]
    want, used = users(device, pid), device["memory"]["used"]
    compute = {p["pid"]: p["memory"] for p in device["processes"] if "C" in p["type"]}
    student.who_uses(index, pid).equals(
        want,
        diagnose={
            RESERVE: want | {"unattributed": want["unattributed"] + device["memory"]["reserved"]},
            BOTH_LISTS: want | {"unattributed": used - accounted(device, "C") - accounted(device, "G")},
            ONLY_COMPUTE: {
                "processes": compute,
                "own_visible": pid in compute,
                "unattributed": used - accounted(device, "C"),
            },
            SEEN_ZERO: want | {"processes": {p: m or 0 for p, m in want["processes"].items()}},
            "Who is None? " + SEEN_ZERO: want
            | {"processes": {p: m for p, m in want["processes"].items() if m}},
        },
    )


@check("who_uses")
def lists_everybody_once():
    """Compute and graphics processes are listed once each, with their memory; the rest is unattributed."""
    for processes in (1, 2, draw.integer(3, 7)):
        device = busy_device(processes)
        own = draw.choice(device["processes"])["pid"]
        check_users(with_devices(device), 0, own)


@check("who_uses")
def picks_the_right_gpu():
    """It is the GPU with that index, and a process on another GPU is not visible on this one."""
    devices = [busy_device(), busy_device(), busy_device()]
    index = draw.integer(1, 2)
    check_users(with_devices(*devices), index, devices[0]["processes"][0]["pid"])
    check_users(with_devices(*devices), index, devices[index]["processes"][0]["pid"])


@check("who_uses")
def shows_what_nobody_accounts_for():
    """Where no process can be seen (a container), all in use is unattributed, and the own is not visible."""
    device = busy_device()
    check_users(with_devices(device | {"processes": []}), 0, device["processes"][0]["pid"])


@check("who_uses")
def keeps_unknown_memory_unknown():
    """Under WDDM, where no process's memory is known, it is None and all in use is unattributed."""
    device = busy_device()
    some = busy_device()
    device["processes"] = [process | {"memory": None} for process in device["processes"]]
    some["processes"][draw.integer(0, 3)]["memory"] = None
    check_users(with_devices(device), 0, device["processes"][0]["pid"])
    check_users(with_devices(some), 0, 1)


# %% [markdown]
# ## memory_parts

# %%
CACHE_WHOLE = "The cache is what torch has reserved and no tensor uses; the tensors are counted already."
CONTEXT_WHOLE = "Your process's figure contains what torch reserved; the context is the rest of it."
OWN_AMONG_OTHERS = "Your own process is among the others as well."
COUNTED_TWICE = (
    "Your process is not listed, or its memory is not known: what torch holds is still in unattributed and counts "
    "twice."
)
CONTEXT_ZERO = (
    "Nobody knows how large the context is: your process is not listed, or its memory is not known. Unknown is None."
)


def split(device: dict[str, Any], pid: int, allocated: int, reserved: int) -> dict[str, int | None]:
    mine = next((p["memory"] for p in device["processes"] if p["pid"] == pid), None)
    unknown = device["memory"]["used"] - accounted(device)
    return {
        "tensors": allocated,
        "cache": reserved - allocated,
        "context": None if mine is None else mine - reserved,
        "others": accounted(device) - (mine or 0),
        "unattributed": unknown - (reserved if mine is None else 0),
        "driver": device["memory"]["reserved"],
    }


def check_parts(device: dict[str, Any], pid: int, allocated: int, reserved: int) -> None:
    other = busy_device()
    show(with_devices(other, device))
    want = split(device, pid, allocated, reserved)
    mine = next((p["memory"] for p in device["processes"] if p["pid"] == pid), None)
    answer = student.memory_parts(1, pid, allocated, reserved)
    answer.equals(
        want,
        diagnose={
            CACHE_WHOLE: want | {"cache": reserved},
            CONTEXT_WHOLE: want | {"context": mine},
            OWN_AMONG_OTHERS: want | {"others": accounted(device)},
            COUNTED_TWICE: want | {"unattributed": device["memory"]["used"] - accounted(device)},
            CONTEXT_ZERO: want | {"context": 0},
            "And torch's memory counts twice. " + CONTEXT_ZERO: want
            | {"context": 0, "unattributed": device["memory"]["used"] - accounted(device)},
            RESERVE: want | {"unattributed": (want["unattributed"] or 0) + device["memory"]["reserved"]},
        },
    )


def torch_figures(memory: int) -> tuple[int, int]:
    """What torch could say in a process of this size: allocated and reserved."""
    reserved = draw.integer(0, memory >> 16) * 3 // 4 << 16
    return draw.integer(0, reserved >> 9) << 9, reserved


@check("memory_parts")
def accounts_for_every_byte():
    """With your process in the list, the six parts are right and add up to version 1's used."""
    for processes in (1, 3, 6):
        device = busy_device(processes)
        own = draw.choice(device["processes"])
        check_parts(device, own["pid"], *torch_figures(own["memory"]))


@check("memory_parts")
def handles_an_invisible_process():
    """If your process is not listed, the context is unknown and torch's part is not counted twice."""
    device = busy_device(4)
    own = device["processes"].pop(draw.integer(0, 3))
    check_parts(device, own["pid"], *torch_figures(own["memory"]))


@check("memory_parts")
def handles_unknown_memory():
    """If your process is listed without its memory, it is the same; unknown others stay in unattributed."""
    device = busy_device(4)
    own = draw.choice(device["processes"])
    figures = torch_figures(own["memory"])
    own["memory"] = None
    check_parts(device, own["pid"], *figures)
    device = busy_device(5)
    own, other = draw.sample(device["processes"], 2)
    other["memory"] = None
    check_parts(device, own["pid"], *torch_figures(own["memory"]))


@check("memory_parts")
def knows_an_idle_torch():
    """A process without a single tensor still has its context."""
    device = busy_device(2)
    check_parts(device, device["processes"][0]["pid"], 0, 0)
