"""What the folder of a run holds and what to do with it: the text of its ``README.txt``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode

from partbox.folder_readme import SELF, Entries, Entry, datasets_option, quoted, shell_line, text_of

from .hooks.best_checkpoint import BEST, FINAL

ATTACK = "[{'name': 'pgd', 'eps': '8/255', 'steps': 100, 'restarts': 5}]"
CORRUPTIONS = "[{'name': 'corruptions'}]"
PROCESSES = " (in as many processes as command.txt tells)"

DESCRIBED: Entries = (
    SELF,
    Entry("command.txt", "every start: time, host, folder, processes, job of Slurm, command line"),
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
    Entry("log.txt", "which trainings began and ended, with the time left"),
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
    SELF,
    Entry("command.txt", "every submission: time, host, folder, command line"),
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
    path, config = quoted(folder), quoted(folder / "config.yaml")
    weights = BEST if classifier and cfg.DATASETS.VALIDATION else FINAL
    begin = f"python {tool} --config-file {config}"
    again = f"python {tool} --eval-only --config-file {config} MODEL.WEIGHTS {quoted(folder / weights)}"
    again += f" OUTPUT_DIR {quoted(f'{folder}_again')} ROBUST_EVAL.PERTURBATIONS"
    steps = [
        (f"go on after an interruption{PROCESSES}", f"{begin} --resume OUTPUT_DIR {path}"),
        (f"train it once more from the beginning{PROCESSES}", f"{begin} OUTPUT_DIR {quoted(f'{folder}_repeated')}"),
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


def evaluation_guide(folder: Path, cfg: CfgNode, *, embedded: bool = False) -> str:
    """Of the folder of an evaluation alone.

    Args:
        folder: of it.
        cfg: complete configuration.
        embedded: it was asked for from Python, whose datasets and models a command line need not know.
    """
    tool, classifier = tool_of(cfg), cfg.MODEL.META_ARCHITECTURE == "PartClassifier"
    path, config = quoted(folder), quoted(folder / "config_evaluation.yaml")
    begin = f"python {tool} --eval-only --config-file {config}"
    steps = [("go on after an interruption", "the same call of partbox.evaluate")]
    if not embedded:
        steps = [
            (f"go on after an interruption{PROCESSES}", begin),
            (f"evaluate once more from the beginning{PROCESSES}", f"{begin} OUTPUT_DIR {quoted(f'{folder}_repeated')}"),
        ]
    steps.append(("make a page of the results", f"python tools/make_report.py {path}"))
    if classifier:
        steps.append(("compare it with another run", f"python tools/compare_runs.py {path} OTHER_FOLDER"))
    return text_of(
        f"An evaluation by partbox of {cfg.MODEL.WEIGHTS or 'a model with random weights'}.",
        (*STARTED, ONLY_EVALUATED, *EVALUATED, *PICTURES, *TRACKED),
        steps,
    )


def sweep_guide(folder: Path, command: Sequence[str]) -> str:
    """Of the folder of a sweep over label budgets; ``command`` is the one that was started."""
    steps = [
        ("go on after an interruption, and draw the figure again", shell_line(command)),
        ("make a page of the results", f"python tools/make_report.py {quoted(folder)}"),
    ]
    return text_of("A sweep over label budgets by partbox: one training for each budget and seed.", SWEPT, steps)


def pseudo_label_guide(folder: Path, command: Sequence[str]) -> str:
    """Of the folder of pseudo-labels."""
    dataset = datasets_option(folder / "train.json")
    steps = [
        ("go on after an interruption, or choose another --threshold", shell_line(command)),
        ("train on it", f"python tools/train_net.py --config-file CONFIG DATASETS.TRAIN {dataset} OUTPUT_DIR FOLDER"),
    ]
    return text_of("A part dataset whose missing labels a model predicted, by partbox.", PSEUDO_LABELLED, steps)


def submission_guide(folder: Path, command: Sequence[str]) -> str:
    """Of the folder of a submission to Slurm."""
    path = quoted(folder)
    steps = [
        ("see what runs and why what failed did", f"python tools/submit_slurm.py status {path}"),
        ("submit again what is neither finished nor queued", shell_line(command)),
        ("merge the results", f"python tools/submit_slurm.py collect {path}"),
    ]
    return text_of("Runs submitted to Slurm by partbox.", SUBMITTED, steps)
