"""What the API answers with. Field descriptions end up in the OpenAPI document."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

__all__ = [
    "AcceptedModel",
    "AnswerModel",
    "AttemptModel",
    "CheckLineModel",
    "ClassModel",
    "DeliveryModel",
    "DeviceModel",
    "DeviceViewModel",
    "EccModel",
    "EventModel",
    "ExerciseModel",
    "FaultModel",
    "FaultsModel",
    "GpuHistoryModel",
    "GpuModel",
    "GpuUsageModel",
    "GpuUsageRowModel",
    "GpuViewModel",
    "HintModel",
    "HintsModel",
    "HolderModel",
    "IdleModel",
    "InstanceModel",
    "LabCellModel",
    "LabHeadModel",
    "LabModel",
    "LearnerModel",
    "MachineModel",
    "MeModel",
    "MemoryLimitsModel",
    "NoticeModel",
    "OwnDeviceModel",
    "OwnGpusModel",
    "OwnPartModel",
    "OwnShareModel",
    "OwnUsageModel",
    "OwnWaitModel",
    "PartModel",
    "Problem",
    "ResultModel",
    "ServerUseModel",
    "SubmissionModel",
    "TrackModel",
    "VerdictModel",
    "WaiterModel",
    "WhoseModel",
]


class Problem(BaseModel):
    """Why a request was refused, as a sentence with the remedy."""

    detail: str


class MeModel(BaseModel):
    name: str
    role: Literal["learner", "instructor"]


class DeliveryModel(BaseModel):
    """A lab's notebook in a learner's home."""

    lab: str = Field(max_length=64)
    version: str = Field(pattern="^[0-9a-f]{12}$", description="Digest of the notebook as it was delivered.")
    filename: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,100}\.ipynb$")


class NoticeModel(BaseModel):
    """Something to tell a person as long as it holds; times are seconds since the epoch."""

    key: str = Field(description="What it is about: a person has one notice with this key at a time.")
    text: str = Field(description="Plain text.")
    at: float = Field(description="When it was written.")
    until: float = Field(description="From when on it no longer holds; it may be withdrawn before.")


class ExerciseModel(BaseModel):
    name: str
    title: str
    points: int = Field(description="Points of the best attempt.")
    max_points: int
    passed: bool
    attempts: int
    last_outcome: str | None = Field(description="How the latest attempt ended; null before the first.")


class LabModel(BaseModel):
    slug: str
    title: str
    points: int
    max_points: int
    exercises: list[ExerciseModel]
    filename: str = Field(description="The learner's notebook in their home folder.")
    newer_filename: str | None = Field(description="A newer version of the lab that was put beside it.")


class AcceptedModel(BaseModel):
    id: int
    state: Literal["accepted"]


class CheckLineModel(BaseModel):
    title: str
    outcome: str
    message: str = ""


class ResultModel(BaseModel):
    exercise: str
    outcome: str
    points: int
    max_points: int
    message: str = ""
    checks: list[CheckLineModel] = []
    output: str = ""
    seconds: float = 0.0


class VerdictModel(BaseModel):
    lab: str
    results: list[ResultModel]
    seconds: float
    points: int
    max_points: int
    passed: bool


class AnswerModel(BaseModel):
    title: str
    answer: str
    follow_up: str


class AttemptModel(BaseModel):
    id: int
    lab: str
    only: str | None = Field(description="The one exercise that was to be checked; null for the whole lab.")
    state: Literal["accepted", "judged", "superseded"]
    accepted_at: float = Field(description="Seconds since the epoch.")
    judged_at: float | None
    verdict: VerdictModel | None


class SubmissionModel(AttemptModel):
    answers: dict[str, AnswerModel] = Field(description="Interview answers of the exercises that passed here.")


class HintModel(BaseModel):
    number: int = Field(description="Which hint this is, counted from 1.")
    of: int
    hint: str


class HintsModel(BaseModel):
    opened: list[str]
    of: int


class LabHeadModel(BaseModel):
    slug: str
    title: str
    max_points: int


class LabCellModel(BaseModel):
    points: int
    max_points: int
    passed: int = Field(description="How many exercises passed.")
    last_at: float | None = Field(description="When the latest verdict came, in seconds since the epoch.")


class LearnerModel(BaseModel):
    name: str
    last_seen: float
    labs: dict[str, LabCellModel]


class ClassModel(BaseModel):
    labs: list[LabHeadModel]
    learners: list[LearnerModel]


class FaultModel(BaseModel):
    submission: int
    learner: str
    where: str = Field(description="Titles of the lab and of its exercises that ended so.")
    causes: list[str] = Field(description="What the judge said; it may quote hidden checks.")
    at: float = Field(description="Seconds since the epoch.")


class FaultsModel(BaseModel):
    count: int
    heading: str = Field(description="The number in words.")
    latest: list[FaultModel] = Field(description="Newest first, and not more than a page shows.")


class DeviceModel(BaseModel):
    """One GPU; null means that the hardware does not report a value."""

    index: int
    uuid: str | None = None
    name: str | None = None
    memory_used: int | None = Field(None, description="Bytes.")
    memory_total: int | None = Field(None, description="Bytes.")
    utilisation: float | None = Field(None, description="Percent.")
    temperature: float | None = Field(None, description="Degrees Celsius.")
    power: float | None = Field(None, description="Watts.")
    error: str | None = None


class GpuModel(BaseModel):
    available: bool
    message: str = Field(description="A sentence for people where no GPU can be read, or no longer; else empty.")
    driver_version: str | None
    simulated: bool = Field(False, description="Whether these are no real GPUs.")
    devices: list[DeviceModel]


class WhoseModel(BaseModel):
    """One server of a learner."""

    learner: str
    server: str = Field(description="JupyterHub's name of the server; empty for the usual one.")
    lab: str = Field(description="What the server was opened for; empty if that is not known.")


class PartModel(WhoseModel):
    """What one server's processes have of a GPU; null means that the hardware does not report it."""

    instance: str | None = Field(description="UUID of the MIG instance, on a GPU that is divided.")
    processes: int
    memory: int | None = Field(description="Bytes.")
    utilisation: int | None = Field(description="Percent.")


class MachineModel(BaseModel):
    """What processes have of a GPU that are no learner's."""

    processes: int
    memory: int | None = Field(description="Bytes.")
    utilisation: int | None = Field(description="Percent.")


class HolderModel(WhoseModel):
    since: float | None = Field(description="Since when it has the GPU, in seconds since the epoch.")


class InstanceModel(BaseModel):
    """A slice of a GPU in MIG mode."""

    uuid: str | None
    name: str | None
    gpu_instance: int | None = None
    compute_instance: int | None = None
    memory_used: int | None = Field(description="Bytes.")
    memory_total: int | None = Field(description="Bytes.")
    utilisation: int | None = Field(description="Percent, where the hardware has counters for it.")
    utilisation_by: str | None = Field(None, description="Which counters: gpm.")
    error: str | None = None


class EccModel(BaseModel):
    """Errors of GPU memory since the driver was loaded."""

    enabled: bool | None
    corrected: int | None
    uncorrected: int | None


class MemoryLimitsModel(BaseModel):
    """Whether the driver keeps a container to its share of the memory."""

    hard: bool
    why: str = Field(description="Why it does not; empty if it does.")


class EventModel(BaseModel):
    """An error that the driver reported."""

    at: float = Field(description="Seconds since the epoch.")
    xid: int
    meaning: str
    application: bool = Field(description="Whether a program caused it, and the GPU is well.")


class DeviceViewModel(DeviceModel):
    """One GPU and who is on it."""

    state: str = Field(description="ok, lost, reset required, no permission, failed or silent.")
    problems: dict[str, str] = Field(description="Values that could not be read, each with a sentence.")
    pci: str | None = Field(None, description="Where it is on the PCI bus.")
    driver_model: str | None
    memory_reserved: int | None = Field(description="Bytes that the driver keeps.")
    memory_utilisation: float | None = Field(description="Percent.")
    encoder_utilisation: float | None = Field(None, description="Percent.")
    decoder_utilisation: float | None = Field(None, description="Percent.")
    fan: float | None = Field(None, description="Percent.")
    power_limit: float | None = Field(description="Watts.")
    energy: float | None = Field(None, description="Joules since the driver was loaded.")
    clocks: dict[str, int | None] | None = Field(description="MHz.")
    max_clocks: dict[str, int | None] | None = Field(None, description="MHz.")
    performance_state: int | None = Field(None, description="0 is the fastest.")
    persistence: bool | None = Field(None, description="Whether the driver stays loaded while nobody uses the GPU.")
    compute_mode: str | None = None
    throttle_reasons: list[str] | None
    ecc: EccModel | None = None
    memory_limits: MemoryLimitsModel | None = None
    events: list[EventModel] | None
    mig: list[InstanceModel] | None = Field(description="Slices; null if the GPU is not divided.")
    parts: list[PartModel] = Field(description="Learners, the largest in memory first.")
    machine: MachineModel
    unattributed: int | None = Field(description="Bytes in use that no process accounts for.")
    holders: list[HolderModel] = Field(description="Whom the GPU, or a share or slice of it, was given to.")


class ServerUseModel(WhoseModel):
    """A server that holds a GPU or is on one."""

    device: str | None = Field(description="UUID of the GPU or slice.")
    held_since: float | None
    busy_at: float | None = Field(description="When it used a GPU last, in seconds since the epoch.")
    idle: float | None = Field(description="Seconds since then; null if nobody can say.")
    processes: int | None
    memory: int | None = Field(description="Bytes.")
    peak: int = Field(description="The most bytes it had at once.")
    utilisation: int | None = Field(description="Percent.")
    share: int | None = Field(description="Bytes that are meant for it, where others share the GPU.")
    over_share: bool


class IdleModel(WhoseModel):
    device: str | None
    seconds: float = Field(description="For how long it has not used its GPU.")


class WaiterModel(BaseModel):
    learner: str
    server: str
    since: float
    position: int = Field(description="1 is next.")
    estimate: float | None = Field(description="Seconds until there is a GPU; null if nobody can say.")


class GpuViewModel(BaseModel):
    """GPU by learner at one moment."""

    at: float
    state: str
    available: bool
    message: str = Field(description="What is wrong and what helps; empty if nothing is.")
    simulated: bool
    driver_version: str | None
    nvml_version: str | None
    cuda_version: str | None
    since: float | None = Field(description="Since when use is known.")
    mode: str = Field(description="How GPUs are given out: none, exclusive, shared:N or mig.")
    slots: int
    free: int
    problem: str = Field(description="Why none can be given out; empty if they can.")
    devices: list[DeviceViewModel]
    servers: list[ServerUseModel]
    idle: list[IdleModel] = Field(description="The longest first.")
    queue: list[WaiterModel]


class TrackModel(BaseModel):
    """One GPU, a number a second; null where there was no sample."""

    utilisation: list[int | None] = Field(description="Percent.")
    memory: list[int | None] = Field(description="Bytes.")
    parts: dict[str, list[int | None]] = Field(description="Percent, by learner.")


class GpuHistoryModel(BaseModel):
    start: int = Field(alias="from", description="The first second, since the epoch.")
    step: int
    count: int
    devices: dict[str, TrackModel] = Field(description="By UUID.")


class GpuUsageRowModel(BaseModel):
    learner: str
    lab: str
    day: str = Field(description="UTC.")
    held: float = Field(description="GPU-seconds.")
    busy: float = Field(description="GPU-seconds.")
    peak: int = Field(description="Bytes.")


class GpuUsageModel(BaseModel):
    rows: list[GpuUsageRowModel]


class OwnShareModel(BaseModel):
    memory: int | None = Field(description="Bytes.")
    utilisation: int | None = Field(description="Percent.")


class OwnPartModel(OwnShareModel):
    processes: int


class OwnDeviceModel(DeviceModel):
    """A GPU that the caller holds or is on."""

    driver_model: str | None
    mine: OwnPartModel
    others: OwnShareModel = Field(description="Everybody and everything else on it, as one.")
    share: int | None = Field(description="Bytes that are meant for the caller, where others share the GPU.")


class OwnWaitModel(BaseModel):
    position: int
    estimate: float | None


class OwnUsageModel(BaseModel):
    """Of today (UTC)."""

    held: float = Field(description="GPU-seconds.")
    busy: float = Field(description="GPU-seconds.")
    peak: int = Field(description="Bytes.")


class OwnGpusModel(BaseModel):
    """What the caller has of the GPUs."""

    at: float
    state: str
    available: bool
    message: str
    simulated: bool
    driver_version: str | None
    devices: list[OwnDeviceModel]
    waiting: OwnWaitModel | None = Field(description="The caller's place in the line; null for who does not wait.")
    idle: float | None = Field(description="Seconds since the caller's server used its GPU.")
    usage: OwnUsageModel
