"""The page of GPUs as the server renders it: complete without a script, honest about what is not known."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from gradlab.portal.gpucards import COLOURS, STRIP_COLUMNS, colour, gpu_page, span
from gradlab.roster import Roster, Server, Waiter
from gradlab.settings import ROOT
from tests.courses import write_course
from tests.gpuframes import GIB, MIB, device, frame, gpu_view, process, silent
from tests.pages import HOSTILE, source, words
from tests.portals import Running, running_portal

NOW = 1_800_000_000.0
EMPTY = {"from": 0, "step": 1, "count": 0, "devices": {}}


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("portal")
    with running_portal(folder, write_course(folder / "course").load(), gpus="exclusive") as running:
        yield running


@pytest.fixture(autouse=True)
def _as_before(portal: Running) -> Iterator[None]:
    shown, past = portal.gpu.shown, portal.gpu.past
    yield
    portal.gpu.shown, portal.gpu.past = shown, past


def holder(learner: str, uuid: str = "GPU-0", **more: Any) -> Server:
    known = {"lab": "tensors", "container": learner.encode().hex(), "device": uuid, "held_since": NOW - 720}
    return Server(learner, **(known | more))


def lent(*servers: Server, **more: Any) -> Roster:
    return Roster(servers, **({"mode": "exclusive", "slots": 8, "free": 5} | more))


def history(**utilisation: list[int | None]) -> dict[str, Any]:
    """Seconds up to now; a GPU's memory is known whenever its utilisation is."""
    count = max(len(values) for values in utilisation.values())
    devices = {
        uuid.replace("_", "-"): {
            "utilisation": values,
            "memory": [None if value is None else GIB for value in values],
            "parts": {},
        }
        for uuid, values in utilisation.items()
    }
    return {"from": int(NOW) - count + 1, "step": 1, "count": count, "devices": devices}


def shown(portal: Running, view: dict[str, Any], past: dict[str, Any] = EMPTY) -> str:
    portal.gpu.shown, portal.gpu.past = view, past
    return source(portal, "grace", "gpus")


def main(text: str) -> str:
    """What is in the page, without what the script copies."""
    return text[text.index('<main id="main"') : text.index('<div id="templates"')]


def cards(text: str) -> list[str]:
    return re.findall(r'<li class="card gpu".*?</details>', main(text), re.DOTALL)


def visible(text: str) -> str:
    """The words without those of hidden spans."""
    return words(re.sub(r"<span[^>]* hidden>[^<]*</span>", "", text))


def hidden(text: str, part: str) -> bool:
    """Whether the element with this id or class is."""
    tag = re.search(rf'<[a-z]+[^>]*(?:id|class)="{part}"[^>]*>', text)
    assert tag is not None, part
    return " hidden" in tag[0]


def bar(card: str, name: str) -> list[tuple[str, float, float]]:
    """The parts of a bar: whose, from where, how long."""
    found = re.search(rf'data-measure="{name}".*?</svg>', card, re.DOTALL)
    assert found is not None
    rects = re.findall(r'<rect class="([^"]*)" x="([^"]*)" width="([^"]*)"', found[0])
    return [(who, float(x), float(width)) for who, x, width in rects]


def test_each_gpu_says_who_uses_it_how_much(portal: Running) -> None:
    mine = process(20, 40 * GIB, sm=45), process(10, 20 * GIB, sm=20)
    busy = device("GPU-0", *mine, utilisation=70, memory_used=70 * GIB, memory_total=100 * GIB)
    found = frame(busy, device("GPU-1", index=1, memory_used=0), at=NOW, cuda_version="13.4")
    view = gpu_view(found, lent(holder("noor"), holder("ada", share=50 * GIB)))
    view["devices"][0] |= {"machine": {"processes": 2, "memory": 4 * GIB, "utilisation": 3}, "unattributed": 6 * GIB}
    text = shown(portal, view)
    first, second = cards(text)
    assert "GPU 0 NVIDIA H200" in words(first)
    assert "Utilisation 70 %" in words(first)
    assert "Memory 70.0 of 100.0 GiB" in words(first)
    assert "Temperature 35 °C Power 99 W of 700 W Clocks 1,980 MHz, memory 3,201 MHz" in words(first)
    rows = [visible(row).strip() for row in re.findall(r"<tr data-key.*?</tr>", first, re.DOTALL)]
    assert rows == [
        "ada Tensors 12 min 45 % 40.0 of 50.0 GiB",
        "noor Tensors 12 min 20 % 20.0 GiB",
        "The machine itself 2 processes of no learner — 3 % 4.0 GiB",
        "Unattributed of no process that is known — — 6.0 GiB",
    ]
    ada, noor = f"who-{colour('ada')}", f"who-{colour('noor')}"
    assert bar(first, "utilisation") == [
        (ada, 0, 45),
        (noor, 45, 20),
        ("who-machine", 65, 3),
        ("who-unknown", 68, 2),
    ]
    assert bar(first, "memory") == [(ada, 0, 40), (noor, 40, 20), ("who-machine", 60, 4), ("who-unknown", 64, 6)]
    assert f'<span class="swatch {ada}" aria-hidden="true"></span>' in first
    assert 'href="/services/portal/learners/ada"' in first
    assert not hidden(second, "gpu-nobody muted small")
    assert "Driver 610.43, CUDA 13.4, NVML not reported" in words(text)
    assert "5 of 8 Free places" in counters(text)
    assert "2 Learners on a GPU" in counters(text)


def counters(text: str) -> str:
    """Numbers before their names, as they are shown."""
    pairs = re.findall(r'<div><dt>([^<]*)</dt><dd data-count="[a-z]+">([^<]*)</dd></div>', text)
    return ", ".join(f"{number} {name}" for name, number in pairs)


def test_who_has_more_than_the_share_is_marked(portal: Running) -> None:
    view = gpu_view(frame(device("GPU-0", process(10, 60 * GIB)), at=NOW), lent(holder("ada", share=50 * GIB)))
    [card] = cards(shown(portal, view))
    assert '<span class="tag over">over its share</span>' in card
    assert "60.0 of 50.0 GiB" in card


def test_who_holds_a_gpu_without_using_it_and_who_waits_is_on_top(portal: Running) -> None:
    line = (Waiter("bo", "", NOW - 190, 1, 300.0), Waiter("zoe", "", NOW - 40, 2))
    servers = lent(holder("ada"), holder("noor", "MIG-1"), line=line)
    sliced = device("GPU-1", index=1, mig=[mig_instance("MIG-1")])
    text = shown(portal, gpu_view(frame(device("GPU-0"), sliced, at=NOW), servers, since=NOW - 720))
    top = words(text[: text.index('id="gpu-cards"')])
    assert "ada holds GPU 0 , unused for 12 min Tensors" in top
    assert "noor holds 1g.18gb of GPU 1 , unused for 12 min Tensors" in top
    assert "1 . bo waits for 3 min about 5 min more" in top
    assert "2 . zoe waits for 40 s" in top
    assert "2 Waiting" in counters(text)
    assert "2 Held, not used" in counters(text)
    assert "Tensors, runs nothing on it 12 min — —" in words(cards(text)[0])
    assert hidden(text, "muted gpu-none")


def mig_instance(uuid: str, **more: Any) -> dict[str, Any]:
    known = {"uuid": uuid, "name": "1g.18gb", "gpu_instance": 7, "compute_instance": 0, "memory_used": 3 * GIB}
    known |= {"memory_total": 18 * GIB, "utilisation": 33, "utilisation_by": "gpm", "error": None}
    return known | more


def test_slices_are_rows_and_a_percent_of_a_slice_is_none_of_the_gpu(portal: Running) -> None:
    broken = mig_instance("MIG-2", memory_used=None, memory_total=None, utilisation=None, utilisation_by=None)
    broken |= {"name": "2g.35gb", "error": "It could not be read: `Unknown Error`."}
    on = process(10, 3 * GIB, sm=None, instance="MIG-1")
    sliced = device("GPU-0", on, mig=[mig_instance("MIG-1"), broken], measured=False, utilisation=20)
    [card] = cards(shown(portal, gpu_view(frame(sliced, at=NOW), lent(holder("noor", "MIG-1")))))
    assert "1g.18gb noor 33 % (GPM) 3.0 of 18.0 GiB" in re.sub(r"(1g\.18gb) +", r"\1 ", words(card))
    assert "2g.35gb It could not be read: Unknown Error . nobody not reported not reported" in words(card)
    assert "Tensors, 1g.18gb" in words(card)
    assert bar(card, "utilisation") == [("who-machine", 0, 20)]
    assert bar(card, "memory")[0] == (f"who-{colour('noor')}", 0, pytest.approx(100 * 3 / 140, abs=0.01))


def test_what_the_hardware_does_not_report_is_said_and_is_no_zero(portal: Running) -> None:
    names = ("utilisation", "memory_used", "temperature", "power", "energy", "ecc", "throttle_reasons", "persistence")
    names += ("encoder_utilisation", "decoder_utilisation")
    bare = dict.fromkeys(names) | {"ecc": dict.fromkeys(("enabled", "corrected", "uncorrected"))}
    bare["clocks"] = bare["max_clocks"] = dict.fromkeys(("graphics", "sm", "memory", "video"))
    mute = device("GPU-0", process(10, None, sm=None), name=None, **bare)
    [card] = cards(shown(portal, gpu_view(frame(mute, at=NOW), lent(holder("ada")))))
    said = words(card)
    assert "Utilisation not reported" in said
    assert "Memory not reported" in said
    assert "Temperature not reported Power not reported Clocks not reported, memory not reported" in said
    assert "12 min not reported not reported" in said
    for fact in ("throttle", "energy", "ecc", "persistence", "fan"):
        assert f'data-fact="{fact}">not reported<' in card, fact
    assert bar(card, "utilisation") == bar(card, "memory") == []
    assert " 0 " not in said.replace("GPU 0 ", "")


def test_without_a_driver_there_is_the_reason_and_no_figure(portal: Running) -> None:
    message = "There is no NVIDIA driver here: `nvidia-smi` is missing."
    view = gpu_view(silent(NOW, message=message), state="no driver")
    text = shown(portal, view)
    assert "There is no NVIDIA driver here: <code>nvidia-smi</code> is missing." in text
    assert hidden(text, "gpu-now")
    assert hidden(text, "gpu-cards")
    assert cards(text) == []
    assert not re.search(r"\d (%|GiB|MiB|°C|W)\b", words(main(text)))
    assert "Nobody has had a GPU today." in text


def test_gpus_that_have_fallen_silent_are_there_without_figures(portal: Running) -> None:
    loud = device("GPU-0", process(10, 20 * GIB, sm=20), name="NVIDIA H100")
    view = gpu_view(silent(NOW, loud, message="The NVIDIA driver has not answered."), lent(holder("ada")))
    text = shown(portal, view)
    [card] = cards(text)
    assert "The NVIDIA driver has not answered." in text
    assert "GPU 0 NVIDIA H100 Silent" in words(card)
    assert hidden(card, "gpu-figures")
    assert bar(card, "utilisation") == bar(card, "memory") == []
    assert "ada Tensors 12 min — —" in visible(card)
    assert "— Held, not used" in counters(text)
    assert "Not known while there are no figures." in text
    assert "Everybody who holds a GPU is using it." not in text


def test_one_lost_gpu_hides_no_other(portal: Running) -> None:
    lost = device("GPU-1", index=1, state="lost", error="It has fallen off the bus. Restart, then `nvidia-smi`.")
    lost |= dict.fromkeys(("utilisation", "memory_used", "processes", "throttle_reasons"))
    text = shown(portal, gpu_view(frame(device("GPU-0"), lost, at=NOW)))
    well, ill = cards(text)
    assert "Utilisation 42 %" in words(well)
    assert hidden(well, "verdict tone-fail")
    assert not hidden(ill, "verdict tone-fail")
    assert "Lost It has fallen off the bus. Restart, then nvidia-smi ." in words(ill)
    assert hidden(ill, "gpu-figures")


def test_what_is_wrong_with_a_gpu_is_told_and_what_is_usual_is_not(portal: Running) -> None:
    events = [
        {"at": NOW - 90_000, "xid": 8, "meaning": "was long ago", "application": False},
        {"at": NOW - 700, "xid": 31, "meaning": "a page fault", "application": True},
        {"at": NOW - 5, "xid": 79, "meaning": "fallen off the bus", "application": False},
    ]
    ill = device("GPU-0", throttle_reasons=["idle", "power limit"], events=events, problems={"fan": "No `fan`."})
    ill["ecc"] = {"enabled": True, "corrected": 4, "uncorrected": 1}
    quiet = device("GPU-1", index=1, throttle_reasons=["idle"])
    first, second = cards(shown(portal, gpu_view(frame(ill, quiet, at=NOW))))
    notes = re.findall(r'<li class="tone-(\w+)" data-key="[^"]*">.*?<span>(.*?)</span></li>', first)
    assert notes == [
        ("warn", "Its clocks are held back: power limit."),
        ("fail", "1 ECC error could not be corrected."),
        ("fail", "Xid 79, 5 s ago: fallen off the bus"),
        ("warn", "Xid 31, 11 min ago: a page fault; a program&#39;s own fault"),
        ("warn", "No <code>fan</code>."),
    ]
    assert "<li" not in second[10:]
    assert 'data-fact="ecc">4 corrected, 1 not<' in first


def test_simulated_gpus_say_so(portal: Running) -> None:
    real = shown(portal, gpu_view(frame(device(), at=NOW)))
    assert hidden(real, "tag simulated")
    simulated = shown(portal, gpu_view(frame(device(), at=NOW, simulated=True)))
    assert not hidden(simulated, "tag simulated")
    assert "Simulated GPUs" in simulated


def test_nothing_that_comes_from_elsewhere_becomes_part_of_the_page(portal: Running) -> None:
    name = f"<i>x</i>{HOSTILE}"
    event = {"at": NOW - 5, "xid": 79, "meaning": HOSTILE, "application": False}
    ill = device(HOSTILE, process(10), name=HOSTILE, error=HOSTILE, events=[event], problems={HOSTILE: HOSTILE})
    ill["mig"] = [mig_instance(HOSTILE, name=HOSTILE, error=HOSTILE)]
    ill["memory_limits"] = {"hard": False, "why": HOSTILE}
    line = (Waiter(name, HOSTILE, NOW, 1),)
    view = gpu_view(frame(ill, at=NOW), lent(holder(name, HOSTILE, lab=HOSTILE), line=line, problem=HOSTILE))
    portal.store.keep_gpu_usage("hostile", [usage_row(name, lab=HOSTILE)])
    text = shown(portal, view | {"message": HOSTILE, "driver_version": HOSTILE})
    for marked_up in ("<script>alert", "<img src=x", "<i>x", "<b>code</b>"):
        assert marked_up not in text, marked_up
    tags = Tags(text).found
    assert [one for one in tags if one[0] == "style" or (one[0] == "script" and "src" not in one[1])] == []
    assert {name for _, attributes in tags for name in attributes if name == "style" or name.startswith("on")} == set()
    assert html.unescape(text).count(HOSTILE.split("`")[0]) >= 12
    links = set(re.findall(r'href="(/services/portal/learners/[^"]+)"', text))
    assert len(links) == 1
    assert re.fullmatch(r"/services/portal/learners/[A-Za-z0-9%._~-]+", links.pop())


class Tags(HTMLParser):
    """All tags of a page with their attributes, as a browser reads them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))


def usage_row(
    learner: str, *, lab: str = "tensors", days_ago: int = 0, held: float = 7200.0, busy: float = 1800.0
) -> dict[str, Any]:
    day = (datetime.now(UTC) - timedelta(days=days_ago)).date().isoformat()
    return {"learner": learner, "lab": lab, "day": day, "held": held, "busy": busy, "peak": 300 * MIB}


def test_use_of_today_the_longest_first(tmp_path: Path) -> None:
    with running_portal(tmp_path, write_course(tmp_path / "course").load()) as running:
        rows = [usage_row("ada", held=60.0, busy=0.0), usage_row("noor"), usage_row("old", days_ago=2)]
        running.store.keep_gpu_usage("run", [*rows, usage_row("ada", lab="gone", held=90_000.0, busy=90_000.0)])
        text = main(source(running, "grace", "gpus"))
        table = re.findall(r"<tr data-key.*?</tr>", text[text.index('id="usage"') :], re.DOTALL)
        assert [words(row).strip() for row in table] == [
            "ada gone 1 d 1 h 1 d 1 h 100 % 300 MiB",
            "noor Tensors 2 h 0 min 30 min 25 % 300 MiB",
            "ada Tensors 1 min 0 s 0 % 300 MiB",
        ]
        link = re.search(r'id="usage-csv" href="/services/portal/([^"]+)"', text)
        assert link is not None
        with running.browser("grace") as grace:  # on plain http browsers do not say that somebody navigates
            plain = grace.get("gpus", headers={"Sec-Fetch-Mode": "navigate"})
            link = re.search(r'id="usage-csv" href="/services/portal/([^"]+)"', plain.text)
            assert link is not None
            answer = grace.get(html.unescape(link[1]), headers={"Sec-Fetch-Mode": "", "Sec-Fetch-Dest": ""})
        assert answer.headers["Content-Type"].startswith("text/csv")
        assert "noor,tensors" in answer.text
        assert "old" not in answer.text


def covered(path: str) -> set[int]:
    """The columns that an SVG path of ours covers, drawn or not."""
    found: set[int] = set()
    for block in re.findall(r"M(\d+) 100((?:V[\d.]+H\d+)+)", path):
        found |= {int(x) - 1 for x in re.findall(r"H(\d+)", block[1])}
        assert int(block[0]) == min(int(x) - 1 for x in re.findall(r"H(\d+)", block[1]))
    return found


def test_the_last_hour_has_gaps_where_nothing_was_sampled_and_is_level_where_nothing_was_done() -> None:
    half: list[int | None] = [50] * 600 + [None] * 300 + [0] * 900
    view = gpu_view(frame(device("GPU-0"), at=NOW))
    strip = gpu_page(view, history(GPU_0=half), (), {}).cards[0].strip
    step = 3600 // STRIP_COLUMNS
    end = int(NOW)
    last = end // step

    def places(first: int, count: int) -> set[int]:
        """Columns of these seconds, counted from the history's first."""
        start = end - len(half) + 1
        return {second // step - last + STRIP_COLUMNS - 1 for second in range(start + first, start + first + count)}

    sampled = places(0, 600) | places(900, 900)
    whole = sampled - places(600, 300) - places(-30, 30)  # a column with any gap in it shows the gap
    assert covered(strip.known) == whole
    assert covered(strip.used) == sampled
    assert set(re.findall(r"V([\d.]+)H", strip.used)) <= {"50", "100"}
    assert strip.words == "average 20 %, no sample in 35 min"


def test_a_strip_without_utilisation_is_no_gap_and_one_without_anything_is_nothing_else() -> None:
    view = gpu_view(frame(device("GPU-0"), device("GPU-1", index=1), at=NOW))
    past = history(GPU_0=[7] * 3600)
    past["devices"]["GPU-0"]["utilisation"] = [None] * 3600
    first, second = (card.strip for card in gpu_page(view, past, (), {}).cards)
    assert (first.words, first.used) == ("utilisation not reported", "")
    assert covered(first.known) == set(range(STRIP_COLUMNS))
    assert first.memory.startswith("M0 99.29H1V99.29H2")
    assert (second.words, second.known, second.used, second.memory) == ("no sample", "", "", "")


def test_a_learner_has_one_colour_everywhere_and_each_is_in_the_style_sheet() -> None:
    assert [colour(name) for name in ("", "a", "foobar")] == [
        number % COLOURS for number in (0x811C9DC5, 0xE40C292C, 0xBF9CF968)
    ]
    style = (ROOT / "gradlab" / "portal" / "static" / "portal.css").read_text()
    assert {int(number) for number in re.findall(r"\.who-(\d+)", style)} == set(range(COLOURS))
    script = (ROOT / "gradlab" / "portal" / "static" / "gpus.js").read_text()
    assert f"const COLOURS = {COLOURS};" in script


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        (None, "—"),
        (-3, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h 0 min"),
        (86399, "23 h 59 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_spans_of_time(seconds: float | None, says: str) -> None:
    assert span(seconds) == says


@pytest.mark.parametrize(
    ("used", "total", "says"),
    [
        (5 * GIB, 140 * GIB, "5.0 of 140.0 GiB"),
        (512 * MIB, 140 * GIB, "512 MiB of 140.0 GiB"),
        (0, 140 * GIB, "0 B of 140.0 GiB"),
        (3 << 10, None, "3 KiB"),
        (GIB + GIB // 4, None, "1.3 GiB"),
        (None, 140 * GIB, "not reported"),
    ],
)
def test_memory_has_a_unit_and_is_rounded_as_browsers_do(used: int | None, total: int | None, says: str) -> None:
    view = gpu_view(frame(device("GPU-0", memory_used=used, memory_total=total), at=NOW))
    assert gpu_page(view, EMPTY, (), {}).cards[0].memory == says


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("none", "This server gives out no GPUs."),
        ("exclusive", "A learner gets a whole GPU."),
        ("shared:4", "4 learners share a GPU."),
        ("mig", "A learner gets a MIG instance."),
    ],
)
def test_how_gpus_are_given_out(portal: Running, mode: str, says: str) -> None:
    text = shown(portal, gpu_view(frame(device(), at=NOW), Roster(mode=mode, slots=8, free=3)))
    assert says in text
    assert ("3 of 8" in counters(text)) == (mode != "none")


def test_why_none_can_be_given_out_is_told(portal: Running) -> None:
    text = shown(portal, gpu_view(frame(device(), at=NOW), lent(problem="Docker gives out none: run `nvidia-ctk`.")))
    assert not hidden(text, "gpu-problem")
    assert "Docker gives out none: run <code>nvidia-ctk</code>." in text


def test_learners_neither_see_the_page_nor_a_way_to_it(portal: Running) -> None:
    with portal.client("mira") as mira:
        refused = mira.get("gpus")
        labs = mira.get("").text
    assert refused.status_code == 403
    assert "This is for instructors" in words(refused.text)
    assert "/services/portal/gpus" not in labs + refused.text
    for path in ("", "class", "gpus"):
        found = re.search(
            r'<a href="/services/portal/gpus"( aria-current="page")?>GPUs</a>', source(portal, "grace", path)
        )
        assert found is not None
        assert bool(found[1]) == (path == "gpus")
    with portal.client("grace") as grace:
        assert grace.get("gpus/0").status_code == 404


def test_a_banner_is_on_every_page_and_is_text(tmp_path: Path) -> None:
    with running_portal(tmp_path, write_course(tmp_path / "course").load(), banner=f"A `demo`. {HOSTILE}") as running:
        for path in ("", "attempts", "class", "gpus"):
            text = source(running, "grace", path)
            assert '<p class="banner" role="note">A <code>demo</code>. &lt;script&gt;' in text, path
            assert "<img src=x" not in text
        with running.client("grace") as grace:
            assert 'class="banner"' in grace.get("nowhere").text


def test_without_one_there_is_no_banner(portal: Running) -> None:
    assert 'class="banner"' not in source(portal, "grace", "gpus")


def test_eight_gpus_and_forty_learners_are_a_light_page(portal: Running) -> None:
    learners = [holder(f"learner{number}", f"GPU-{number % 8}") for number in range(40)]
    devices = [device(f"GPU-{gpu}", *(process(10 * (n + 1)) for n in range(gpu, 40, 8)), index=gpu) for gpu in range(8)]
    ups: dict[str, list[int | None]] = {f"GPU_{gpu}": [second * 7 % 101 for second in range(3600)] for gpu in range(8)}
    text = shown(portal, gpu_view(frame(*devices, at=NOW), lent(*learners)), history(**ups))
    assert text.count("learner39") > 0
    assert len(text) < 128_000
