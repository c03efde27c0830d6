"""Takes nothing. Gives the parser: every command, its options and its help. Knows nothing of what commands do."""

import argparse

from worker import messages
from worker.cli import parser_http, parser_learning
from worker.cli.parsing import Commands, command, count, group, moment

#: What `--help` says at the end.
EPILOG = """exit codes: 0 done, 1 failed (a job: in part, too), 2 wrong usage or configuration,
            3 refused by the playbook or the gate
settings: IMAGEMILL_* variables; `imagemill settings` lists them with their values"""


def build() -> argparse.ArgumentParser:
    """Build the whole parser; each command names its function as `module:function` in `handler`."""
    parser = argparse.ArgumentParser(
        prog="imagemill",
        description="Classify images in bulk from a queue, on a warm model, with every outcome in SQL.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_stack(commands)
    _add_submit(commands)
    _add_jobs(commands)
    parser_learning.add_labels(commands)
    parser_learning.add_runs(commands)
    _add_models(commands)
    _add_processes(commands)
    parser_http.add_serve(commands)
    parser_http.add_keys(commands)
    parser_learning.add_webhook(commands)
    return parser


def _add_stack(commands: Commands) -> None:
    up = command(commands, "up", "stack:up", "run the whole stack on this machine in the foreground")
    up.add_argument("--no-flower", action="store_true", help="leave Flower out")
    up.add_argument("--no-http", action="store_true", help="leave the HTTP server out")
    story = "the whole story: labels arrive, a model learns and serves, and keeps up with new classes"
    demo = command(commands, "demo", "demo:demo", story)
    demo.add_argument("--seed", type=int, default=0, help="which digits are held out and tested on")
    command(commands, "status", "status:status", "what runs, what waits, which version is warm where")
    doctor = command(commands, "doctor", "doctor:doctor", "what is wrong with this installation, and how to mend it")
    doctor.add_argument("--all", action="store_true", help="show what is in order, too")
    command(commands, "settings", "status:settings", "every setting with its variable, value and meaning")


def _add_submit(commands: Commands) -> None:
    submit = command(commands, "submit", "submit:submit", "hand over images as one job")
    submit.add_argument("references", nargs="*", metavar="REF", help="path, glob, folder, file:// or s3:// reference")
    submit.add_argument("--manifest", metavar="FILE", help="JSONL or CSV with `reference` and perhaps `key` per item")
    submit.add_argument(
        "--inline", action="store_true", help="send the bytes of small local images instead of references"
    )
    submit.add_argument("--model", default="default", help="which model (default: %(default)s)")
    submit.add_argument("--version", metavar="V", help="`model:3` for an exact version, `latest` to follow promotions")
    submit.add_argument("--key", metavar="K", help="idempotency key: the same key is the same job, however often sent")
    submit.add_argument("--priority", choices=messages.PRIORITIES, default=messages.BULK)
    submit.add_argument("--top-k", type=count, default=5, metavar="N", help="labels to record per item (default: 5)")
    submit.add_argument("--deadline", type=float, metavar="S", help="seconds after which unfinished items are dropped")
    submit.add_argument(
        "--callback", metavar="URL", help="https:// URL that is told of the job's end (docs/callbacks.md)"
    )
    submit.add_argument("--wait", action="store_true", help="show progress until the job has ended")
    submit.add_argument("--timeout", type=float, metavar="S", help="seconds to wait at most")
    submit.add_argument("--out", metavar="FILE", help="wait, then write the outcomes (.jsonl, .csv or .parquet)")


def _add_jobs(commands: Commands) -> None:
    jobs = group(commands, "jobs", "list, show, read, cancel, retry and replay jobs")
    listed = command(jobs, "list", "jobs:listed", "the newest jobs")
    listed.add_argument("--state", choices=messages.STATES, help="only jobs in this state")
    listed.add_argument("--limit", type=count, default=20, help="how many (default: %(default)s)")
    for name, about in (
        ("show", "one job"),
        ("cancel", "drop what is not done; finished outcomes are kept"),
        ("retry", "classify again what failed or was left undone"),
    ):
        command(jobs, name, f"jobs:{name}", about).add_argument("job", metavar="JOB")
    for name, about in (
        ("results", "every outcome, in the order of the items"),
        ("errors", "only the items that failed"),
    ):
        written = command(jobs, name, f"jobs:{name}", about)
        written.add_argument("job", metavar="JOB")
        written.add_argument(
            "--format",
            choices=("jsonl", "csv", "parquet"),
            help="default: by the file's ending; a terminal gets a table, a pipe jsonl",
        )
        written.add_argument("--out", metavar="FILE", help="write to a file instead of the terminal")

    replay = command(jobs, "replay", "replay:replay", "have another version classify again what a job labelled")
    replay.add_argument("job", metavar="JOB")
    replay.add_argument("--version", required=True, metavar="MODEL:N", help="the other version")
    replay.add_argument("--wait", action="store_true", help="wait, then print where the two disagree")
    replay.add_argument("--timeout", type=float, metavar="S", help="seconds to wait at most")


def _add_models(commands: Commands) -> None:
    models = group(commands, "models", "list, show, import, promote, roll back and verify model versions")
    listed = command(models, "list", "models:listed", "every version, and which one serves")
    listed.add_argument("--model", help="only this model's versions")
    show = command(models, "show", "models:show", "one version: card, and the module tree with parameters and shapes")
    show.add_argument("version", metavar="VERSION", help="`model:3`, or `model` for the one that serves")
    imported = command(models, "import", "models:imported", "make a version from weights on disk or published ones")
    imported.add_argument(
        "--arch",
        required=True,
        help="a torchvision or timm architecture, or package.module:factory for your own nn.Module",
    )
    imported.add_argument(
        "--arch-option", action="append", default=[], metavar="NAME=VALUE", help="passed to the architecture"
    )
    imported.add_argument(
        "--weights",
        required=True,
        metavar="FILE|NAME",
        help="a state_dict on disk, or DEFAULT for the published one",
    )
    imported.add_argument(
        "--classes", metavar="FILE", help=".txt, .json, .csv or .tsv; published weights bring their own"
    )
    imported.add_argument("--model", default="default", help="the model it becomes a version of (default: %(default)s)")
    pixels = imported.add_argument_group("pixels, where the weights were trained on others than the architecture's own")
    pixels.add_argument("--resize", type=count, metavar="PX", dest="resize_size", help="short side before the crop")
    pixels.add_argument("--crop", type=count, metavar="PX", dest="crop_size", help="side of the centre crop")
    pixels.add_argument("--interpolation", help="bilinear, bicubic, nearest or lanczos")
    pixels.add_argument("--mean", type=float, nargs=3, metavar=("R", "G", "B"), help="of pixels from 0 to 1")
    pixels.add_argument("--std", type=float, nargs=3, metavar=("R", "G", "B"), help="of pixels from 0 to 1")
    imported.add_argument(
        "--promote", action="store_true", help="let it serve at once (a model's first version always does)"
    )
    promote = command(models, "promote", "models:promote", "let a version serve; warm workers swap without a restart")
    promote.add_argument("version", metavar="MODEL:N")
    promote.add_argument("--reason", default="", help="kept in the history")
    promote.add_argument("--force", action="store_true", help="although the gate did not let it; needs --reason")
    rollback = command(models, "rollback", "models:rollback", "let the version serve that served before")
    rollback.add_argument("model", metavar="MODEL")
    rollback.add_argument("--reason", default="", help="kept in the history")
    history = command(models, "history", "models:history", "what served when, who changed it and why")
    history.add_argument("model", metavar="MODEL")
    history.add_argument(
        "--at", type=moment, metavar="TIME", help="what served then: 2026-11-23T10:00, local unless it says"
    )
    verify = command(models, "verify", "models:verify", "hashes, structure and parity of a version's checkpoint")
    verify.add_argument("version", metavar="VERSION")


def _add_processes(commands: Commands) -> None:
    worker = command(commands, "worker", "processes:worker", "run one worker in the foreground")
    worker.add_argument("role", choices=("intake", "classify", "learn", "upkeep"))
    worker.add_argument("--number", type=count, metavar="N", help="which of several of this role on this host")
    command(commands, "beat", "processes:beat", "run the scheduler in the foreground")
    flower = command(
        commands,
        "flower",
        "processes:flower",
        "run Flower in the foreground, read-only and behind its password",
    )
    flower.add_argument("--address", default="127.0.0.1", help="(default: %(default)s)")
    flower.add_argument("--port", type=int, help="(default: IMAGEMILL_FLOWER_PORT)")
    health = command(commands, "health", "processes:health", "exit 0 if this host's worker of that role lives")
    health.add_argument("role", choices=("intake", "classify", "learn", "upkeep", "beat", "http"))
    health.add_argument(
        "--within",
        type=float,
        default=30.0,
        metavar="S",
        help="seconds without a sign of life after which it is held dead (default: %(default)s)",
    )
    database = group(commands, "db", "the ledger's schema")
    backup = command(commands, "backup", "backup:backup", "ledger and checkpoints to one file, while the system runs")
    backup.add_argument("file", metavar="FILE", help="a new file; it holds no password")
    backup.add_argument("--all-images", action="store_true", help="inline images of finished jobs, too")
    restore = command(commands, "restore", "backup:restore", "bring ledger and checkpoints back, and prove them")
    restore.add_argument("file", metavar="FILE")
    restore.add_argument("--replace", action="store_true", help="although a ledger or store is there: it is deleted")
    command(database, "upgrade", "processes:upgrade", "bring the schema to this code's revision")
    command(database, "check", "processes:check", "exit 0 if the schema is this code's")
