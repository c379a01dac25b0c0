"""What is submitted to Slurm and what is made of its answers; none of it needs a Slurm."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from partbox.engine.checks import ConfigError
from partbox.engine.slurm.collect import summary_of
from partbox.engine.slurm.failures import error_in, reason_of, tail_of
from partbox.engine.slurm.job import parse_jobs
from partbox.engine.slurm.plan import Cell, load_plan, parse_perturbation, save_plan, single, sweep_of_configurations
from partbox.engine.slurm.site import load_site
from partbox.engine.slurm.status import status_of
from partbox.engine.slurm.submission import SUBMISSIONS
from partbox.report.sweep_table import status_table

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "configs/example/part_box.yaml"
NORMAL = REPOSITORY / "configs/example/normal.yaml"
FASTER = REPOSITORY / "configs/car_parts/faster_rcnn.yaml"


@pytest.fixture
def without_slurm(monkeypatch, tmp_path):
    """No program of Slurm on PATH, and no site file of the developer's."""
    (tmp_path / "bin").mkdir()
    for name in ("bash", "sh"):
        (tmp_path / "bin" / name).symlink_to(Path("/bin") / name)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("PARTBOX_SITE", raising=False)


# --- what is submitted ----------------------------------------------------------------------------------------------

OPTIONS = {
    "--partition": ("gpu", "--partition=gpu"),
    "--account": ("me", "--account=me"),
    "--qos": ("long", "--qos=long"),
    "--time": ("1-00:00:00", "--time=1-00:00:00"),
    "--nodes": ("2", "--nodes=2"),
    "--gpus-per-node": ("a100:4", "--gpus-per-node=a100:4"),
    "--tasks-per-node": ("4", "--ntasks-per-node=4"),
    "--cpus-per-task": ("8", "--cpus-per-task=8"),
    "--mem": ("64G", "--mem=64G"),
    "--constraint": ("new", "--constraint=new"),
    "--exclude": ("n7", "--exclude=n7"),
    "--reservation": ("talk", "--reservation=talk"),
    "--signal-seconds": ("300", "--signal=B:USR1@300"),
    "--extra": ("--mail-type=FAIL --exclusive", "--mail-type=FAIL"),
    "--name": ("mine", "--job-name=mine-train"),
}


def sbatch_lines(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]


def test_every_option_arrives_in_the_batch_script(run_tool, without_slurm, tmp_path, capsys):
    given = [word for option, (value, _) in OPTIONS.items() for word in (f"{option}={value}",)]
    run_tool("submit_slurm", "train", "--config-file", CONFIG, *given, "--dry-run", "OUTPUT_DIR", tmp_path / "run")
    text = capsys.readouterr().out
    lines = sbatch_lines(text)
    for _, line in OPTIONS.values():
        assert line in lines
    assert {"--exclusive", "--requeue", "--open-mode=append"} <= set(lines)
    names = [line.split("=")[0] for line in lines]
    assert len(names) == len(set(names)), "an option is given twice, and the last one would count"
    assert f"0: tools/train_net.py --resume --config-file {CONFIG} OUTPUT_DIR {tmp_path}/run" in text
    assert not (tmp_path / "run").exists()


def test_nothing_is_asked_of_slurm_that_nobody_asked_for(run_tool, without_slurm, tmp_path, capsys):
    """submitit has a time limit of 5 minutes and an accounting key of its own."""
    run_tool("submit_slurm", "train", "--config-file", CONFIG, "--dry-run", "OUTPUT_DIR", tmp_path / "run")
    names = {line.split("=")[0] for line in sbatch_lines(capsys.readouterr().out)}
    assert names == {"--job-name", "--nodes", "--open-mode", "--output", "--requeue", "--signal"}


def test_the_site_file_counts_and_the_command_line_counts_more(run_tool, without_slurm, tmp_path, capsys):
    site = tmp_path / "site.env"
    site.write_text(
        '# ours\nSBATCH_PARTITION="gpu"\nSBATCH_TIMELIMIT="8:00:00"\nSBATCH_SIGNAL=B:USR1@60\n'
        "PARTBOX_SBATCH_EXTRA='--mail-type=FAIL'\nPARTBOX_SETUP='module load $CUDA'\nSBATCH_QOS=\n"
    )
    asked = ["train", "--config-file", CONFIG, "--site", site, "--time", "1:00:00", "--dry-run"]
    run_tool("submit_slurm", *asked, "OUTPUT_DIR", tmp_path / "run")
    text = capsys.readouterr().out
    lines = sbatch_lines(text)
    assert {"--partition=gpu", "--time=1:00:00", "--signal=B:USR1@60", "--mail-type=FAIL"} <= set(lines)
    assert not any(line.startswith("--qos") for line in lines)
    assert f"export PARTBOX_SITE={site}" in text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("SBATCH_PARTITON=gpu", "line 2: SBATCH_PARTITON is not known; known: SBATCH_ACCOUNT"),
        ("partition gpu", "line 2: write NAME="),
        ("SBATCH_ACCOUNT=$USER", "line 2: variables are not replaced here"),
        ('SBATCH_ACCOUNT="me', "line 2: No closing quotation"),
        ("PARTBOX_SBATCH_EXTRA='-p gpu'", "line 2: options of sbatch are written --name=value"),
    ],
)
def test_a_mistake_in_the_site_file_is_named(tmp_path, line, words):
    (tmp_path / "site.env").write_text(f"# facts\n{line}\n")
    with pytest.raises(ConfigError, match=re.escape(words)):
        load_site(tmp_path / "site.env")
    with pytest.raises(ConfigError, match="does not exist"):
        load_site(tmp_path / "other.env")


def test_the_site_file_of_the_project_is_read_by_both_sides():
    options = load_site(REPOSITORY / "scripts/slurm/site.env").options
    assert options == {"signal": "B:USR1@120"}
    script = f"set -eu; source {REPOSITORY}/scripts/slurm/site.env; echo $PARTBOX_MAX_STARTS"
    assert subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout == "100\n"


def test_a_sweep_is_an_array_of_trainings_and_one_of_evaluations(run_tool, without_slurm, tmp_path, capsys):
    asked = ["sweep", "--configs", NORMAL, CONFIG, "--seeds", "1,2", "--folder", tmp_path / "sweep", "--parallel", 3]
    kinds = ["--perturbation", "clean", "--perturbation", "{name: pgd, eps: 8/255, steps: 2}"]
    run_tool("submit_slurm", *asked, *kinds, "--dry-run", "SOLVER.MAX_ITER", "5")
    text = capsys.readouterr().out
    lines = sbatch_lines(text)
    assert [line for line in lines if line.startswith("--array")] == ["--array=0-3%3", "--array=0-7%3"]
    assert [line for line in lines if line.startswith("--dependency")] == ["--dependency=afterany:JOB_OF_THE_TRAININGS"]
    assert all("%A_%a.log" in line for line in lines if line.startswith("--output"))
    assert text.count("--kill-on-bad-exit=1") == 1
    assert text.count("--kill-on-bad-exit=0") == 1
    commands = [shlex.split(line.split(": ", 1)[1]) for line in text.splitlines() if re.match(r"\d+: tools/", line)]
    assert len(commands) == 12
    assert sorted(value(command, "SEED") for command in commands[:4]) == ["1", "1", "2", "2"]
    assert all(value(command, "SOLVER.MAX_ITER") == "5" for command in commands[:4])
    assert len({value(command, "OUTPUT_DIR") for command in commands}) == 12
    for command in commands[4:]:
        run = Path(value(command, "MODEL.WEIGHTS")).parent
        assert run in {Path(value(training, "OUTPUT_DIR")) for training in commands[:4]}
        assert value(command, "--config-file") == str(run / "config.yaml")
        assert Path(value(command, "MODEL.WEIGHTS")).name == "model_best.pth"
    assert not (tmp_path / "sweep").exists()


def value(command: list[str], key: str) -> str:
    return command[command.index(key) + 1]


def test_detectors_are_swept_by_their_own_tool(without_slurm, tmp_path):
    cells = sweep_of_configurations([FASTER], [0], [{"name": "detector-pgd", "eps": "4/255"}], tmp_path, [])
    assert [cell.command[0] for cell in cells] == ["tools/train_detector.py"] * 2
    assert value(list(cells[1].command), "MODEL.WEIGHTS").endswith("model_final.pth")
    with pytest.raises(ConfigError, match="attacks a classifier"):
        sweep_of_configurations([FASTER], [0], [{"name": "pgd", "eps": "4/255"}], tmp_path, [])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep", "--configs", CONFIG, "--perturbation", "fogg"], "unknown perturbation 'fogg'"),
        (["sweep", "--configs", CONFIG, "--perturbation", "{name: pgd}"], "needs an eps"),
        (["sweep", "--configs", CONFIG, "--perturbation", "[a"], "perturbation '[a'"),
        (["sweep", "--configs", CONFIG, CONFIG.parent / "none.yaml", "--perturbation", "clean"], "does not exist"),
        (["sweep", "--configs", CONFIG, "--perturbation", "clean", "--perturbation", "clean"], "asked for twice"),
        (["sweep", "--configs", CONFIG, CONFIG, "--perturbation", "clean"], "two configurations are called part_box"),
        (["sweep", "--configs", CONFIG, "--seeds", "1,1", "--perturbation", "clean"], "two seeds are called 1"),
        (["sweep", "--configs", CONFIG, "--perturbation", "clean", "SEED", "3"], "SEED: the sweep sets it"),
        (
            ["sweep", "--configs", CONFIG, "--perturbation", "clean", "SOLVER.BASE_RL", "3"],
            "mean SOLVER.BASE_LR",
        ),
        (["sweep", "--runs", CONFIG.parent, "--perturbation", "clean"], "config.yaml does not exist"),
        (
            ["sweep", "--runs", CONFIG.parent, "--seeds", "1", "--perturbation", "clean"],
            "--seeds are those of",
        ),
        (["train", "--config-file", CONFIG], "OUTPUT_DIR output/my_run"),
        (["train", "--config-file", CONFIG, "OUTPUT_DIR", "x", "ADVERSARY.EPS"], "stands alone"),
        (["eval", "--config-file", CONFIG, "OUTPUT_DIR", "x"], "needs MODEL.WEIGHTS"),
        (["eval", "--config-file", CONFIG, "OUTPUT_DIR", "x", "MODEL.WEIGHTS", "no.pth"], "no.pth does not exist"),
        (["train", "--config-file", CONFIG, "OUTPUT_DIR", "x", "--extra", "-p gpu"], "--extra: options of sbatch"),
        (["status", CONFIG.parent], "not the folder of a submission"),
    ],
)
def test_mistakes_are_refused_before_anything_is_submitted(run_tool, without_slurm, tmp_path, arguments, words):
    folder = ["--folder", tmp_path / "sweep"] if arguments[0] == "sweep" else []
    with pytest.raises(ConfigError, match=re.escape(words)):
        run_tool("submit_slurm", *arguments[:1], *folder, *arguments[1:])
    assert not (tmp_path / "sweep").exists()


def test_two_runs_of_one_name_are_refused_and_one_without_weights(teacher, tmp_path, run_tool, without_slurm):
    run = teacher(name="a")
    asked = ["sweep", "--perturbation", "clean", "--folder", tmp_path / "sweep", "--dry-run", "--runs"]
    with pytest.raises(ConfigError, match="two runs are called a"):
        run_tool("submit_slurm", *asked, run, run.parent / "." / "a")
    (run / "model_final.pth").unlink()
    with pytest.raises(ConfigError, match="no finished training"):
        run_tool("submit_slurm", *asked, run)


def test_without_slurm_the_tool_says_so_and_notes_no_job(run_tool, without_slurm, tmp_path):
    from partbox.engine.slurm.job import SlurmError

    with pytest.raises(SlurmError, match="nothing was submitted"):
        run_tool("submit_slurm", "train", "--config-file", CONFIG, "OUTPUT_DIR", tmp_path / "run")
    assert not (tmp_path / "run/slurm" / SUBMISSIONS).exists()


def test_a_folder_is_one_submissions(tmp_path):
    cells = [single("train", CONFIG, ["OUTPUT_DIR", str(tmp_path / "run")])]
    save_plan(tmp_path, cells)
    assert load_plan(tmp_path) == cells
    assert (tmp_path / "commands.txt").read_text().splitlines() == [cells[0].line]
    save_plan(tmp_path, cells)
    with pytest.raises(ConfigError, match="another submission"):
        save_plan(tmp_path, [single("train", CONFIG, ["OUTPUT_DIR", str(tmp_path / "run"), "SEED", "2"])])


def test_a_perturbation_is_a_name_or_a_mapping():
    assert parse_perturbation("clean") == {"name": "clean"}
    assert parse_perturbation("{name: pgd, eps: 8/255}") == {"name": "pgd", "eps": "8/255"}
    for wrong in ("[clean]", "{eps: 1}", "3"):
        with pytest.raises(ConfigError, match="a name or a mapping"):
            parse_perturbation(wrong)


# --- why it failed --------------------------------------------------------------------------------------------------

MEMORY = "slurmstepd-n1: error: StepId=8.0 exceeded memory limit (370257920 > 314572800), being killed\nsrun: Killed\n"
CGROUP = "slurmstepd: error: Detected 1 oom_kill event in StepId=9.0. Some of the step tasks have been OOM Killed.\n"
TIME = "slurmstepd-n1: error: *** JOB 8 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***\n"
CANCEL = "slurmstepd-n1: error: *** JOB 8 ON n1 CANCELLED AT 2026-01-01T00:00:00 ***\n"
STEP = "slurmstepd-n1: error: *** STEP 8.0 ON n1 CANCELLED AT 2026-01-01T00:00:00 ***\n"
PEER = "1: RuntimeError: [gloo/transport/tcp/pair.cc:1] Connection closed by peer [127.0.0.1]:1\n"


@pytest.mark.parametrize(
    ("state", "code", "log", "reason"),
    [
        ("FAILED", 137, MEMORY, "out of memory: it used more than it asked for (300M); ask for more with --mem"),
        ("OUT_OF_MEMORY", 1, "", "out of memory"),
        ("FAILED", 137, CGROUP, "out of memory"),
        ("FAILED", 137, "", "killed by signal 9, which the kernel sends when memory runs out"),
        ("FAILED", 139, "", "killed by signal 11"),
        ("TIMEOUT", 0, "", "time limit: 00:01:00 passed"),
        ("COMPLETING", 143, TIME, "time limit: 00:01:00 passed"),
        ("NODE_FAIL", 0, "", "a node failed"),
        ("CANCELLED", 0, "ValueError: earlier\n", "it was cancelled"),
        ("COMPLETING", 143, CANCEL, "it was cancelled"),
        ("FAILED", 1, f"{STEP}0: ConfigError: no such key\n", "ConfigError: no such key"),
        ("FAILED", 1, "Traceback\n  x\nKeyError: 'a'\nFAILED: KeyError: 'a'\n", "KeyError: 'a'"),
        (
            "FAILED",
            1,
            f"0: TrainingDiverged: the loss is not finite\n{PEER}",
            "TrainingDiverged: the loss is not finite",
        ),
        ("FAILED", 1, PEER, "RuntimeError: [gloo"),
        ("FAILED", 2, "train_net.py: error: unrecognized arguments: --x\n", "wrong command line: unrecognized"),
        ("FAILED", 1, "torch.OutOfMemoryError: CUDA out of memory. Tried\n", "out of memory on the GPU"),
        ("FAILED", 75, "x]: Not requeued: it got nowhere\n", "stopped by a signal and not requeued: it got nowhere"),
        ("FAILED", 2, "FAILED: there is no python\n", "there is no python"),
        ("FAILED", 3, "all is well\n", "exit code 3, and no error in the log"),
    ],
)
def test_the_reason_of_a_failure_is_one_sentence(state, code, log, reason):
    fields = {"JobState": state, "TimeLimit": "00:01:00", "MinMemoryNode": "300M"}
    said = reason_of(fields, code, log)
    assert reason in said
    assert "\n" not in said


def test_only_the_last_start_counts(tmp_path):
    log = tmp_path / "job.log"
    log.write_text("--- start 1 of job 3 on n1\nValueError: long ago\n--- start 2 of job 3 on n1\nRuntimeError: now\n")
    assert error_in(tail_of(log)) == "RuntimeError: now"
    log.write_text("--- start 1 of job 3 on n1\nValueError: long ago\n--- start 2 of job 3 on n1\nall is well\n")
    assert error_in(tail_of(log)) is None
    assert error_in("all is well: no Error here\n") is None
    assert tail_of(tmp_path / "none") == ""


def test_what_scontrol_says_is_read():
    text = (REPOSITORY / "tests/slurm/scontrol.txt").read_text()
    jobs = parse_jobs(text)
    assert [job["JobState"] for job in jobs] == ["PENDING", "RUNNING", "FAILED"]
    assert jobs[0]["ArrayTaskId"] == "2-5%2"
    assert jobs[2]["ExitCode"] == "1:0"
    assert jobs[2]["StdOut"].endswith("7_0.log")


@pytest.fixture
def submission(tmp_path, monkeypatch):
    """The folder of a submitted sweep of four cells, and a ``scontrol`` that knows its array."""
    cells = [
        Cell(f"c{i}", "evaluate", ("tools/train_net.py",), str(tmp_path / f"c{i}"), "box", i, "clean") for i in range(4)
    ]
    save_plan(tmp_path, cells)
    jobs = {f"7_{i}": f"c{i}" for i in range(4)}
    (tmp_path / SUBMISSIONS).write_text(json.dumps({"submissions": [{"job": "7", "submitted": "", "cells": jobs}]}))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/7_0.log").write_text("--- start 1 of job 7_0 on n1\nConfigError: no such key\n")
    (tmp_path / "bin").mkdir()
    answer = REPOSITORY / "tests/slurm/scontrol.txt"
    (tmp_path / "bin/scontrol").write_text(f"#!/bin/sh\ncat {answer}\n")
    (tmp_path / "bin/sacct").write_text("#!/bin/sh\nexit 1\n")
    for name in ("scontrol", "sacct"):
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path, cells


def test_the_status_of_every_cell_and_what_slurm_forgets(submission):
    folder, cells = submission
    (folder / "c1/records").mkdir(parents=True)
    (folder / "c1/records/process-0-of-1.jsonl").write_text("{}\n" * 12)
    (folder / "c1/command.txt").write_text("first\nsecond\n")
    statuses = status_of(folder, cells)
    assert [status.state for status in statuses] == ["FAILED", "RUNNING", "PENDING", "PENDING"]
    assert statuses[0].reason == "ConfigError: no such key"
    assert statuses[1].progress == "12 images seen"
    assert statuses[1].starts == 2
    assert statuses[2].reason == "waits: JobArrayTaskLimit"
    table = status_table([vars(status) for status in statuses])
    assert f"c0: ConfigError: no such key\n    log: {folder}/logs/7_0.log" in table
    (folder / "bin/scontrol").write_text("#!/bin/sh\necho 'Invalid job id specified' >&2; exit 1\n")
    (folder / "logs/7_0.log").unlink()
    (folder / "c3").mkdir()
    (folder / "c3/results.json").write_text("{}")
    later = status_of(folder, cells)
    assert [status.state for status in later] == ["FAILED", "UNKNOWN", "UNKNOWN", "FINISHED"]
    assert later[0].reason == "exit code 1, and no error in the log"
    (folder / "failures").mkdir()
    (folder / "failures/7_0.txt").write_text("what the job itself noted\nlog: x\n")
    assert status_of(folder, cells)[0].reason == "what the job itself noted"


def test_the_accounting_is_asked_where_the_controller_has_forgotten(submission):
    folder, cells = submission
    (folder / "bin/scontrol").write_text("#!/bin/sh\necho 'Invalid job id specified' >&2; exit 1\n")
    lines = "7_0|COMPLETED|0:0|UNLIMITED|1G\n7_1|OUT_OF_MEMORY|0:125|01:00:00|1G\n7_2|CANCELLED by 0|0:0|1|1G\n"
    (folder / "bin/sacct").write_text(f"#!/bin/sh\nprintf '{lines}'\n")
    statuses = status_of(folder, cells)
    assert "out of memory: it used more than it asked for (1G)" in statuses[1].reason
    assert statuses[2].reason == "it was cancelled"
    assert statuses[3].state == "UNKNOWN"


# --- what came out --------------------------------------------------------------------------------------------------


def results_of(seed: int, accuracy: float, rate: float = 0.1) -> dict:
    entries = {"clean": {"accuracy": 0.9}, "pgd-2 linf 8/255": {"accuracy": accuracy}}
    results = {"by_perturbation": entries, "robust_accuracy": {"linf 8/255": accuracy}, "warnings": []}
    config = f"SEED: {seed}\nSOLVER:\n  BASE_LR: {rate}\n"
    return {"results": results, "seeds": {"training": seed, "evaluation": 0}, "config_hash": "x", "config": config}


def test_results_are_merged_and_a_failed_cell_is_never_averaged_away(submission, run_tool, capsys):
    folder, cells = submission
    for cell, accuracy in ((cells[1], 0.25), (cells[2], 0.75)):
        Path(cell.output).mkdir()
        (Path(cell.output) / "results.json").write_text(json.dumps(results_of(cell.seed, accuracy)))
    run_tool("submit_slurm", "collect", folder)
    document = json.loads((folder / "sweep_results.json").read_text())
    assert [cell["name"] for cell in document["cells"]] == ["c1", "c2"]
    assert [(one["name"], one["state"]) for one in document["missing"]] == [("c0", "FAILED"), ("c3", "PENDING")]
    assert document["missing"][0]["reason"] == "ConfigError: no such key"
    row = next(row for row in document["summary"] if row["metric"] == "robust accuracy, linf 8/255")
    assert row["mean"] == 0.5
    assert row["standard_deviation"] == pytest.approx(0.3535533905932738)
    assert row["by_seed"] == {"1": 0.25, "2": 0.75}
    assert row["missing_seeds"] == [0, 3]
    said = capsys.readouterr().out
    assert "| 2 of 4 (!) | 50.0 ± 35.4 |" in said
    assert "(!) c0 is missing (FAILED): ConfigError: no such key" in said
    assert document["warnings"] == []

    (Path(cells[2].output) / "results.json").write_text(json.dumps(results_of(2, 0.75, rate=0.2)))
    run_tool("submit_slurm", "collect", folder)
    different = "c1 and c2 were made with different settings: SOLVER.BASE_LR is 0.1 and 0.2"
    assert f"(!) {different}" in capsys.readouterr().out
    document = json.loads((folder / "sweep_results.json").read_text())
    assert document["warnings"] == [different]

    (Path(cells[2].output) / "results.json").write_text(json.dumps(results_of(9, 0.5)))
    with pytest.raises(RuntimeError, match="is of seed 9, and the plan says 2"):
        run_tool("submit_slurm", "collect", folder)
    assert json.loads((folder / "sweep_results.json").read_text()) == document


def test_one_seed_has_no_spread_and_detectors_have_ap():
    entries = {"clean": {"bbox": {"AP": 40.0}, "accuracy": 0.5}}
    entry = {"config": "a", "perturbation": "clean", "seed": 1, "results": {"by_perturbation": entries}}
    cell = Cell("c", "evaluate", (), "x", "a", 1, "clean")
    rows = {row["metric"]: row for row in summary_of([cell], [entry])}
    assert rows["bbox AP, clean"]["mean"] == pytest.approx(0.4)
    assert rows["accuracy, clean"]["standard_deviation"] is None
    assert rows["accuracy, clean"]["missing_seeds"] == []


def test_help_teaches(tmp_path):
    command = [sys.executable, str(REPOSITORY / "tools/submit_slurm.py")]
    said = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    for words in ("sweep --folder", "status output/sweep", "collect output/sweep", "--dry-run", "site.env"):
        assert words in said
