"""What the folder of a run holds and what to do with it: the text of its ``README.txt``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode

from .hooks.best_checkpoint import BEST, FINAL

ATTACK = "[{'name': 'pgd', 'eps': '8/255', 'steps': 100, 'restarts': 5}]"
CORRUPTIONS = "[{'name': 'corruptions'}]"


@dataclass(frozen=True)
class Entry:
    """A file, or a folder with all that is in it (``name/``), of a folder.

    Attributes:
        name: a pattern, relative to the folder.
        meaning: one sentence.
        always: whether it is there whenever the run is finished.
    """

    name: str
    meaning: str
    always: bool = True


Entries = tuple[Entry, ...]
Steps = Sequence[tuple[str, str]]  # what one may want to do -> the command

DESCRIBED: Entries = (
    Entry("README.txt", "this text"),
    Entry("command.txt", "every start: time, host, processes, job of Slurm, command line"),
    Entry("environment.txt", "versions and hardware of the last start"),
)
STARTED: Entries = (
    *DESCRIBED,
    Entry("log.txt", "the log, with the time left"),
    Entry(".lock", "held while a process writes here"),
    Entry("log.txt.rank*", "the logs of the other processes, where there are several", always=False),
    Entry(".*.tmp", "a file that is being written, or was when the run was killed", always=False),
)
TRAINED: Entries = (
    Entry("config.yaml", "the complete configuration, names of classes and parts included"),
    Entry("metrics.json", "one JSON object a line: losses, eps, learning rate, validation"),
    Entry("events.out.tfevents.*", "the same for TensorBoard"),
    Entry(FINAL, "weights at the end"),
    Entry("last_checkpoint", "the name of the checkpoint from which --resume goes on"),
    Entry("resume_*.pth", "the checkpoints: weights, optimizer, place in the data"),
    Entry("resume_*.pth.damaged", "checkpoints that could not be read; an earlier one was taken", always=False),
)
TRAINED_CLASSIFIER: Entries = (
    *TRAINED,
    Entry("learning_curves.png", "losses and validation as a picture"),
    Entry(BEST, "weights with the best validation under attack; needs DATASETS.VALIDATION", always=False),
)
EVALUATED: Entries = (
    Entry("results.json", "the results: accuracies, threat models, seeds, versions, configuration"),
    Entry("records.jsonl", "one line an image and perturbation: label, prediction, fooled, queries"),
    Entry("records/", "finished batches, from which an interrupted evaluation goes on"),
)
PICTURES: Entries = (
    Entry("examples/", "images as the model saw them under each perturbation, and what it found there", always=False),
    Entry("examples.png", "some of them on one page", always=False),
)
TRACKED: Entries = (
    Entry("attack_curves/", "for TensorBoard: results by strength of the attacks, attacked images", always=False),
    Entry("wandb/", "files of wandb (TRACKING.WANDB)", always=False),
    Entry("wandb_run.json", "the id of its run", always=False),
)
ONLY_EVALUATED = Entry("config_evaluation.yaml", "the complete configuration of the evaluation")
LATER_EVALUATION = Entry("config_evaluation.yaml", "of an evaluation that was started here later", always=False)

SWEPT: Entries = (
    *DESCRIBED,
    Entry("config.yaml", "what all trainings have in common"),
    Entry("masks*_boxes*-seed*/", "one run each, with a README.txt of its own"),
    Entry("masks*_boxes*-seed*.out", "what each of them printed"),
    Entry("label_budget.json", "the results: accuracies and hours of labelling of every finished run"),
    Entry("label_budget.md", "the same as a table"),
    Entry("label_budget.png", "accuracy against the cost of the labels"),
)
PSEUDO_LABELLED: Entries = (
    *DESCRIBED,
    Entry("config.yaml", "the configuration of the model that labelled"),
    Entry("log.txt", "the log, with the time left"),
    Entry("train.json", "the part dataset: annotated and predicted labels; info.pseudo_labels says how they were made"),
    Entry("images", "a link to the photographs"),
    Entry("found_parts.jsonl", "all parts that the model found, with scores; read again for another threshold"),
    Entry("thresholds.json", "the thresholds, with precision, recall and F1 at each"),
    Entry("thresholds.png", "the same as a picture"),
    Entry(".*.tmp", "a file that is being written, or was when the call was killed", always=False),
)
SUBMITTED: Entries = (
    Entry("README.txt", "this text"),
    Entry("command.txt", "every submission: time, host, command line"),
    Entry("plan.json", "the cells: one run of a tool each"),
    Entry("commands.txt", "the same as command lines"),
    Entry("submissions.json", "which jobs were submitted for which cells", always=False),
    Entry("logs/", "the log of each job", always=False),
    Entry("submitit/", "batch scripts and what the jobs are to do", always=False),
    Entry("failures/", "what Slurm said of jobs that were not requeued", always=False),
    Entry("runs/", "the trained runs, each with a README.txt of its own", always=False),
    Entry("cells/", "the evaluations, each with a README.txt of its own", always=False),
    Entry("jobs.json", "what Slurm said of jobs that it may have forgotten", always=False),
    Entry("sweep_results.json", "the results of all cells, from collect", always=False),
)


def tool_of(cfg: CfgNode) -> str:
    """The tool that trains and evaluates what a configuration describes."""
    return "tools/train_net.py" if cfg.MODEL.META_ARCHITECTURE == "PartClassifier" else "tools/train_detector.py"


def training_guide(folder: Path, cfg: CfgNode) -> str:
    """Of the folder of a training with its evaluation."""
    tool, classifier = tool_of(cfg), cfg.MODEL.META_ARCHITECTURE == "PartClassifier"
    path = shlex.quote(str(folder))
    weights = BEST if classifier and cfg.DATASETS.VALIDATION else FINAL
    config = shlex.quote(str(folder / "config.yaml"))
    again = f"python {tool} --eval-only --config-file {config} MODEL.WEIGHTS {shlex.quote(str(folder / weights))}"
    again += f" OUTPUT_DIR {shlex.quote(f'{folder}_again')} ROBUST_EVAL.PERTURBATIONS"
    steps = [
        ("go on after an interruption", f"python {tool} --config-file {config} --resume OUTPUT_DIR {path}"),
        ("evaluate the weights again", f'{again} "{ATTACK if classifier else CORRUPTIONS}"'),
        ("look at the curves", f"tensorboard --logdir {path}"),
        ("make a page of the results", f"python tools/make_report.py {path}"),
    ]
    if classifier:
        steps.append(("compare it with another run", f"python tools/compare_runs.py {path} OTHER_FOLDER"))
    entries = TRAINED_CLASSIFIER if classifier else TRAINED
    what = "A part classifier" if classifier else f"A detector or segmenter ({cfg.MODEL.META_ARCHITECTURE})"
    return text_of(
        f"{what}, trained and evaluated by partbox.",
        (*STARTED, *entries, *EVALUATED, *PICTURES, *TRACKED, LATER_EVALUATION),
        steps,
    )


def evaluation_guide(folder: Path, cfg: CfgNode) -> str:
    """Of the folder of an evaluation alone."""
    tool, classifier = tool_of(cfg), cfg.MODEL.META_ARCHITECTURE == "PartClassifier"
    config = shlex.quote(str(folder / "config_evaluation.yaml"))
    path = shlex.quote(str(folder))
    steps = [("go on after an interruption", f"python {tool} --eval-only --config-file {config}")]
    steps.append(("make a page of the results", f"python tools/make_report.py {path}"))
    if classifier:
        steps.append(("compare it with another run", f"python tools/compare_runs.py {path} OTHER_FOLDER"))
    return text_of(
        f"An evaluation by partbox of {cfg.MODEL.WEIGHTS}.",
        (*STARTED, ONLY_EVALUATED, *EVALUATED, *PICTURES, *TRACKED),
        steps,
    )


def sweep_guide(command: Sequence[str]) -> str:
    """Of the folder of a sweep over label budgets; ``command`` is the one that was started."""
    steps = [("go on after an interruption, and draw the figure again", f"python {shlex.join(command)}")]
    return text_of("A sweep over label budgets by partbox: one training for each budget and seed.", SWEPT, steps)


def pseudo_label_guide(folder: Path, command: Sequence[str]) -> str:
    """Of the folder of pseudo-labels."""
    dataset = f"\"('{folder / 'train.json'}',)\""
    steps = [
        ("go on after an interruption, or choose another --threshold", f"python {shlex.join(command)}"),
        ("train on it", f"python tools/train_net.py --config-file CONFIG DATASETS.TRAIN {dataset} OUTPUT_DIR FOLDER"),
    ]
    return text_of("A part dataset whose missing labels a model predicted, by partbox.", PSEUDO_LABELLED, steps)


def submission_guide(folder: Path, command: Sequence[str]) -> str:
    """Of the folder of a submission to Slurm."""
    path = shlex.quote(str(folder))
    steps = [
        ("see what runs and why what failed did", f"python tools/submit_slurm.py status {path}"),
        ("submit again what is neither finished nor queued", f"python {shlex.join(command)}"),
        ("merge the results", f"python tools/submit_slurm.py collect {path}"),
    ]
    return text_of("Runs submitted to Slurm by partbox.", SUBMITTED, steps)


def text_of(title: str, entries: Sequence[Entry], steps: Steps) -> str:
    """The text: title, what is there, what may be there, how to go on."""
    width = max(len(entry.name) for entry in entries)
    listed = {
        always: [f"  {one.name:{width}}  {one.meaning}" for one in entries if one.always == always]
        for always in (True, False)
    }
    parts = [title, "", "Files of a finished run:", "", *listed[True]]
    if listed[False]:
        parts += ["", "Not always there:", "", *listed[False]]
    parts += ["", "What to do, in the folder in which the run was started:", ""]
    for what, command in steps:
        parts += [f"  {what}:", f"    {command}"]
    return "\n".join(parts) + "\n"
