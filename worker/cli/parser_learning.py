"""Takes the parser's commands. Gives them those that are about learning: labels, and the webhook they come by.

Knows nothing of what commands do.
"""

import argparse

from worker.cli.parsing import Commands, command, count, group

#: Kinds of label files, as `label_files.FORMS` reads them.
FORMATS = ("folder", "csv", "jsonl", "label-studio")


def add_labels(commands: Commands) -> None:
    """Add `labels`: what people say images show."""
    labels = group(commands, "labels", "say what images show, and see what is known")
    add = command(labels, "add", "labels:add", "label images")
    add.add_argument("references", nargs="+", metavar="REF", help="path, glob, folder, file:// or s3:// reference")
    add.add_argument("--label", required=True, metavar="L", help="what they show")
    add.add_argument("--group", metavar="G", help="images of one group (a patient, a burst of shots) share a split")
    _add_who_and_model(add)
    imported = command(labels, "import", "labels:imported", "label many images from a folder per class or a file")
    imported.add_argument(
        "source",
        metavar="SOURCE",
        help="folder of class folders, .csv (reference,label[,who,group,key]), .jsonl, or Label Studio's .json export",
    )
    imported.add_argument("--format", choices=FORMATS, help="(default: by what SOURCE is)")
    _add_who_and_model(imported)
    add_project(imported)
    stats = command(labels, "stats", "labels:stats", "counts per class and split, near duplicates, conflicts")
    _add_model(stats)
    _add_suggest(labels)
    audit = command(
        labels, "audit", "audit:audit", "labels that the others speak against, and pictures that are in two splits"
    )
    audit.add_argument("--num", type=count, default=20, help="rows of each kind to show (default: %(default)s)")
    _add_base(audit, "version whose backbone judges")
    _add_model(command(labels, "classes", "classes:listed", "the classes with their numbers, and what is labelled so"))
    removed = command(labels, "remove-class", "classes:removed", "mask a class; no other class changes its number")
    removed.add_argument("name", metavar="NAME")
    _add_model(removed)
    fixed = command(
        labels, "fix-classes", "classes:fixed", "close the class list; labels of any other class are refused from then"
    )
    fixed.add_argument(
        "names", nargs="*", metavar="NAME", help="all that are to stay; others are removed (default: the list as it is)"
    )
    _add_model(fixed)


def _add_suggest(labels: Commands) -> None:
    suggest = command(labels, "suggest", "suggest:suggest", "what to label next, and why")
    suggest.add_argument(
        "--from",
        dest="sources",
        nargs="+",
        metavar="SOURCE",
        help="choose among these references, paths, globs and folders (default: what was classified last)",
    )
    suggest.add_argument("--num", type=count, default=20, help="how many (default: %(default)s)")
    suggest.add_argument(
        "--out", metavar="FILE", help="write them for `labels import` (.jsonl) or for Label Studio (.json)"
    )
    suggest.add_argument("--format", choices=("jsonl", "label-studio"), help="(default: by FILE's ending)")
    _add_model(suggest)
    suggest.add_argument(
        "--base", metavar="MODEL:N", help="version that compares the images (default: what serves, else the playbook's)"
    )
    suggest.add_argument("--seed", type=int, default=0, help="of every draw (default: %(default)s)")
    studio = suggest.add_argument_group("Label Studio")
    studio.add_argument(
        "--local-files", default="", metavar="FOLDER", help="its LOCAL_FILES_DOCUMENT_ROOT, as the workers see it"
    )
    studio.add_argument("--image-field", default="", metavar="F", help="field of a task that is the image")
    studio.add_argument("--choices", default="", metavar="NAME", help="name of the Choices that are the label")


def add_runs(commands: Commands) -> None:
    """Add `plan`, `retrain`, `runs` and `triggers`: how a model keeps itself current."""
    plan = command(commands, "plan", "plan:plan", "what the playbook would do with the labels now, and why")
    _add_base(plan)
    retrain = command(commands, "retrain", "runs:retrain", "snapshot, plan, train, evaluate, gate and promote")
    _add_base(retrain)
    retrain.add_argument("--strategy", choices=("head", "last_stage", "all"), help="(default: what the plan decides)")
    retrain.add_argument("--force", action="store_true", help="train although the plan says it is not worth it")
    retrain.add_argument("--reason", default="", help="kept with the run")
    retrain.add_argument("--wait", action="store_true", help="show progress until the run has ended")
    runs = group(commands, "runs", "list, show and cancel runs, and open their reports")
    listed = command(runs, "list", "runs:listed", "the newest runs")
    listed.add_argument("--model", help="only this model's")
    listed.add_argument("--limit", type=count, default=20, help="how many (default: %(default)s)")
    for name, about in (("show", "one run: steps, plan, verdict"), ("cancel", "stop a run; the champion stays")):
        command(runs, name, f"runs:{name}", about).add_argument("run", type=count, metavar="RUN")
    report = command(runs, "report", "runs:report", "where a run's page lies; opens it if there is a browser")
    report.add_argument("run", type=count, metavar="RUN")
    report.add_argument("--no-open", dest="open", action="store_false", help="only say where it is")
    triggers = group(commands, "triggers", "what the scheduler decided, and why")
    ticks = command(triggers, "list", "triggers:listed", "every tick: fired or skipped, and why")
    ticks.add_argument("--model", help="only this model's")
    ticks.add_argument("--limit", type=count, default=20, help="how many (default: %(default)s)")
    playbook = command(commands, "playbook", "triggers:shown", "everything that decides how a model learns")
    playbook.add_argument("--model", default="default", help="which model (default: %(default)s)")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="default", help="which model (default: %(default)s)")


def _add_base(parser: argparse.ArgumentParser, about: str = "version to start from") -> None:
    _add_model(parser)
    parser.add_argument("--base", metavar="MODEL:N", help=f"{about} (default: the first ancestor of what serves)")
    parser.add_argument("--seed", type=int, default=0, help="of every draw (default: %(default)s)")


def add_webhook(commands: Commands) -> None:
    """Add `webhook`: the door for Label Studio."""
    webhook = command(
        commands,
        "webhook",
        "webhook:webhook",
        "take labels from Label Studio's webhook in the foreground: post to http://ADDRESS:PORT/label-studio/MODEL",
    )
    webhook.add_argument("--address", default="127.0.0.1", help="(default: %(default)s)")
    webhook.add_argument("--port", type=int, default=8090, help="(default: %(default)s)")
    add_project(webhook)


def _add_who_and_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--who", metavar="W", help="who says so, where the source does not (default: you)")
    parser.add_argument("--model", default="default", help="which model they are for (default: %(default)s)")


def add_project(parser: argparse.ArgumentParser) -> None:
    """Add how Label Studio's tasks are read."""
    studio = parser.add_argument_group("Label Studio, where a project is not as simple as can be")
    studio.add_argument("--image-field", default="", metavar="F", help="field of a task that is the image")
    studio.add_argument("--choices", default="", metavar="NAME", help="name of the Choices that are the label")
    studio.add_argument(
        "--local-files", default="", metavar="FOLDER", help="its LOCAL_FILES_DOCUMENT_ROOT, as the workers see it"
    )
    studio.add_argument("--uploads", default="", metavar="FOLDER", help="its media/upload folder, likewise")
