"""The command line: parse, call the public functions, print. Results on stdout, progress on stderr."""

from __future__ import annotations

import io
import json
import os
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gristmill.errors import GristmillError, UsageError, of_the_disk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gristmill.results import Event

# Typer carries its own copy of click: the base of its usage errors is reached through BadParameter.
_USAGE: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    name="gristmill",
    help="A folder of pictures or a table goes in, a verified, deployable model comes out, by your deadline.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
runs_app = typer.Typer(help="List, show and prune runs.", rich_markup_mode=None, no_args_is_help=False)
app.add_typer(runs_app, name="runs", invoke_without_command=True)

Path_ = Annotated[str, typer.Argument(help="Folder of pictures, or a CSV/TSV table.", metavar="PATH")]
Bundle_ = Annotated[str, typer.Argument(help="A .grist file.", metavar="BUNDLE")]
Target_ = Annotated[str | None, typer.Option("--target", help="Column to predict.", metavar="COL")]
Test_ = Annotated[
    str | None, typer.Option("--test", help="Test part: folder, table or split CSV.", metavar="PATH")
]
Valid_ = Annotated[str | None, typer.Option("--valid", help="Validation part.", metavar="PATH")]
Inputs_ = Annotated[
    str | None, typer.Option("--inputs", help="Columns to use, separated by commas.", metavar="COLS")
]
Ignore_ = Annotated[str | None, typer.Option("--ignore", help="Columns to leave out.", metavar="COLS")]
Group_ = Annotated[
    str | None,
    typer.Option(
        "--group", help="Column, or pattern on file names, of what belongs together.", metavar="COL|PATTERN"
    ),
]
Task_ = Annotated[str | None, typer.Option("--task", help="binary, multiclass or regression.", metavar="T")]
Metric_ = Annotated[str | None, typer.Option("--metric", help="The score that decides.", metavar="M")]
Scratch_ = Annotated[bool, typer.Option("--from-scratch", help="Use no pretrained weights.")]
Latency_ = Annotated[
    float | None,
    typer.Option(
        "--max-latency", help="Milliseconds per answer that the model may take at most.", metavar="MS"
    ),
]
Size_ = Annotated[
    float | None, typer.Option("--max-size", help="Megabytes that the bundle may have at most.", metavar="MB")
]
Time_ = Annotated[
    str, typer.Option("--time", help="Wall clock of the whole command: 90s, 10m, 1h.", metavar="T")
]
Json_ = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Quiet_ = Annotated[bool, typer.Option("--quiet", help="No progress.")]


def _version(value: bool) -> None:
    if value:
        from gristmill import __version__

        typer.echo(f"gristmill {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def fit(
    path: Path_,
    target: Target_ = None,
    time: Time_ = "10m",
    out: Annotated[str | None, typer.Option("--out", help="NAME.grist to write.", metavar="FILE")] = None,
    test: Test_ = None,
    valid: Valid_ = None,
    inputs: Inputs_ = None,
    ignore: Ignore_ = None,
    group: Group_ = None,
    task: Task_ = None,
    metric: Metric_ = None,
    from_scratch: Scratch_ = False,
    max_latency: Latency_ = None,
    max_size: Size_ = None,
    segments: Annotated[
        int | None,
        typer.Option("--segments", help="Counted mode: this many segments, repeatable.", metavar="N"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of everything random.", metavar="N")] = 0,
    sampler: Annotated[
        str | None,
        typer.Option(
            "--sampler", help="Proposes candidates: default, gp, mutation, prior, tpe.", metavar="NAME"
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete an earlier run of this name and start anew.")
    ] = False,
    take_over: Annotated[
        bool,
        typer.Option("--take-over", help="Take a run from a driver on another machine that is surely dead."),
    ] = False,
    embed_examples: Annotated[
        bool, typer.Option("--embed-examples", help="Let the report inside the bundle show your pictures.")
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray", help="Train on a Ray cluster: auto, or its head's HOST:PORT.", metavar="ADDRESS"
        ),
    ] = None,
    remember: Annotated[
        bool,
        typer.Option("--remember", help="Let `plan` on this machine reckon with this run (numbers only)."),
    ] = False,
    as_json: Json_ = False,
    quiet: Quiet_ = False,
) -> None:
    """Make a model from a folder of pictures or a table (the main job)."""
    from gristmill import automl

    with _Display(quiet, as_json) as progress:
        result = automl.fit(
            path,
            target=target,
            time=time,
            out=out,
            test=test,
            valid=valid,
            inputs=inputs,
            ignore=ignore,
            group=group,
            task=task,
            metric=metric,
            from_scratch=from_scratch,
            max_latency=max_latency,
            max_size=max_size,
            segments=segments,
            seed=seed,
            sampler=sampler,
            fresh=fresh,
            take_over=take_over,
            embed_examples=embed_examples,
            ray=ray,
            remember=remember,
            progress=progress,
            already_spent=_process_age(),
        )
    typer.echo(json.dumps(result.to_json()) if as_json else _plain(result.summary()))


@app.command()
def quickstart(
    time: Time_ = "90s",
    out: Annotated[
        str, typer.Option("--out", help="Folder to work in.", metavar="DIR")
    ] = "gristmill-quickstart",
    as_json: Json_ = False,
    quiet: Quiet_ = False,
) -> None:
    """Run the main job on real pictures that come with a dependency (scikit-learn's digits)."""
    from gristmill import quickstart as module

    with _Display(quiet, as_json) as progress:
        found = module.run(Path(out), time=time, progress=progress, already_spent=_process_age())
    typer.echo(json.dumps(found.to_json()) if as_json else _plain(found.summary()))


@app.command()
def audit(
    path: Path_,
    target: Target_ = None,
    test: Test_ = None,
    valid: Valid_ = None,
    inputs: Inputs_ = None,
    ignore: Ignore_ = None,
    group: Group_ = None,
    task: Task_ = None,
    fail_on: Annotated[
        str | None, typer.Option("--fail-on", help="Exit 3 at this severity or worse: info, warning, error.")
    ] = None,
    as_json: Json_ = False,
    quiet: Quiet_ = False,
) -> None:
    """Only the data report: what is wrong with the data, by file name."""
    from gristmill import automl

    levels = ("info", "warning", "error")
    if fail_on is not None and fail_on not in levels:
        raise UsageError(
            "--fail-on must be info, warning or error.", got=fail_on, next_step="use --fail-on warning"
        )
    with _Display(quiet, as_json) as progress:
        found = automl.audit(
            path,
            target=target,
            test=test,
            valid=valid,
            inputs=inputs,
            ignore=ignore,
            group=group,
            task=task,
            progress=progress,
        )
    typer.echo(json.dumps(found.to_json()) if as_json else _plain(found.summary()))
    if fail_on and any(levels.index(f.severity) >= levels.index(fail_on) for f in found.audit.findings):
        raise typer.Exit(3)


@app.command()
def plan(
    path: Path_,
    target: Target_ = None,
    time: Time_ = "10m",
    test: Test_ = None,
    valid: Valid_ = None,
    inputs: Inputs_ = None,
    ignore: Ignore_ = None,
    group: Group_ = None,
    task: Task_ = None,
    metric: Metric_ = None,
    from_scratch: Scratch_ = False,
    max_latency: Latency_ = None,
    max_size: Size_ = None,
    as_json: Json_ = False,
    quiet: Quiet_ = False,
) -> None:
    """What `fit` would do in that time on this machine, and what more time would buy."""
    from gristmill import automl

    with _Display(quiet, as_json) as progress:
        found = automl.plan(
            path,
            target=target,
            time=time,
            test=test,
            valid=valid,
            inputs=inputs,
            ignore=ignore,
            group=group,
            task=task,
            metric=metric,
            from_scratch=from_scratch,
            max_latency=max_latency,
            max_size=max_size,
            progress=progress,
        )
    typer.echo(json.dumps(found.to_json()) if as_json else _plain(found.summary()))


@app.command()
def predict(
    bundle: Bundle_,
    inputs: Annotated[
        list[str], typer.Argument(help="Pictures, folders of pictures, or a CSV.", metavar="INPUT...")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines instead of CSV.")] = False,
    threads: Annotated[int, typer.Option("--threads", help="Threads to use; 0: all cores.", min=0)] = 0,
) -> None:
    """Predict; CSV or JSON lines on stdout, a row per input. A bad file gets a row that says why."""
    from gristmill.deployment import runtime

    model = runtime.load(bundle, threads=threads or None)
    missing = [i for i in inputs if not Path(i).exists()]
    if missing and len(missing) == len(inputs):
        raise UsageError("The input must exist.", got=missing[0], next_step="check the path")
    predictions = model.predict(list(inputs))
    _write_predictions(predictions, model, as_json)
    if predictions and all(p.error for p in predictions):
        raise typer.Exit(3)


@app.command()
def evaluate(
    bundle: Bundle_,
    path: Path_,
    as_json: Json_ = False,
) -> None:
    """The same metrics on new labelled data (on their test part alone, when they have one)."""
    from gristmill import automl

    found = automl.evaluate(bundle, path)
    typer.echo(json.dumps(found.to_json()) if as_json else _plain(found.summary()))


@app.command()
def serve(
    bundle: Bundle_,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen on.", min=0, max=65535)] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            "--token", help="Required off loopback; also GRISTMILL_TOKEN.", envvar="GRISTMILL_TOKEN"
        ),
    ] = None,
) -> None:
    """A server with a page to drop a picture on, POST /predict, and the open inference protocol V2."""
    from gristmill.deployment import server

    server.serve(bundle, host=host, port=port, token=token)


@app.command()
def report(
    path: Annotated[str, typer.Argument(help="A run folder or a .grist file.", metavar="RUN|BUNDLE")],
    out: Annotated[str | None, typer.Option("--out", help="HTML file to write.", metavar="FILE")] = None,
) -> None:
    """Write the report as one HTML file and print its path."""
    from gristmill import automl

    typer.echo(automl.write_report(path, out))


@app.command()
def verify(bundle: Bundle_, as_json: Json_ = False) -> None:
    """Prove that a bundle is whole and predicts what it promised when it was made."""
    from gristmill.deployment import bundle as bundles

    found = bundles.verify(Path(bundle))
    if as_json:
        record = {"ok": found.ok, "checks": [list(c) for c in found.checks], "next": found.next_step}
        typer.echo(json.dumps(record))
    else:
        for name, ok, detail in found.checks:
            typer.echo(f"{'ok  ' if ok else 'FAIL'}  {name}: {_plain(str(detail))}")
        typer.echo("verified" if found.ok else f"verification failed\nNext: {found.next_step}")
    if not found.ok:
        raise typer.Exit(6)


@app.command()
def inspect(bundle: Bundle_, as_json: Json_ = False) -> None:
    """What is inside a bundle: inputs, targets, members, score, origin, licences."""
    from gristmill.deployment import bundle as bundles

    found = bundles.inspect(Path(bundle))
    typer.echo(json.dumps(found) if as_json else _plain(_outline(found)))


@app.command()
def doctor(as_json: Json_ = False) -> None:
    """The machine, the versions, what is missing, and the command that mends it."""
    from gristmill import doctor as module

    checks = module.examine()
    if as_json:
        typer.echo(json.dumps([c.to_json() for c in checks]))
    else:
        for check in checks:
            typer.echo(check.line())
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(4)


@runs_app.callback()
def runs(context: typer.Context, as_json: Json_ = False) -> None:
    """List the runs in this folder."""
    if context.invoked_subcommand is not None:
        return
    from gristmill.run import list_runs

    found = list_runs(Path.cwd())
    if as_json:
        typer.echo(json.dumps(found))
        return
    if not found:
        typer.echo("no runs here; start one with: gristmill fit PATH")
    for r in found:
        score = "" if r["score"] is None else f"{r['metric']} {r['score']:.4g}"
        typer.echo(f"{r['name']:30} {r['state']:12} {score:28} {r['bytes'] / 1e6:8.1f} MB")


@runs_app.command("show")
def runs_show(
    run: Annotated[str, typer.Argument(help="A run folder.", metavar="RUN")], as_json: Json_ = False
) -> None:
    """The candidates of one run and their scores."""
    from gristmill import automl

    found = automl.leaderboard(run)
    if as_json:
        typer.echo(json.dumps(found))
        return
    for row in found:
        score = "-" if row["score"] is None else f"{row['score']:.4f}"
        typer.echo(f"{score:>8}  {row['state']:9} {row['seconds']:7.1f}s  {row['id']}  {row['title']}")


@runs_app.command("export")
def runs_export(
    run: Annotated[str, typer.Argument(help="A run folder.", metavar="RUN")],
    to: Annotated[str, typer.Option("--to", help="csv, optuna or mlflow.", metavar="FORMAT")] = "csv",
    out: Annotated[
        str | None, typer.Option("--out", help="File to write; it must not exist.", metavar="PATH")
    ] = None,
) -> None:
    """The history of a run for other tools: a table, an Optuna storage, an MLflow store."""
    from gristmill import trials

    ending = "csv" if to == "csv" else f"{to}.db"
    typer.echo(trials.export(run, to, out or f"{Path(run).resolve().stem}.{ending}"))


@runs_app.command("prune")
def runs_prune(
    run: Annotated[
        list[str] | None, typer.Argument(help="Run folders; none: all finished here.", metavar="RUN")
    ] = None,
    cache: Annotated[
        bool, typer.Option("--cache", help="Also empty the cache of prepared pictures.")
    ] = False,
) -> None:
    """Delete checkpoints and logs of finished runs (the bundle and the report stay)."""
    from gristmill.run import list_runs, prune

    names = run or [r["name"] for r in list_runs(Path.cwd()) if r["state"] == "finished"]
    freed = sum(prune(_run_folder(n)) for n in names)
    if cache:
        from gristmill.data.store import clear

        freed += clear()
    typer.echo(f"freed {freed / 1e6:.1f} MB")


def _run_folder(name: str) -> Path:
    if not (Path(name) / "run.json").exists():
        raise UsageError("A run folder must hold run.json.", got=name, next_step="gristmill runs")
    return Path(name)


def _process_age() -> float:
    """Seconds since this process began: the deadline counts from the command, not from the first import."""
    import time

    try:
        import psutil

        return max(0.0, time.time() - float(psutil.Process().create_time()))
    except ImportError:
        return 0.0


def _write_predictions(predictions: Sequence[Any], model: Any, as_json: bool) -> None:
    if as_json:
        for p in predictions:
            typer.echo(json.dumps(p.to_json()))
        return
    import csv

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names that are no UTF-8 come out as they were
    labels = list(model.labels)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    ends = ["low", "high"] if model.manifest.target.calibration.half_width is not None else []
    shares = [f"p({_safe(label)})" for label in labels]
    writer.writerow(["input", "prediction", *ends, "abstain", "error", *shares])
    for p in predictions:
        cells = (
            [f"{p.probabilities[label]:.6f}" for label in labels]
            if labels and not p.error
            else [""] * len(labels)
        )
        value = "" if p.error else p.label if labels else f"{p.value:.8g}"
        interval = [f"{end:.8g}" for end in p.interval or ()] or [""] * len(ends)
        abstain = "" if p.error else str(bool(p.abstain)).lower()
        writer.writerow([_safe(p.input), _safe(value), *interval, abstain, _safe(p.error or ""), *cells])


def _safe(value: object) -> str:
    """A cell that no spreadsheet takes for a formula (CSV injection); plain numbers stay as they are."""
    text = str(value)
    try:
        float(text)
    except ValueError:
        return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
    return text


def _plain(text: str) -> str:
    """Text for a terminal. What steers the display (escape sequences, marks of direction, in names that
    others chose) is shown as its code; line ends, and joiners that some scripts need, stay."""
    return "".join(
        f"[U+{ord(c):04X}]"
        if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in "\n\t\u200c\u200d"
        else c
        for c in text
    )


def _outline(value: Any, indent: int = 0) -> str:
    pad = "  " * indent
    if isinstance(value, dict):
        return "\n".join(
            f"{pad}{k}:\n{_outline(v, indent + 1)}"
            if isinstance(v, (dict, list)) and v
            else f"{pad}{k}: {_scalar(v)}"
            for k, v in value.items()
        )
    if all(not isinstance(v, (dict, list)) for v in value):
        return f"{pad}{', '.join(_scalar(v) for v in value)}"
    return "\n".join(f"{pad}-\n{_outline(v, indent + 1)}" for v in value)


def _scalar(value: Any) -> str:
    return "" if value is None or value in ({}, []) else str(value)


class _Display:
    """Progress on stderr: a live line on a terminal, plain lines in a pipe, JSON lines with --json."""

    def __init__(self, quiet: bool, as_json: bool) -> None:
        self._quiet = quiet
        self._json = as_json
        self._live: Any = None

    def __enter__(self) -> Callable[[Event], None] | None:
        if self._quiet:
            return None
        if self._json:
            return self._print_json
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console

            self._live = Console(stderr=True).status("starting", spinner="dots")
            self._live.start()
            return self._show
        return self._print

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def _print_json(self, event: Event) -> None:
        print(json.dumps(event.to_json()), file=sys.stderr, flush=True)

    def _print(self, event: Event) -> None:
        if event.kind != "tick":
            print(_plain(event.line()), file=sys.stderr, flush=True)

    def _show(self, event: Event) -> None:
        from rich.markup import escape

        self._live.update(escape(_plain(event.line())))
        if event.kind != "tick":
            self._live.console.print(escape(_plain(event.line())), highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Errors are told in plain words, never as a traceback."""
    try:
        code = app(args=list(arguments) if arguments is not None else None, standalone_mode=False)
        return int(code or 0)
    except GristmillError as error:
        print(f"error: {_plain(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    if (told := of_the_disk(error)) is not None:
        print(f"error: {_plain(str(told))}", file=sys.stderr)
        return told.exit_code
    if isinstance(error, _USAGE):
        error.show()
        return int(error.exit_code)
    if isinstance(error, typer.Abort):
        return 130
    if os.environ.get("GRISTMILL_DEBUG"):
        raise error
    print(
        f"error: a fault in Gristmill, not in your data: {type(error).__name__}: {error}\n"
        "Next: run it again with GRISTMILL_DEBUG=1 and report what it prints",
        file=sys.stderr,
    )
    return 1
