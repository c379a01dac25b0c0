"""Jobs on a real Slurm: several nodes, signals and requeueing, arrays, and what the user finds when one fails."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from part_dataset_files import forget_builtin_datasets
from slurm_jobs import Job
from small_models import SMALL, small_config
from tool_runs import run_here

from partbox.engine.build import build_classifier
from partbox.engine.checkpoint import save_weights
from partbox.engine.slurm.collect import collect
from partbox.engine.slurm.plan import load_plan
from partbox.engine.slurm.status import status_of

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "configs/example/part_box.yaml"
NORMAL = REPOSITORY / "configs/example/normal.yaml"
CLEAN = "[{'name': 'clean'}]"
TRAINING = [
    *SMALL,
    *["SOLVER.MAX_ITER", "60", "SOLVER.CHECKPOINT_PERIOD", "25", "TEST.EVAL_PERIOD", "0", "DATASETS.VALIDATION", "()"],
    *["ADVERSARY.OBJECTIVE", "clean", "ROBUST_EVAL.PERTURBATIONS", CLEAN],
]


VALIDATED = {
    **{"SOLVER.MAX_ITER": "120", "SOLVER.CHECKPOINT_PERIOD": "10", "TEST.EVAL_PERIOD": "10"},
    **{
        "DATASETS.VALIDATION": "('example_val',)",
        "ADVERSARY.VALIDATION_STEPS": "1",
        "ADVERSARY.VALIDATION_IMAGES": "4",
    },
}
SET_BY_SWEEP = ("SEED", "ROBUST_EVAL.PERTURBATIONS")


@pytest.fixture(autouse=True)
def environment(example_root, monkeypatch, slurm):
    for name in [name for name in os.environ if re.match(r"SLURM_(?!CONF)", name)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(example_root))
    monkeypatch.setenv("PARTBOX_PYTHON", sys.executable)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")


def tool(name: str, *arguments: object, fails: bool = False) -> str:
    """What a tool says, run as a program here and not as a job."""
    command = [sys.executable, str(REPOSITORY / f"tools/{name}.py"), *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert bool(ended.returncode) == fails, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.fixture
def submit_slurm(run_tool, capsys):
    """What tools/submit_slurm.py says, run in this process, which has imported everything already."""

    def say(*arguments: object) -> str:
        capsys.readouterr()
        run_tool("submit_slurm", *arguments)
        said = capsys.readouterr()
        return said.out + said.err

    return say


def losses(folder: Path) -> dict[int, tuple[float, float, float]]:
    lines = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    return {line["iteration"]: (line["total_loss"], line["loss_class"], line["loss_part"]) for line in lines}


def same_weights(one: Path, other: Path, name: str = "model_final.pth") -> bool:
    first, second = (torch.load(folder / name, weights_only=True)["model"] for folder in (one, other))
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.fixture(scope="module")
def local(example_root, tmp_path_factory):
    """Trainings on this machine without Slurm and without interruption, by the number of their processes."""
    folders = {}

    def train(processes: int) -> Path:
        if processes not in folders:
            folders[processes] = tmp_path_factory.mktemp("local") / "run"
            options = ["--config-file", CONFIG, *TRAINING, "OUTPUT_DIR", folders[processes]]
            if processes == 1:
                run_here(example_root, "train_net", *options)
            else:
                tool("train_net", "--num-gpus", processes, *options)
        return folders[processes]

    return train


@pytest.mark.slow
def test_a_training_on_two_nodes_equals_two_processes_here(submit_slurm, local, tmp_path):
    options = ["--config-file", CONFIG, *TRAINING]
    asked = [*options, "--nodes", 2, "--mem", "3000M", "OUTPUT_DIR", tmp_path / "run"]
    tool("submit_slurm", "train", *asked)
    job = job_of_submission(tmp_path / "run/slurm")
    assert job.ended() == "COMPLETED", job.text
    assert losses(tmp_path / "run") == losses(local(2))
    assert len(losses(tmp_path / "run")) == 3
    assert same_weights(tmp_path / "run", local(2))
    start = (tmp_path / "run/command.txt").read_text()
    assert re.search(rf"processes=2 job={job.number} requeued=0 nodes=\S+\[?\S*[12]", start)
    assert "FINISHED" in submit_slurm("status", tmp_path / "run/slurm")
    # what --dry-run shows is what sbatch got
    text = submit_slurm("train", *options, "--nodes", 2, "--mem", "3000M", "--dry-run", "OUTPUT_DIR", tmp_path / "run")
    assert (tmp_path / f"run/slurm/submitit/{job.number}_submission.sh").read_text().strip() in text
    assert "Nothing to submit" in submit_slurm("train", *asked)


@pytest.mark.parametrize(
    ("nodes", "signal", "batch"),
    [
        pytest.param(2, "USR1", True, id="before-the-limit", marks=pytest.mark.slow),
        pytest.param(1, "TERM", False, id="preemption", marks=pytest.mark.slow),
    ],
)
def test_a_signalled_job_is_requeued_and_ends_in_the_same_bits(sbatch, local, tmp_path, nodes, signal, batch):
    folder = tmp_path / "run"
    job = sbatch("train.sbatch", [f"--nodes={nodes}"], "--config-file", CONFIG, *TRAINING, "OUTPUT_DIR", folder)
    if signal == "USR1":  # while it is importing: one step is done all the same
        job.until(lambda: "--- start 1" in job.text)
        time.sleep(1.5)
        job.signal(signal, batch=batch)
    else:
        job.until(lambda: (folder / "resume_0000024.pth").exists())
        job.signal(signal, batch=batch)
    job.until(lambda: "--- start 2" in job.text)
    assert job.ended() == "COMPLETED", job.text
    assert job.text.count("Stopped by SIG") <= 1  # none if it came before Python listens at all
    assert job.text.count("goes back to the queue: start 2") == 1
    assert "FAILED: " not in job.text
    assert same_weights(folder, local(nodes))
    starts = (folder / "command.txt").read_text().splitlines()
    where = [re.search(r"job=(\S+) requeued=(\d)", line).groups() for line in starts]
    assert where[-1] == (job.number, "1")
    assert where[:-1] == [(job.number, "0")] * job.text.count("Stopped by SIG")
    assert json.loads((folder / "results.json").read_text())["results"]["images"] == 22


@pytest.fixture
def runs(example_root, example_dataset, tmp_path):
    """Folders of two runs of one model, never trained."""
    forget_builtin_datasets()
    folders = []
    for seed in (1, 2):
        cfg = small_config(example_dataset, "SEED", str(seed), "DATALOADER.NUM_WORKERS", "0")
        torch.manual_seed(seed)
        folders.append(tmp_path / f"box-seed{seed}")
        folders[-1].mkdir()
        (folders[-1] / "config.yaml").write_text(cfg.dump())
        save_weights(folders[-1] / "model_final.pth", build_classifier(cfg))
    forget_builtin_datasets()
    return folders


@pytest.mark.slow
def test_a_sweep_of_evaluations_is_merged_into_one_file(submit_slurm, run_tool, runs, tmp_path):
    attack = "{name: pgd, eps: 8/255, steps: 2}"
    asked = ["--runs", *runs, "--perturbation", "clean", "--perturbation", attack, "--folder", tmp_path / "sweep"]
    submit_slurm("sweep", *asked, "--mem", "2500M", "--parallel", 3)
    job = job_of_submission(tmp_path / "sweep")
    job.ended()
    table = submit_slurm("collect", tmp_path / "sweep")
    document = json.loads((tmp_path / "sweep/sweep_results.json").read_text())
    assert not document["missing"], submit_slurm("status", tmp_path / "sweep")
    assert [(cell["config"], cell["seed"], cell["perturbation"]) for cell in document["cells"]] == [
        ("box", seed, kind) for seed in (1, 2) for kind in ("clean", "pgd-eps8_255-steps2")
    ]
    here = ["--eval-only", "--config-file", runs[1] / "config.yaml", "MODEL.WEIGHTS", runs[1] / "model_final.pth"]
    specs = "[{'name': 'pgd', 'eps': '8/255', 'steps': 2}]"
    run_tool("train_net", *here, "ROBUST_EVAL.PERTURBATIONS", specs, "OUTPUT_DIR", tmp_path / "here")
    results = json.loads((tmp_path / "here/results.json").read_text())
    assert document["cells"][3]["results"] == results["results"]
    assert document["cells"][3]["provenance"]["versions"] == results["versions"]
    robust = [cell["results"]["robust_accuracy"]["linf 8/255"] for cell in document["cells"][1::2]]
    row = next(row for row in document["summary"] if row["metric"] == "robust accuracy, linf 8/255")
    assert row["mean"] == pytest.approx(sum(robust) / 2)
    assert list(row["by_seed"].values()) == robust
    assert "robust accuracy, linf 8/255" in table
    status = submit_slurm("status", tmp_path / "sweep")
    assert status.count("FINISHED") == 4


def test_a_sweep_trains_evaluates_and_merges_and_the_same_command_repeats_what_failed(submit_slurm, tmp_path):
    """One training is requeued, and its evaluation waits; one is cancelled, and its best weights are no results."""
    folder = tmp_path / "sweep"
    options = {**dict(zip(TRAINING[::2], TRAINING[1::2], strict=True)), **VALIDATED}
    given = [word for key, value in options.items() if key not in SET_BY_SWEEP for word in (key, value)]
    asked = ["sweep", "--configs", NORMAL, CONFIG, "--seeds", 1, "--perturbation", "{name: pgd, eps: 8/255, steps: 2}"]
    asked += ["--folder", folder, "--mem", "2500M", *given]
    submit_slurm(*asked)
    trainings, evaluations = jobs_of(folder)
    one, two = (Job(f"{trainings}_{task}", folder / f"logs/{trainings}_{task}.log") for task in (0, 1))
    one.until(lambda: "--- start 1" in one.text)
    time.sleep(1)
    one.signal("USR1", batch=True)
    two.until(lambda: (folder / "runs/part_box-seed1/model_best.pth").exists())
    subprocess.run(["scancel", two.number], check=True)
    assert one.ended() == "COMPLETED", one.text
    assert "--- start 2" in one.text
    assert two.ended() == "CANCELLED"
    Job(evaluations, folder / "x").ended()
    kind = "pgd-eps8_255-steps2"
    statuses = {one.name: one for one in status_of(folder, load_plan(folder))}
    assert {name: one.state for name, one in statuses.items()} == {
        "normal-seed1": "FINISHED",
        "part_box-seed1": "FAILED",
        f"normal-seed1--{kind}": "FINISHED",
        f"part_box-seed1--{kind}": "FAILED",
    }
    assert statuses["part_box-seed1"].reason == "it was cancelled"
    assert statuses["normal-seed1"].starts in (1, 2)  # 1 where the signal came before Python listens
    assert "SlurmError: the training has not finished" in statuses[f"part_box-seed1--{kind}"].reason
    (missing,) = collected(folder)["missing"]
    assert missing["reason"] == "its training part_box-seed1 failed: it was cancelled"

    said = submit_slurm(*asked)
    last, waiting = jobs_of(folder)[2:]
    assert f"job {last}: part_box-seed1\n" in said
    assert f"job {waiting}: part_box-seed1--{kind}\n" in said
    assert Job(waiting, folder / f"logs/{waiting}.log").ended() == "COMPLETED"
    document = collected(folder)
    assert not document["missing"]
    assert not document["warnings"]
    results = [(cell["config"], cell["results"]["images"]) for cell in document["cells"]]
    assert results == [("normal", 22), ("part_box", 22)]
    assert {row["metric"] for row in document["summary"]} >= {"robust accuracy, linf 8/255"}


def collected(folder: Path) -> dict:
    cells = load_plan(folder)
    return collect(folder, cells, status_of(folder, cells))


def has_gpus() -> bool:
    return "gpu" in subprocess.run(["sinfo", "--noheader", "--format=%G"], capture_output=True, text=True).stdout


@pytest.mark.slow
def test_an_evaluation_by_hand_is_requeued_once_and_counts_no_image_twice(sbatch, run_tool, runs, tmp_path):
    """As the comment in eval.sbatch says; both tasks hear the signal, and both want to requeue the job."""
    attack = [
        "ROBUST_EVAL.PERTURBATIONS",
        "[{'name': 'pgd', 'eps': '8/255', 'steps': 60}]",
        "ROBUST_EVAL.BATCH_SIZE",
        "1",
    ]
    command = ["--config-file", runs[0] / "config.yaml", "MODEL.WEIGHTS", runs[0] / "model_final.pth", *attack]
    gpus = ["--gpus-per-task=1"] if has_gpus() else []
    job = sbatch("eval.sbatch", ["--ntasks=2", *gpus], *command, "OUTPUT_DIR", tmp_path / "run")
    records = [tmp_path / f"run/records/process-{process}-of-2.jsonl" for process in (0, 1)]
    job.until(lambda: all(path.exists() and path.stat().st_size for path in records))
    job.signal("USR1", batch=False)
    run_tool("train_net", "--eval-only", *command, "OUTPUT_DIR", tmp_path / "here")
    assert job.ended() == "COMPLETED", job.text
    assert job.fields["Restarts"] == "1"
    assert "FAILED: " not in job.text
    starts = (tmp_path / "run/command.txt").read_text().splitlines()
    places = [re.search(rf"part=(\d/2) job={job.number} requeued=(\d)", line).groups() for line in starts]
    assert sorted(places) == [("0/2", "0"), ("0/2", "1"), ("1/2", "0"), ("1/2", "1")]
    assert (tmp_path / "run/records.jsonl").read_bytes() == (tmp_path / "here/records.jsonl").read_bytes()
    results = [json.loads((tmp_path / name / "results.json").read_text())["results"] for name in ("run", "here")]
    assert results[0] == results[1]


@pytest.mark.slow
def test_lines_of_a_file_are_an_array_by_hand(sbatch, runs, tmp_path):
    """As the comment in sweep.sbatch says: one task per GPU, blanks in paths, and a job that gets few variables."""
    folder = tmp_path / "my sweep"
    folder.mkdir()
    lines = []
    for number, run in enumerate(runs, start=1):
        words = [
            "tools/train_net.py",
            "--eval-only",
            "--config-file",
            run / "config.yaml",
            "ROBUST_EVAL.PERTURBATIONS",
            CLEAN,
        ]
        words += ["MODEL.WEIGHTS", run / "model_final.pth", "OUTPUT_DIR", folder / f"run {number}"]
        lines.append(shlex.join(map(str, words)))
    (folder / "commands.txt").write_text("\n".join(lines) + "\n")
    tasks = "--gpus-per-node=2" if has_gpus() else "--ntasks=2"
    export = "--export=PATH,HOME,DETECTRON2_DATASETS,PARTBOX_PYTHON,PYTHONWARNINGS"
    options = ["--array=1-2%2", tasks, export, f"--output={folder}/%A_%a.log"]
    job = sbatch("sweep.sbatch", options, folder / "commands.txt")
    job.ended()
    logs = "".join(path.read_text() for path in folder.glob("*.log"))
    assert [task["JobState"] for task in job.tasks] == ["COMPLETED"] * 2, logs
    for number in (1, 2):
        assert json.loads((folder / f"run {number}/results.json").read_text())["results"]["images"] == 22
        starts = (folder / f"run {number}/command.txt").read_text()
        assert sorted(re.findall(rf"part=(\d/2) job={job.number}_{number} ", starts)) == ["0/2", "1/2"]
        assert len(starts.splitlines()) == 2


def test_the_reason_of_a_failure_is_found_in_one_place(submit_slurm, runs, tmp_path):
    """Killed for memory; a data set that is gone when the job begins; each said by status, and noted without it."""
    config = ["--config-file", CONFIG, *TRAINING]
    lost = ["DATASETS.TRAIN", f"('{tmp_path}/lost.json',)"]
    jobs = {}
    for name, memory, options in (("memory", "150M", []), ("config", "2500M", lost)):
        submit_slurm("train", *config, "--mem", memory, *options, "OUTPUT_DIR", tmp_path / name)
        jobs[name] = job_of_submission(tmp_path / name / "slurm")
    reasons = {"memory": "out of memory", "config": r"PartDatasetError: .*lost\.json"}
    for name, job in jobs.items():
        assert job.ended() != "COMPLETED", job.text
        status = submit_slurm("status", tmp_path / name / "slurm")
        assert re.search(rf"{name}: {reasons[name]}", status), status
        assert str(job.log) in status
        noted = (tmp_path / name / "slurm/failures" / f"{job.number}.txt").read_text()
        assert re.search(reasons[name], noted)
        assert re.search(f"FAILED: {reasons[name]}", job.text)


def test_a_broken_configuration_is_refused_before_anything_is_submitted(runs, tmp_path):
    config = ["--config-file", CONFIG, "OUTPUT_DIR", tmp_path / "run"]
    said = tool("submit_slurm", "train", *config, "SOLVER.BASE_RL", "1", fails=True)
    assert "did you mean SOLVER.BASE_LR" in said
    assert "Traceback" not in said
    said = tool("submit_slurm", "train", *config, "--partition", "nowhere", fails=True)
    assert "SlurmError: sbatch refuses" in said
    assert "partition" in said
    assert "Traceback" not in said
    assert not (tmp_path / "run/slurm/submissions.json").exists()


def test_a_cancelled_job_leaves_no_half_written_file_and_is_not_requeued(sbatch, run_tool, tmp_path):
    folder = tmp_path / "run"
    often = [*TRAINING, "SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.MAX_ITER", "100"]
    job = sbatch("train.sbatch", [], "--config-file", CONFIG, *often, "OUTPUT_DIR", folder)
    job.until(lambda: (folder / "resume_0000003.pth").exists())
    subprocess.run(["scancel", job.number], check=True)
    assert job.ended() == "CANCELLED"
    assert job.fields["Restarts"] == "0"
    for path in folder.glob("*.pth"):
        assert torch.load(path, weights_only=True)["model"], path
    last = folder / (folder / "last_checkpoint").read_text()
    assert last.is_file()
    for line in (folder / "metrics.json").read_text().splitlines():
        json.loads(line)
    (folder / ".results.json.x.tmp").write_text("what a kill might have left")
    run_tool("train_net", "--resume", "--config-file", CONFIG, *often, "OUTPUT_DIR", folder)
    assert (folder / "results.json").is_file()
    assert not list(folder.rglob("*.tmp"))


def job_of_submission(folder: Path) -> Job:
    """The one job of a submission."""
    number = json.loads((folder / "submissions.json").read_text())["submissions"][0]["job"]
    return Job(number, folder / "logs" / f"{number}.log")


def jobs_of(folder: Path) -> list[str]:
    """The jobs of a submission, one or an array for each kind of cells."""
    return [entry["job"] for entry in json.loads((folder / "submissions.json").read_text())["submissions"]]
