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
    "ExerciseModel",
    "FaultModel",
    "FaultsModel",
    "GpuModel",
    "HintModel",
    "HintsModel",
    "LabCellModel",
    "LabHeadModel",
    "LabModel",
    "LearnerModel",
    "MeModel",
    "NoticeModel",
    "Problem",
    "ResultModel",
    "SubmissionModel",
    "VerdictModel",
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
    devices: list[DeviceModel]
