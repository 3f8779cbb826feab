"""The command line: each command parses its flags, calls the library once and prints."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ibviz import __version__
from ibviz.errors import InputError
from ibviz.workflows.flags import model_or_default, refuse_idle, required_folder, runs_of, split_names, split_numbers

app = typer.Typer(
    help="Trained spatial attention with an information bottleneck: maps, tie-aware metrics, figures.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path, typer.Option(help="Folder to write into.")]
Data = Annotated[Path | None, typer.Option(help="Folder of the images, if the source needs one.")]
Model = Annotated[
    str | None,
    typer.Option(help="Run folder, model.safetensors, photos or digits (bundled), timm/resnet50, or FILE.py:NAME."),
]
WeightsFile = Annotated[Path | None, typer.Option(help="Local safetensors file of timm/, torchvision/ or FILE.py:.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.")]
Log = Annotated[str | None, typer.Option(help="Also send the rows to a tracker: tensorboard or wandb.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue after the last finished epoch.")]
PAGES = "Page: neurips, cvpr, ijcai, the last two also with ' column', or slides."
_INTERRUPTED = 130  # exit code of Typer after Ctrl-C


def run() -> None:
    """Run the command line; an error of the user is printed in one line, with exit code 2."""
    try:
        app()
    except InputError as error:
        print(f"ibviz: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:
            print("ibviz: stopped; what was finished is kept", file=sys.stderr)
        raise


def _print_version(asked: bool) -> bool:
    if asked:
        print(f"ibviz {__version__}")
        raise typer.Exit
    return asked


Version = Annotated[bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)]


def _keys_flag(kind: str) -> Any:
    """Return the flag that prints all keys of a file, of which `kind` is the model in `ibviz.config`."""

    def print_keys(asked: bool) -> bool:
        if asked:
            from ibviz import config
            from ibviz.workflows.keys import keys_text

            print(keys_text(getattr(config, kind)))
            raise typer.Exit
        return asked

    text = "Print every key of the file with type, default and description, as a file to start from."
    return typer.Option("--keys", help=text, callback=print_keys, is_eager=True)


@app.callback()
def _options(version: Version = False) -> None:
    """Define the options that precede a command."""


@app.command("demo")
def demo_command(out: Out = Path("runs/demo"), resume: Resume = False) -> None:
    """Train on the embedded images, judge the attention beside baselines and controls, draw figures."""
    from ibviz.workflows.evaluate import run_demo
    from ibviz.workflows.printing import print_epoch, print_results

    accuracy = run_demo(out, resume=resume, report=print_epoch)
    print(f"\ntest accuracy: {accuracy:.1%} on unseen digits")
    print_results(out / "results")


@app.command("train")
def train_command(
    recipe: Path,
    out: Out,
    data: Data = None,
    weights: Annotated[Path | None, typer.Option(help="Local safetensors file, for model.pretrained.")] = None,
    resume: Resume = False,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Run the grid under \\[sweep]; always continues where it stopped.")
    ] = False,
    features: Annotated[Path | None, typer.Option(help="Folder of cached features, which runs share.")] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Number of trainings that differ only in their seed, each in its own folder.")
    ] = None,
    log: Log = None,
    _keys: Annotated[bool, _keys_flag("Sweep")] = False,
) -> None:
    """Train the network that RECIPE (TOML) describes; under torchrun on several processes."""
    from ibviz.settings import read_toml
    from ibviz.training.loop import train
    from ibviz.training.recipe import Recipe
    from ibviz.training.sweep import train_all
    from ibviz.workflows.printing import print_epoch, print_epoch_of, print_trained

    if sweep or seeds is not None:
        runs = runs_of(recipe, out, sweep=sweep, seeds=seeds, resume=resume)
        train_all(runs, out, root=data, weights=weights, features=features, log=log, report=print_epoch_of)
        print(f"{(out / 'table.md').read_text()}\ntable: {out / 'table.md'}, {out / 'table.parquet'}")
        return
    settings = read_toml(recipe, Recipe)
    train(settings, out, root=data, resume=resume, weights=weights, features=features, log=log, report=print_epoch)
    if int(os.environ.get("RANK", "0")) == 0:
        print_trained(out)


@app.command("explain")
def explain_command(
    source: Annotated[Path, typer.Argument(help="An image, a folder of images, or a folder of Parquet files.")],
    model: Model = None,
    methods: Annotated[str, typer.Option(help="Names, separated by commas, or all that fit the model.")] = "",
    classes: Annotated[
        str, typer.Option(help="Names or numbers, separated by commas, or predicted, runner_up, true.")
    ] = "predicted",
    layer: Annotated[str | None, typer.Option(help="Layer of Grad-CAM and its kind; chosen if not given.")] = None,
    options: Annotated[list[str] | None, typer.Option("--set", help="Option of a method: rise.error=0.2.")] = None,
    out: Out = Path("explained"),
    weights: WeightsFile = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Largest number of images.")] = None,
    template: Annotated[str, typer.Option(help=PAGES)] = "ijcai",
    device: Device = "auto",
) -> None:
    """Draw the maps of each image's predicted class, or of CLASSES, by several methods, and store them exactly."""
    from ibviz.models.classifier import IBClassifier
    from ibviz.workflows.explain import ALL_METHODS, Request, check_methods, choose_methods, explain_files, raise_unfit
    from ibviz.workflows.model import ModelSource, load_on
    from ibviz.workflows.printing import print_unfit

    check_methods(methods, options or [])
    model = model_or_default(model)
    network = load_on(model, weights, device)
    chosen = choose_methods(methods, layer, options or [], trained=isinstance(network, IBClassifier))
    unfit = print_unfit if methods.strip() == ALL_METHODS else raise_unfit
    request = Request(source, chosen, split_names(classes), limit, template)
    for path in explain_files(request, network, out, origin=ModelSource(model, weights), unfit=unfit):
        print(path)


@app.command("evaluate")
def evaluate_command(
    sources: Annotated[list[Path], typer.Argument(help="SUITE.toml; with --merge, folders.", metavar="SUITE")],
    out: Annotated[Path | None, typer.Option(help="Folder to write into.")] = None,
    model: Model = None,
    data: Data = None,
    weights: WeightsFile = None,
    device: Device = "auto",
    limit: Annotated[int | None, typer.Option(min=2, help="Largest number of images.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue after the last finished batch.")] = False,
    merge: Annotated[bool, typer.Option("--merge", help="Merge folders of several processes.")] = False,
    verify: Annotated[Path | None, typer.Option(help="A rows.parquet; a random 1 % is computed again.")] = None,
    _keys: Annotated[bool, _keys_flag("SuiteConfig")] = False,
) -> None:
    """Judge the methods of SUITE (TOML) and controls by its metrics; under torchrun on several processes."""
    from ibviz.workflows.evaluate import evaluate_suite, merge_folders, verify_result
    from ibviz.workflows.printing import print_results
    from ibviz.workflows.suite import read_suite

    if merge:
        refuse_idle("--merge", model=model, data=data, weights=weights, limit=limit, resume=resume, verify=verify)
        merge_folders(sources, required_folder(out))
        print_results(required_folder(out))
        return
    suite = read_suite(sources, model=model, weights=weights, limit=limit)
    if verify is not None:
        refuse_idle("--verify", out=out, resume=resume)
        verdict = verify_result(suite, verify, root=data, device=device)
        print(verdict)
        raise typer.Exit(int(verdict.differing > 0))
    if not evaluate_suite(suite, required_folder(out), root=data, device=device, resume=resume):
        print(f"each process has a folder of its own: ibviz evaluate --merge FOLDER... --out {out}-merged")
    elif int(os.environ.get("RANK", "0")) == 0:
        print_results(required_folder(out))


@app.command("anchors")
def anchors_command(
    model: Annotated[str, typer.Argument(help="As for --model of explain; it must have trained attention.")],
    out: Out = Path("anchors"),
    data: Data = None,
    weights: WeightsFile = None,
    limit: Annotated[int, typer.Option(min=2, help="Largest number of test images.")] = 500,
    device: Device = "auto",
) -> None:
    """Measure the anchors of a trained attention: usage, interventions, consistency."""
    from ibviz.workflows.anchors import study_anchors
    from ibviz.workflows.model import load_trained

    print(study_anchors(load_trained(model, weights, device), out, root=data, limit=limit))
    print(f"\nnumbers and rows of single images: {out}")


@app.command("report")
def report_command(
    folder: Annotated[Path, typer.Argument(help="Folder written by `ibviz evaluate`.")],
    out: Annotated[Path | None, typer.Option(help="File to write; report.html in the folder if not given.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Largest number of stored pictures.")] = None,
    anchors: Annotated[Path | None, typer.Option(help="Folder written by `ibviz anchors`.")] = None,
    table: Annotated[
        str | None, typer.Option(help="Metrics of a table in place of the page: srg,pointing; all for all of them.")
    ] = None,
    rows: Annotated[str, typer.Option(help="Methods and controls of the table; all if not given.")] = "",
    format_: Annotated[str | None, typer.Option("--format", help="Form of the table: txt, md, tex, csv, json.")] = None,
    template: Annotated[str | None, typer.Option(help=f"For a table in LaTeX. {PAGES}")] = None,
) -> None:
    """Write one HTML page to explore a result, or one table of chosen metrics and rows."""
    from ibviz.workflows.report import write_report
    from ibviz.workflows.result_table import names_or_all, write_chosen

    if table is not None:
        refuse_idle("--table", images=images, anchors=anchors)
        metrics, kept = names_or_all("--table", table), names_or_all("--rows", rows)
        text = write_chosen(folder, out, metrics, kept, form=format_, template=template)
        print(out or text)
        return
    refuse_idle("a page, which has no --table,", rows=rows, format=format_, template=template)
    path = write_report(folder, out, images=images, anchors=anchors)
    print(f"{path}, {path.stat().st_size / 1e6:.1f} MB")


@app.command("compare-protocols")
def compare_protocols_command(
    source: Annotated[Path, typer.Argument(help="An image, a folder of images, or a folder of Parquet files.")],
    model: Model = None,
    method: Annotated[str, typer.Option(help="Method whose maps are judged.")] = "grad_cam",
    layer: Annotated[str | None, typer.Option(help="Layer of Grad-CAM; chosen by grid if not given.")] = None,
    weights: WeightsFile = None,
    limit: Annotated[int, typer.Option(min=1, help="Largest number of images.")] = 4,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="Folder for CSV, LaTeX and a figure.")] = None,
) -> None:
    """Judge one method's maps under every preset, and show how far each choice of a protocol moves the result."""
    from ibviz.models.classifier import IBClassifier
    from ibviz.workflows.compared_protocols import compare_protocols_on
    from ibviz.workflows.explain import check_methods, choose_methods
    from ibviz.workflows.model import load_on

    check_methods(method)
    network = load_on(model_or_default(model), weights, device)
    [(name, options)] = choose_methods(method, layer, trained=isinstance(network, IBClassifier)).items()
    print(compare_protocols_on(source, network, name, options, limit=limit, out=out))


@app.command("figure")
def figure_command(
    sidecar: Annotated[Path, typer.Argument(help="The .json file beside a figure, with its data beside it.")],
    out: Annotated[Path | None, typer.Option(help="File to write; by default all files of the figure.")] = None,
    template: Annotated[str | None, typer.Option(help=PAGES)] = None,
    blend: Annotated[float | None, typer.Option(help="Opacity of the maps, 0 to 1.")] = None,
    colours: Annotated[str | None, typer.Option(help="Colour map of matplotlib, such as viridis.")] = None,
    contours: Annotated[str, typer.Option(help="Lines at these fractions of the scale: 0.5,0.8.")] = "",
    width: Annotated[float | None, typer.Option(help="Width of the page in inches.")] = None,
    font: Annotated[str | None, typer.Option(help="Name of an installed font.")] = None,
    format_: Annotated[str, typer.Option("--format", help="Formats: pdf,png,svg.")] = "",
) -> None:
    """Draw a figure again from its sidecar: identically under the same libraries, or with changes and a new sidecar."""
    from ibviz.workflows.figure import changed, redraw_files

    lines = split_numbers("--contours", contours) or None
    changes = changed(template, width, font, blend=blend, cmap=colours, contours=lines)
    for path in redraw_files(sidecar, out, changes, split_names(format_)):
        print(path)


@app.command("list")
def list_command(
    kind: Annotated[str, typer.Argument(help="methods, metrics, baselines, sources, models or presets.")],
) -> None:
    """List the names that a recipe, a suite or the command line accepts, with descriptions and options."""
    from ibviz.workflows.listing import list_names

    print(list_names(kind))


@app.command("doctor")
def doctor_command() -> None:
    """Print versions, device, extras and programs, and test the metrics on a case whose result is known."""
    from ibviz.workflows.doctor import diagnose

    lines = diagnose()
    for line in lines:
        print(f"{'' if line.sound else 'NOT SOUND '}{line.name}: {line.result}")
    raise typer.Exit(int(not all(line.sound for line in lines)))
