"""``gradlab``: the command line. Results are data first (``--json``), colour second.

Exit codes: 0 only when all is well, 1 when it is not (an exercise that did not pass, a lab that is not proven), 2 when
the request itself cannot be met. Heavy modules are imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradlab.errors import GradlabError, SubmissionRefused

if TYPE_CHECKING:
    from rich.console import RenderableType

    from checker.engine import Judge
    from gradlab.course import Course
    from gradlab.settings import Settings

__all__ = ["app", "main"]

app = typer.Typer(
    name="gradlab",
    help="A hands-on lab server for deep-learning interview preparation.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
labs = typer.Typer(help="Work with the labs of the course.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(labs, name="labs")

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on stdout.")]


def main() -> None:
    """Entry point: errors meant for people are one or two sentences on stderr, never a traceback."""
    try:
        app()
    except GradlabError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


@app.command(epilog="\b\nExamples:\n  gradlab up\n  GRADLAB_PORT=8001 gradlab up")
def up() -> None:
    """Start the server here and stop everything it started on Ctrl-C."""
    from gradlab.server import serve

    raise typer.Exit(serve(_settings()))


@app.command(epilog="\b\nExamples:\n  gradlab demo\n  gradlab demo --learners 12 --pace 2")
def demo(
    learners: Annotated[int, typer.Option(min=1, max=200, help="How many simulated learners there are.")] = 40,
    pace: Annotated[float, typer.Option(min=0.1, max=10, help="How fast they work: 2 is twice as fast.")] = 1.0,
) -> None:
    """Show a class at work: simulated learners, simulated GPUs.

    It is the whole server, with a data folder of its own. The learners log in and hand in solutions and mistakes for
    real; the simulated GPUs need a C compiler and no GPU. Ctrl-C stops everything.
    """
    from gradlab.demo.run import demo as show

    raise typer.Exit(show(_settings(), learners=learners, pace=pace))


@app.command(
    epilog="\b\nExamples:\n  gradlab check tensors solved.ipynb\n"
    "  gradlab check tensors 04_tensors.ipynb --only rank_of\n  gradlab check tensors solved.ipynb --json"
)
def check(
    lab: Annotated[str, typer.Argument(metavar="LAB", help="The lab, such as tensors.")],
    notebook: Annotated[Path, typer.Argument(metavar="NOTEBOOK", help="The .ipynb file to judge.")],
    only: Annotated[str | None, typer.Option(metavar="NAME", help="Judge this exercise and what it needs.")] = None,
    seed: Annotated[int | None, typer.Option(help="Draw the inputs of an earlier check again.")] = None,
    as_json: AsJson = False,
) -> None:
    """Judge a notebook exactly as the server does; nothing is stored."""
    from secrets import randbits

    from checker.engine import NotebookError
    from gradlab.judging import assignment
    from gradlab.terminal import verdict_view

    settings = _settings()
    found = _course(settings).lab(lab)
    if only is not None:
        found.exercise(only)
    data = _notebook(notebook, settings.notebook_mb)
    with _judge(settings) as judge:
        try:
            verdict = judge.check(assignment(found), data, only=only, seed=randbits(31) if seed is None else seed)
        except NotebookError as error:
            raise SubmissionRefused(f"{notebook}: {error}") from None
    result = verdict.to_dict() | {"seed": verdict.seed}
    titles = {exercise.name: exercise.title for exercise in found.exercises}
    _show(result, as_json, lambda: verdict_view(result, titles))
    raise typer.Exit(0 if verdict.passed else 1)


@labs.command(
    epilog="\b\nExamples:\n  gradlab labs verify\n  gradlab labs verify tensors --seeds 10\n"
    "  gradlab labs verify --json > proofs.json"
)
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[LAB]...", help="Labs to prove; all by default.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds each reference solution must pass.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Prove that the labs work.

    The reference solution passes with every seed, the blank notebook is "not attempted", every known mistake ends as it
    should with the message meant for it, and every question of the lab's topic is answered by an exercise.
    """
    from gradlab.terminal import labs_view
    from gradlab.verification import LabReport, report_data
    from gradlab.verification import verify as prove

    settings = _settings()
    course = _course(settings)
    wanted = [course.lab(name) for name in names] if names else course.labs

    def told(report: LabReport) -> None:
        word = "proven" if report.proven else "not proven"
        print(f"{report.lab.slug}: {word} ({report.seconds:.1f} s)", file=sys.stderr)

    with _judge(settings, warm=True) as judge:
        reports = prove(course, judge, wanted, seeds=range(1, seeds + 1), workers=settings.check_workers, told=told)
    result = report_data(course, reports)
    _show(result, as_json, lambda: labs_view(result))
    raise typer.Exit(0 if all(report.proven for report in reports) else 1)


@app.command(epilog="\b\nExamples:\n  gradlab gpu\n  gradlab gpu --watch\n  gradlab gpu --json")
def gpu(
    as_json: AsJson = False,
    follow: Annotated[bool, typer.Option("--watch", help="Show it anew every second until Ctrl-C.")] = False,
) -> None:
    """Show this machine's NVIDIA GPUs, and who uses them how much.

    Learners are known where a server of this state folder runs, or in the container of the GPU monitor. With --json
    and --watch every line is a JSON document. The exit code is 1 if there is no GPU to read, or something is wrong with
    one.
    """
    from gradlab.gpu.look import look, watch
    from gradlab.terminal import gpu_view

    roster = _settings().roster_file
    if not follow:
        view = look(roster)
        _show(view, as_json, lambda: gpu_view(view))
        raise typer.Exit(0 if _all_well(view) else 1)
    with watch(roster) as views:
        well = _follow(views, as_json)
    raise typer.Exit(0 if well else 1)


def _follow(views: Iterator[dict[str, Any]], as_json: bool) -> bool:
    """Show one after the other until Ctrl-C; whether all was well with the last."""
    from rich.live import Live

    from gradlab.terminal import gpu_view

    view: dict[str, Any] = {}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
    with suppress(KeyboardInterrupt, BrokenPipeError):
        if as_json:
            for view in views:
                print(json.dumps(view, ensure_ascii=False), flush=True)
        else:
            with Live(auto_refresh=False) as screen:
                for view in views:
                    screen.update(gpu_view(view), refresh=True)
    return bool(view) and _all_well(view)


def _all_well(view: dict[str, Any]) -> bool:
    return view["available"] and not any(device["error"] for device in view["devices"])


@app.command(epilog="\b\nExamples:\n  gradlab doctor\n  gradlab doctor --json")
def doctor(as_json: AsJson = False) -> None:
    """Find what keeps the server from working and say the remedy.

    It looks at Python and its packages, Node, ports, sandboxes, Docker, GPUs, disk and passwords, and runs one real
    check; of a hosted server at its services, images, networks, GPUs, certificate and databases.
    """
    from dataclasses import asdict

    from gradlab.doctor import examine
    from gradlab.terminal import doctor_view, line_view

    lines: list[dict[str, Any]] = []
    for line in examine():
        lines.append(asdict(line))
        if not as_json:
            _print(line_view(lines[-1]))
    well = all(line["status"] != "failed" for line in lines)
    _show({"well": well, "lines": lines}, as_json, lambda: doctor_view(lines))
    raise typer.Exit(0 if well else 1)


@app.command(epilog="\b\nExamples:\n  gradlab password ada\n  gradlab password ada --json")
def password(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose password, such as ada.")], as_json: AsJson = False
) -> None:
    """Give somebody a new password, and print it once.

    It is for the logins signup and approval, while the server runs or not. A name that is here from an earlier login,
    and has no password yet, gets one as well.
    """
    from gradlab.hub.login.accounts import reset_password

    result = {"name": name.lower(), "password": reset_password(_settings(), name.lower())}
    _show(result, as_json, lambda: result["password"])
    print(f"This is the new password of {result['name']}; have them change it (/hub/change-password).", file=sys.stderr)


@app.command(epilog="\b\nExamples:\n  gradlab release ada\n  gradlab release ada --json")
def release(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name to give away, such as ada.")],
    as_json: AsJson = False,
) -> None:
    """Let another account elsewhere have a name.

    It is for the logins github, google, oidc and lti, where a name belongs to the account that first used it. The next
    account that is called so gets it, with all that is kept under it.
    """
    from gradlab.hub.login.accounts import release as give_away

    give_away(_settings(), name.lower())
    result = {"name": name.lower(), "released": True}
    _show(result, as_json, lambda: f"{result['name']} belongs to the next account that logs in with this name.")


@app.command(hidden=True)
def portal() -> None:
    """Serve the portal; the server starts this."""
    from gradlab.service import run

    run(_settings())


@app.command(hidden=True)
def judge() -> None:
    """Serve the judge; a hosted server has it in a container of its own."""
    from gradlab.service import run_judge

    run_judge(_settings())


@app.command(hidden=True)
def gpu_monitor() -> None:
    """Serve the GPU monitor; a hosted server has it in a container of its own."""
    from gradlab.service import run_gpu_monitor

    run_gpu_monitor(_settings())


@app.command(hidden=True)
def proxy() -> None:
    """Become the proxy of a hosted server."""
    from gradlab.hub.proxy import become_proxy

    become_proxy(_settings())


def _settings() -> Settings:
    from gradlab.settings import Settings

    return Settings.from_env()


def _course(settings: Settings) -> Course:
    from gradlab.course import Course

    return Course.load(settings.labs_dir, settings.checks_dir)


def _notebook(path: Path, most_mb: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > most_mb << 20:
            raise SubmissionRefused(
                f"{path} is {size / (1 << 20):.1f} MiB; the limit is {most_mb} MiB. Clear the notebook's outputs, "
                "or raise GRADLAB_NOTEBOOK_MB.",
                status=413,
            )
        return path.read_bytes()
    except OSError as error:
        raise SubmissionRefused(f"{path} cannot be read: {error.strerror}. Name a notebook that exists.") from None


@contextmanager
def _judge(settings: Settings, *, warm: bool = False) -> Iterator[Judge]:
    """A judge for one command: it keeps spare kernels only if there are more notebooks to come."""
    from dataclasses import replace

    from checker.engine import Judge
    from gradlab.judging import judge_config

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of judge.close()
    config = judge_config(settings)
    judge = Judge(config if warm else replace(config, pool=0))
    try:
        if warm:
            judge.warm()
        yield judge
    finally:
        judge.close()


def _show(result: dict[str, Any], as_json: bool, view: Any) -> None:
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        _print(view())


def _print(view: RenderableType) -> None:
    from rich.console import Console

    Console(highlight=False).print(view)


if __name__ == "__main__":
    main()
