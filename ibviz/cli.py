"""The command line: parse, call the library once, print."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ibviz import __version__
from ibviz.errors import InputError
from ibviz.training.recipe import Recipe, Sweep

app = typer.Typer(
    help="Trained spatial attention with an information bottleneck: maps, tie-aware metrics, figures.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path, typer.Option(help="Folder for what is written.")]
Data = Annotated[Path | None, typer.Option(help="Folder of the images, where the source needs one.")]
Model = Annotated[
    str | None,
    typer.Option(help="Run folder, model.safetensors, photos or digits (bundled), or a name: timm/resnet50."),
]
Weights = Annotated[Path | None, typer.Option(help="Local safetensors file for a torchvision network.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.")]
Log = Annotated[str | None, typer.Option(help="Rows to a tracker as well: tensorboard or wandb.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on after the last finished epoch.")]
INTERRUPTED = 130  # what Typer makes of Ctrl-C


def main() -> None:
    """Run the command line; what a user got wrong is one line and exit code 2."""
    try:
        app()
    except InputError as error:
        print(f"ibviz: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            print("ibviz: stopped; what was finished is kept", file=sys.stderr)
        raise


def _print_version(asked: bool) -> bool:
    if asked:
        print(f"ibviz {__version__}")
        raise typer.Exit
    return asked


Version = Annotated[bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)]


@app.callback()
def _options(version: Version = False) -> None:
    """Options that stand before a command."""


@app.command()
def demo(out: Out = Path("runs/demo"), resume: Resume = False) -> None:
    """Train on the embedded images, judge the attention beside baselines and controls, draw figures."""
    from ibviz.workflows.evaluate import run_demo
    from ibviz.workflows.printing import print_epoch, print_results

    accuracy = run_demo(out, resume=resume, report=print_epoch)
    print(f"\ntest accuracy: {accuracy:.1%} on unseen digits and photographs")
    print_results(out / "results")


@app.command()
def train(  # noqa: PLR0913 - one parameter a flag
    recipe: Path,
    out: Out,
    data: Data = None,
    weights: Annotated[Path | None, typer.Option(help="Local safetensors file, for model.pretrained.")] = None,
    resume: Resume = False,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Run the grid under \\[sweep]; always goes on where it stopped.")
    ] = False,
    features: Annotated[
        Path | None, typer.Option(help="Folder of cached features, shared by runs on the same network and data.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Trainings that differ in their seed alone, each in a folder of its own.")
    ] = None,
    log: Log = None,
) -> None:
    """Train the network that RECIPE (TOML) describes; under torchrun on several processes."""
    from ibviz.settings import read_toml
    from ibviz.training.loop import train as train_recipe
    from ibviz.training.recipe import Recipe
    from ibviz.training.sweep import train_all
    from ibviz.workflows.printing import print_epoch, print_epoch_of, print_trained

    if sweep or seeds is not None:
        runs = _runs(recipe, out, sweep=sweep, seeds=seeds, resume=resume)
        train_all(runs, out, root=data, weights=weights, features=features, log=log, report=print_epoch_of)
        print(f"{(out / 'table.md').read_text()}\ntable: {out / 'table.md'}, {out / 'table.parquet'}")
        return
    train_recipe(
        read_toml(recipe, Recipe),
        out,
        root=data,
        resume=resume,
        weights=weights,
        features=features,
        log=log,
        report=print_epoch,
    )
    if int(os.environ.get("RANK", "0")) == 0:
        print_trained(out)


def _runs(recipe: Path, out: Path, *, sweep: bool, seeds: int | None, resume: bool) -> Any:
    """The trainings of a sweep, or of several seeds, which without --resume must be new."""
    from ibviz.settings import read_toml
    from ibviz.training.sweep import SEED_KEY, grid, over_seeds, refuse_started

    if sweep and seeds is not None:
        raise InputError(f'--seeds goes with a recipe; a sweep lists its seeds: "{SEED_KEY}" = [0, 1, 2] under [sweep]')
    if sweep:
        _refuse("--sweep", resume=resume)
        return grid(read_toml(recipe, Sweep))
    runs = over_seeds(read_toml(recipe, Recipe), seeds or 0)
    if not resume:
        refuse_started(runs, out)
    return runs


@app.command()
def explain(  # noqa: PLR0913 - one parameter a flag
    source: Annotated[Path, typer.Argument(help="An image, a folder of images, or a folder of Parquet files.")],
    model: Model = None,
    methods: Annotated[str, typer.Option(help="Names, separated by commas, or all that fit the model.")] = "",
    layer: Annotated[str | None, typer.Option(help="Layer of Grad-CAM and its like; chosen if not given.")] = None,
    out: Out = Path("explained"),
    weights: Weights = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Images at most.")] = None,
    device: Device = "auto",
) -> None:
    """Draw the maps of an image's predicted class and the runner-up by several methods, and keep them exactly."""
    from ibviz.models.classifier import IBClassifier
    from ibviz.workflows.explain import ALL, check_methods, choose_methods, explain_files, refuse
    from ibviz.workflows.model import load_on
    from ibviz.workflows.printing import print_unfit

    check_methods(methods)
    if model is None:
        model = "photos"
        print(f"--model was not given: {model}, the bundled network with attention for photographs of 200 classes")
    network = load_on(model, weights, device)
    chosen = choose_methods(methods, layer, trained=isinstance(network, IBClassifier))
    unfit = print_unfit if methods.strip() == ALL else refuse
    for path in explain_files(source, network, chosen, out, limit=limit, unfit=unfit):
        print(path)


@app.command()
def evaluate(  # noqa: PLR0913 - one parameter a flag
    sources: Annotated[list[Path], typer.Argument(help="SUITE.toml; with --merge, folders.", metavar="SUITE")],
    out: Annotated[Path | None, typer.Option(help="Folder for what is written.")] = None,
    model: Model = None,
    data: Data = None,
    weights: Weights = None,
    device: Device = "auto",
    limit: Annotated[int | None, typer.Option(min=2, help="Images at most.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last finished batch.")] = False,
    merge: Annotated[bool, typer.Option("--merge", help="One result of folders of several processes.")] = False,
    verify: Annotated[Path | None, typer.Option(help="A rows.parquet; a random 1 % of it is computed again.")] = None,
) -> None:
    """Judge the methods of SUITE (TOML) by its metrics, beside controls; under torchrun on several processes."""
    from ibviz.workflows.evaluate import evaluate_suite, merge_folders, verify_result
    from ibviz.workflows.printing import print_results

    if merge:
        _refuse("--merge", model=model, data=data, weights=weights, limit=limit, resume=resume, verify=verify)
        merge_folders(sources, _out(out))
        print_results(_out(out))
        return
    suite = _suite(sources, model, weights, limit)
    if verify is not None:
        _refuse("--verify", out=out, resume=resume)
        verdict = verify_result(suite, verify, root=data, device=device)
        print(verdict)
        raise typer.Exit(int(verdict.differing > 0))
    if not evaluate_suite(suite, _out(out), root=data, device=device, resume=resume):
        print(f"each process has a folder of its own: ibviz evaluate --merge FOLDER... --out {out}-merged")
    elif int(os.environ.get("RANK", "0")) == 0:
        print_results(_out(out))


def _refuse(beside: str, **given: object) -> None:
    """Say which of the given options would do nothing beside another."""
    idle = [f"--{name}" for name, value in given.items() if value]
    if idle:
        raise InputError(f"beside {beside} there is nothing for {', '.join(idle)} to do; leave that out")


def _out(out: Path | None) -> Path:
    if out is None:
        raise InputError("give the folder for what is written, --out DIR")
    return out


def _suite(sources: list[Path], model: str | None, weights: Path | None, limit: int | None) -> Any:
    """The suite of a file, with what flags say instead."""
    from ibviz.benchmark.config import NamedModel, SuiteConfig
    from ibviz.settings import read_toml

    if len(sources) > 1:
        raise InputError(f"expected one suite; got {len(sources)}. Folders of one run go with --merge")
    suite = read_toml(sources[0], SuiteConfig)
    changes: dict[str, Any] = {} if model is None else {"models": (NamedModel(name=model, weights=weights),)}
    if weights is not None and model is None:
        raise InputError("--weights belongs to --model; those of a suite stand beside its [[models]]")
    if limit is not None:
        changes["images"] = limit if suite.images is None else min(limit, suite.images)
    return suite.model_copy(update=changes)


@app.command()
def anchors(
    checkpoint: Annotated[str, typer.Argument(help="Run folder, model.safetensors, or photos or digits (bundled).")],
    out: Out = Path("anchors"),
    data: Data = None,
    limit: Annotated[int, typer.Option(min=2, help="Test images at most.")] = 500,
    device: Device = "auto",
) -> None:
    """Say what the anchors of a trained attention are worth: usage, interventions, consistency."""
    from ibviz.workflows.anchors import study_anchors
    from ibviz.workflows.model import load_trained

    print(study_anchors(load_trained(checkpoint, device), out, root=data, limit=limit))
    print(f"\nnumbers and rows of single images: {out}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="What `ibviz evaluate` wrote.")],
    out: Annotated[Path | None, typer.Option(help="File to write; report.html in the folder if not given.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Images at most, of those kept as pictures.")] = None,
    anchors: Annotated[Path | None, typer.Option(help="Folder of `ibviz anchors`: effects of the anchors.")] = None,
) -> None:
    """Make one HTML page to explore a result: table, curves, maps of each image, anchors; no server, no network."""
    from ibviz.workflows.report import write_report

    path = write_report(folder, out, images=images, anchors=anchors)
    print(f"{path}, {path.stat().st_size / 1e6:.1f} MB")


@app.command()
def compare_protocols(  # noqa: PLR0913 - one parameter a flag
    source: Annotated[Path, typer.Argument(help="An image, a folder of images, or a folder of Parquet files.")],
    model: Model = "digits",
    method: Annotated[str, typer.Option(help="Whose maps are judged.")] = "grad_cam",
    layer: Annotated[str | None, typer.Option(help="Layer of Grad-CAM; chosen by grid if not given.")] = None,
    weights: Weights = None,
    limit: Annotated[int, typer.Option(min=1, help="Images at most.")] = 4,
    device: Device = "auto",
) -> None:
    """Judge one method's maps under every preset, and say which choice of a protocol moves the number how much."""
    from ibviz.models.classifier import IBClassifier
    from ibviz.workflows.explain import check_methods, choose_methods, compare_protocols_on
    from ibviz.workflows.model import load_on

    check_methods(method)
    network = load_on(str(model), weights, device)
    [(name, options)] = choose_methods(method, layer, trained=isinstance(network, IBClassifier)).items()
    print(compare_protocols_on(source, network, name, options, limit=limit))


@app.command()
def figure(
    sidecar: Annotated[Path, typer.Argument(help="The .json beside a figure, with its data beside it.")],
    out: Annotated[Path | None, typer.Option(help="PNG, PDF or SVG; by default in place, in every format.")] = None,
) -> None:
    """Draw a figure again from its sidecar, identically under the same libraries."""
    from ibviz.workflows.figure import redraw_files

    for path in redraw_files(sidecar, out):
        print(path)


@app.command("list")
def list_command(
    kind: Annotated[str, typer.Argument(help="methods, metrics, baselines, sources, models or presets.")],
) -> None:
    """List what can be named in a recipe, a suite or on the command line, with descriptions and options."""
    from ibviz.workflows.listing import list_names

    print(list_names(kind))


@app.command()
def doctor() -> None:
    """Say versions, device, extras and programs, and test the metrics on a network whose numbers are known."""
    from ibviz.workflows.doctor import diagnose

    lines = diagnose()
    for line in lines:
        print(f"{'' if line.sound else 'NOT SOUND '}{line.what}: {line.said}")
    raise typer.Exit(int(not all(line.sound for line in lines)))
