"""Who has which GPU, and who waits for one: all that can be decided without a clock, a network or Docker.

A *slot* is what one learner's server gets: a whole GPU, a share of one, or a MIG instance. Docker keeps no account of
GPUs, so this is the only one. It follows four rules:

* a slot is never taken from its holder, whatever becomes of the device;
* a slot has one holder. Two containers that say they have the same one both stay its holders, and nobody else gets it
  until both are gone. The same goes for a GPU that some hold whole and others in shares;
* first come, first served, and no slot is free while somebody waits;
* with no slot at all a request is refused with the reason (:class:`PoolEmpty`); busy slots are waited for.

``gradlab.hub.queue`` puts a clock and an event loop around it.
"""

from __future__ import annotations

import heapq
import math
import re
from bisect import bisect_right
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from gradlab.errors import PoolEmpty
from gradlab.gpu_mode import Mode

__all__ = [
    "LABEL",
    "Access",
    "Pool",
    "Slot",
    "access",
    "share_statement",
    "slots_of",
    "why_empty",
]

SETTING = "GRADLAB_GPUS"
LABEL = "gradlab.gpu"

Device = Mapping[str, Any]

_SLOT_ID = re.compile(r"(.+)/([0-9]{1,4})of([0-9]{1,4})")
_REMEMBERED = 50
_SHORTEST = 60.0  # seconds; what ended sooner is a start that failed and says nothing about how long people work
_WITHOUT = "You can work without a GPU; exercises that need one are skipped."


@dataclass(frozen=True)
class Slot:
    """What one learner's server gets of a device.

    ``device`` is the UUID to ask Docker for, ``share`` counts from 1 to ``shares``. ``memory`` in bytes is the share's,
    or None where the device does not report it.
    """

    device: str
    share: int = 1
    shares: int = 1
    memory: int | None = None

    @property
    def id(self) -> str:
        """Short and stable, for a container's label; ``parse`` reads it back.

        It says how the device was divided, so that a container of before a change of mode is recognised.
        """
        return f"{self.device}/{self.share}of{self.shares}"

    @property
    def limited(self) -> bool:
        """Whether a memory limit means anything: hardware already bounds a whole GPU and a MIG instance."""
        return self.shares > 1 and self.memory is not None

    @classmethod
    def parse(cls, text: str) -> Slot:
        """The slot of an id, its memory unknown."""
        match = _SLOT_ID.fullmatch(text)
        if match is None or not 1 <= int(match[2]) <= int(match[3]):
            raise ValueError(f"{text!r} is no id of a GPU slot, which is UUID/SHAREofSHARES such as GPU-1a2b/1of4")
        return cls(match[1], int(match[2]), int(match[3]))


def slots_of(mode: Mode, devices: Sequence[Device]) -> tuple[Slot, ...]:
    """The slots of the GPU monitor's devices. A GPU with an error has none; GPUs in MIG mode only have their instances.

    The first shares of all GPUs come before the second shares, and instances in the order of the monitor.
    """
    healthy = [device for device in devices if device.get("uuid") and not device.get("error")]
    if mode.kind == "none":
        return ()
    if mode.kind == "mig":
        instances = [instance for device in healthy for instance in device.get("mig") or () if instance.get("uuid")]
        return tuple(Slot(instance["uuid"], memory=instance.get("memory_total")) for instance in instances)
    whole = [device for device in healthy if device.get("mig") is None]
    return tuple(
        Slot(device["uuid"], share, mode.shares, _part(device.get("memory_total"), mode.shares))
        for share in range(1, mode.shares + 1)
        for device in whole
    )


def why_empty(mode: Mode, devices: Sequence[Device], message: str = "") -> str:
    """Why the mode gets no slot out of these devices, in whole sentences; empty if it gets one.

    ``message`` is the monitor's own, which it has where it finds no device.
    """
    if slots_of(mode, devices):
        return ""
    if mode.kind == "none":
        return (
            f"This server gives out no GPUs ({SETTING}=none). {_WITHOUT} "
            f"To change that, the operator sets {SETTING} to exclusive, shared:N or mig."
        )
    if not devices and message:
        return f"This server has no GPU. Its GPU monitor says: {message} {_WITHOUT}"
    if not devices:
        return (
            f"This server has no GPU: its GPU monitor lists none and gives no reason. {_WITHOUT} "
            "The operator finds out more with `gradlab gpu`."
        )
    these = "This server's GPU cannot" if len(devices) == 1 else f"None of this server's {len(devices)} GPUs can"
    reasons = " ".join(
        f"{device.get('name') or 'GPU'} ({device.get('uuid') or 'no UUID'}): {_why_not(mode, device)}"
        for device in devices
    )
    return f"{these} be given out with {SETTING}={mode}. {reasons} {_WITHOUT}"


def _why_not(mode: Mode, device: Device) -> str:
    uuid = device.get("uuid")
    if device.get("error"):
        return str(device["error"])
    if not uuid:
        return "It reports no UUID, and a container is given a GPU by its UUID. Run `nvidia-smi -L`."
    if mode.kind != "mig":
        return f"It is in MIG mode. Set {SETTING}=mig, or turn MIG mode off (`nvidia-smi -i {uuid} -mig 0`)."
    if device.get("mig") is None:
        return (
            f"It is not in MIG mode. Turn MIG mode on (`nvidia-smi -i {uuid} -mig 1`) and make instances, "
            f"or set {SETTING}=exclusive."
        )
    return "It is in MIG mode and has no instances. `nvidia-smi mig -lgip` lists the sizes, `-cgi SIZE -C` makes one."


def _part(memory: int | None, shares: int) -> int | None:
    return None if memory is None else memory // shares


@dataclass(frozen=True)
class _Holding:
    slot: Slot
    since: float


@dataclass(frozen=True)
class _Waiter:
    holder: str
    since: float


class _Account:
    """The holdings of one moment, counted so that each slot is looked at once."""

    def __init__(self, holdings: Iterable[_Holding]) -> None:
        self.load: Counter[str] = Counter()
        self._of_slot: defaultdict[str, list[_Holding]] = defaultdict(list)
        self._of_device: defaultdict[str, list[_Holding]] = defaultdict(list)
        self._divided: Counter[tuple[str, int]] = Counter()
        for holding in holdings:
            self.load[holding.slot.device] += 1
            self._of_slot[holding.slot.id].append(holding)
            self._of_device[holding.slot.device].append(holding)
            self._divided[holding.slot.device, holding.slot.shares] += 1

    def blocking(self, slot: Slot) -> list[_Holding]:
        """The holdings that must end before this slot is free: its own, or all if some divide the device otherwise."""
        if self._divided[slot.device, slot.shares] < self.load[slot.device]:
            others = [holding for holding in self._of_device[slot.device] if holding.slot.shares != slot.shares]
            return others + self._of_slot.get(slot.id, [])
        return self._of_slot.get(slot.id, [])


class Pool:
    """Slots, their holders and the line. It reads no clock: ``now`` is in seconds, and wall time survives a restart.

    A holder is any text that names one server of one learner. ``lasted`` are seconds that former holdings lasted, the
    latest last; they seed the estimates.
    """

    def __init__(
        self,
        slots: Iterable[Slot] = (),
        *,
        problem: str = "The GPUs of this server are not known yet. Try again in a minute; if it stays so, the operator "
        "has to look after the GPU monitor.",
        lasted: Iterable[float] = (),
    ) -> None:
        self._slots = {slot.id: slot for slot in slots}
        self._problem = problem
        self._held: dict[str, _Holding] = {}
        self._line: list[_Waiter] = []
        known = (seconds for seconds in lasted if math.isfinite(seconds) and seconds >= _SHORTEST)
        self._lasted: deque[float] = deque(known, _REMEMBERED)

    @property
    def lasted(self) -> tuple[float, ...]:
        """How long the latest finished holdings lasted, to seed the next pool."""
        return tuple(self._lasted)

    @property
    def problem(self) -> str:
        """Why there is no slot that could ever become free; empty if there is one."""
        return "" if self._slots else self._problem

    def request(self, holder: str, now: float, *, since: float | None = None) -> Slot | None:
        """A slot at once, or None and a place in the line; PoolEmpty if there is nothing to wait for.

        Who holds a slot gets the same again, and who waits keeps the place. ``since`` is when somebody began to wait
        before the hub restarted; the place is the one of that time.
        """
        if holder in self._held:
            return self._held[holder].slot
        if self.place(holder) is None:
            if not self._slots:
                raise PoolEmpty(self._problem)
            self._join(holder, now, since)
        return self._grant(now).get(holder)

    def release(self, holder: str, now: float) -> dict[str, Slot]:
        """The holder's slot is free again. Returns who got a slot by that; nothing for one who held none."""
        holding = self._held.pop(holder, None)
        if holding is None:
            return {}
        if now - holding.since >= _SHORTEST:
            self._lasted.append(now - holding.since)
        return self._grant(now)

    def leave(self, holder: str) -> None:
        """A waiter gives up; nothing for one who does not wait."""
        self._line = [waiter for waiter in self._line if waiter.holder != holder]

    def resize(self, slots: Iterable[Slot], now: float, *, problem: str = "") -> dict[str, Slot]:
        """These are the slots from now on; ``problem`` says why there are none. Returns who got a slot by that.

        Holders stay holders of slots that are no more, and waiters keep their places even if no slot is left: a
        monitor that misses a GPU for a moment must not cost anybody an hour's wait.
        """
        self._slots = {slot.id: slot for slot in slots}
        self._problem = problem or "This server has no GPU to give out."
        return self._grant(now)

    def restore(
        self, held: Mapping[str, str], now: float, *, since: Mapping[str, float] | None = None
    ) -> dict[str, Slot]:
        """Believe the labels of running containers, holder to slot id. Returns who got a slot by that.

        ``since`` is when containers started; a holding without it counts from now. Other holders stay: their containers
        may not run yet. A label that cannot be read blocks its device as a whole.
        """
        started = since or {}
        for holder, label in held.items():
            slot, before = self._labelled(label), self._held.get(holder)
            if before is None or before.slot.id != slot.id:
                self._held[holder] = _Holding(slot, min(started.get(holder, now), now))
            self.leave(holder)
        return self._grant(now)

    def slot_of(self, holder: str) -> Slot | None:
        """The slot that this holder has."""
        holding = self._held.get(holder)
        return None if holding is None else holding.slot

    def place(self, holder: str) -> int | None:
        """How many wait ahead of this waiter; None for one who does not wait."""
        return next((place for place, waiter in enumerate(self._line) if waiter.holder == holder), None)

    def estimate(self, holder: str, now: float) -> float | None:
        """Seconds until this waiter likely gets a slot; None while nothing is known.

        Of each present holder it is supposed that the holding ends after the median of those former holdings (the last
        fifty) that lasted longer than this one has lasted already. Holders who outlast all of those could stay for ever
        and are left out. The slots then go to the line one by one, each for the median of all former holdings. Nobody
        further back gets a smaller number.
        """
        place = self.place(holder)
        if place is None or not self._lasted:
            return None
        free = self._forecast(now)
        if not free:
            return None
        usual = median(self._lasted)
        heapq.heapify(free)
        for _ in range(place):
            heapq.heapreplace(free, free[0] + usual)
        return free[0]

    def snapshot(self) -> dict[str, Any]:
        """Everything as plain data. A lost slot has holders but no device any more; ``free`` counts slots to be had."""
        slots = dict(self._slots)
        holders: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for holder, holding in self._held.items():
            slots.setdefault(holding.slot.id, holding.slot)
            holders[holding.slot.id].append({"holder": holder, "since": holding.since})
        return {
            "slots": [
                {
                    "id": name,
                    "device": slot.device,
                    "share": slot.share,
                    "shares": slot.shares,
                    "memory": slot.memory,
                    "lost": name not in self._slots,
                    "holders": holders[name],
                }
                for name, slot in slots.items()
            ],
            "line": [{"holder": waiter.holder, "since": waiter.since} for waiter in self._line],
            "free": len(self._free(_Account(self._held.values()))),
            "problem": self.problem,
        }

    def _join(self, holder: str, now: float, since: float | None) -> None:
        # Without `since` it is behind everybody, even if the clock was set back meanwhile.
        began = max([now, *(waiter.since for waiter in self._line)]) if since is None else min(since, now)
        at = bisect_right(self._line, began, key=lambda waiter: waiter.since)
        self._line.insert(at, _Waiter(holder, began))

    def _grant(self, now: float) -> dict[str, Slot]:
        """Give free slots to the line from its front, each time on the device with the fewest holders."""
        granted: dict[str, Slot] = {}
        while self._line:
            account = _Account(self._held.values())
            slot = min(self._free(account), key=lambda slot: account.load[slot.device], default=None)
            if slot is None:
                break
            holder = self._line.pop(0).holder
            self._held[holder] = _Holding(slot, now)
            granted[holder] = slot
        return granted

    def _free(self, account: _Account) -> list[Slot]:
        return [slot for slot in self._slots.values() if not account.blocking(slot)]

    def _forecast(self, now: float) -> list[float]:
        """In how many seconds each slot becomes free, where that can be said."""
        account = _Account(self._held.values())
        lasted = sorted(self._lasted)
        forecast = []
        for slot in self._slots.values():
            left = [_left(max(0.0, now - holding.since), lasted) for holding in account.blocking(slot)]
            if all(math.isfinite(seconds) for seconds in left):
                forecast.append(max(left, default=0.0))
        return forecast

    def _labelled(self, label: str) -> Slot:
        try:
            slot = Slot.parse(label)
        except ValueError:
            return Slot(label.rpartition("/")[0] or label, 0, 0)
        return self._slots.get(slot.id, slot)


def _left(held: float, lasted: list[float]) -> float:
    """How much longer a holding lasts, judged by those that lasted longer than it has; infinity if none did."""
    longer = lasted[bisect_right(lasted, held) :]
    return median(longer) - held if longer else math.inf


@dataclass(frozen=True)
class Access:
    """What a container needs to have its slot and nothing else: plain data for docker-py."""

    device_requests: list[dict[str, Any]]
    environment: dict[str, str]
    labels: dict[str, str]


def access(slot: Slot | None, *, cdi: bool, enforced: bool = False) -> Access:
    """How Docker gives a container this slot, or keeps every GPU from it if there is none.

    By UUID always: Docker's ``Count: 1`` is GPU 0 for everybody. ``enforced`` says that the share of the memory is a
    hard limit of the container's cgroup.
    """
    if slot is None:
        # CUDA images say NVIDIA_VISIBLE_DEVICES=all, and where NVIDIA's runtime is the default that would be obeyed.
        return Access([], {"NVIDIA_VISIBLE_DEVICES": "void"}, {})
    request: dict[str, Any] = (
        {"Driver": "cdi", "DeviceIDs": [f"nvidia.com/gpu={slot.device}"]}
        if cdi
        else {"Driver": "nvidia", "DeviceIDs": [slot.device], "Capabilities": [["gpu", "utility", "compute"]]}
    )
    # The image says "void". With CDI that stays right: devices come by the specification alone.
    visible = "void" if cdi else slot.device
    return Access([request], {"NVIDIA_VISIBLE_DEVICES": visible, **_manners(slot, enforced)}, {LABEL: slot.id})


def _manners(slot: Slot, enforced: bool) -> dict[str, str]:
    """Defaults that let neighbours on one GPU live; any program can ignore them, so they limit nobody.

    PyTorch keeps each process to the fraction by refusing allocations above it (read in the source of 2.13). Where the
    limit is enforced the container takes it for the whole GPU, and the fraction would count twice. Not among them:
    ``expandable_segments``, with which sharing tensors between processes fails in an unprivileged container
    (pytorch#165685).
    """
    if slot.shares <= 1:
        return {}
    fraction = math.floor(10_000 / slot.shares) / 10_000
    defaults = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    return defaults if enforced else defaults | {"PYTORCH_ALLOC_CONF": f"per_process_memory_fraction:{fraction}"}


def share_statement(slot: Slot) -> str:
    """What must be said of a shared GPU without a hard memory limit; empty for a whole GPU or a MIG instance."""
    if slot.shares <= 1:
        return ""
    memory = f"1/{slot.shares}" if slot.memory is None else f"{slot.memory / 2**30:.1f} GiB"
    return (
        f"Up to {slot.shares} learners share this GPU. Your share of its memory is {memory}, but the hardware does not "
        "enforce it: whoever asks first gets the memory, and the others' programs then fail for want of it. PyTorch "
        "keeps each of your processes to the share as long as you leave its defaults; other programs need not, and "
        "several processes together can exceed it."
    )
