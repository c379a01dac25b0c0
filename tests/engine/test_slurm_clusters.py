"""What clusters do to a submission; programs that answer what they are told stand for Slurm's own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from submitit.core.utils import DelayedSubmission

from partbox.engine.checks import ConfigError
from partbox.engine.slurm import status
from partbox.engine.slurm.collect import differing_settings
from partbox.engine.slurm.job import SlurmError, UnknownJob, ask, parse_jobs, show_jobs
from partbox.engine.slurm.plan import Cell, save_plan, sweep_of_configurations, sweep_of_runs
from partbox.engine.slurm.site import check_time, gpus_on_a_node, load_site, over, parse_options, seconds_of
from partbox.engine.slurm.status import NO_ANSWER, status_of
from partbox.engine.slurm.submission import SUBMISSIONS, Resources, dry_run, largest_array, submit

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "configs/example/part_box.yaml"
SITE = load_site(REPOSITORY / "scripts/slurm/site.env")
SBATCH = """\
#!/bin/sh
env >"{folder}/environment"
n=$(cat "{folder}/count" 2>/dev/null || echo 40); n=$((n + 1)); echo $n >"{folder}/count"
[ $n -le {most} ] || {{ echo "sbatch: error: Batch job submission failed: {words}" >&2; exit 1; }}
cp "$1" "{folder}/script$n"
echo "Submitted batch job $n"
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Install programs: what scontrol answers, and how many submissions sbatch takes; the folder of what it got."""
    (tmp_path / "bin").mkdir()
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_", "PARTBOX_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def install(scontrol: str = "exit 1", sbatch: int = 1000) -> Path:
        refused = "Job violates accounting/QOS policy"
        programs = {
            "scontrol": f"#!/bin/sh\n{scontrol}\n",
            "sacct": "#!/bin/sh\nexit 1\n",
            "srun": "#!/bin/sh\n",
            "sbatch": SBATCH.format(folder=tmp_path, most=40 + sbatch, words=refused),
        }
        for name, text in programs.items():
            (tmp_path / "bin" / name).write_text(text)
            (tmp_path / "bin" / name).chmod(0o755)
        return tmp_path

    return install


def cells_of(folder: Path, count: int, kind: str = "evaluate", training: str = "") -> list[Cell]:
    return [
        Cell(f"{kind}{i}", kind, ("tools/train_net.py",), str(folder / f"{kind}{i}"), "a", i, "clean", training)
        for i in range(count)
    ]


def line(text: str, option: str) -> str | None:
    """The value of an option in a batch script; None where it is not there, an error where it is there twice."""
    found = re.findall(rf"(?m)^#SBATCH --{option}(?:=(.*))?$", text)
    assert len(found) < 2
    return found[0] if found else None


def script(options: dict[str, str], folder: Path, site: dict[str, str] | None = None, **more: object) -> str:
    """The batch script for a job with options of the command line, over those of a site."""
    resources = Resources(type(SITE)(SITE.file, site or {}, **more), options)
    return dry_run(cells_of(folder, 1), folder, resources, "x")


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "tasks"),
    [
        ({"gpus-per-node": "4"}, "4"),
        ({"gpus-per-node": "a100:4"}, "4"),
        ({"gres": "gpu:a100:2,disk:7"}, "2"),
        ({"gpus-per-node": "1"}, None),
        ({"gpus-per-node": "a100"}, None),
        ({}, None),
        ({"gpus-per-node": "4", "ntasks": "2"}, None),
        ({"gpus-per-node": "4", "ntasks-per-node": "2"}, "2"),
    ],
)
def test_slurm_hears_of_one_task_per_gpu_and_so_gives_the_cpus_of_all(tmp_path, options, tasks):
    assert line(script(options, tmp_path), "ntasks-per-node") == tasks
    assert line(script({}, tmp_path, options), "ntasks-per-node") == tasks


def test_gpus_are_counted_as_slurm_writes_them():
    assert gpus_on_a_node({"gpus-per-node": "a100:2,v100:1"}) == 3
    assert gpus_on_a_node({"gres": "gpu"}) == 1
    assert gpus_on_a_node({"gres": "gpu_mem:80"}) == 0


def test_memory_that_is_asked_for_displaces_the_sites_of_another_kind(tmp_path):
    """Slurm refuses --mem beside --mem-per-cpu."""
    text = script({"mem": "64G"}, tmp_path, {"mem-per-cpu": "2G", "partition": "gpu"})
    assert (line(text, "mem"), line(text, "mem-per-cpu"), line(text, "partition")) == ("64G", None, "gpu")
    assert over({"mem": "1G"}, {"time": "1"}) == {"mem": "1G", "time": "1"}


def test_no_requeue_is_obeyed(tmp_path):
    assert line(script({}, tmp_path), "requeue") == ""
    text = script(parse_options("--no-requeue", "--extra"), tmp_path)
    assert line(text, "requeue") is None
    assert line(text, "no-requeue") == ""
    assert line(script({"requeue": ""}, tmp_path, {"no-requeue": ""}), "no-requeue") is None


def test_a_dependency_of_the_user_is_kept_beside_that_on_the_trainings(tmp_path):
    cells = [*cells_of(tmp_path, 1, "train"), *cells_of(tmp_path, 1, training="train0")]
    text = dry_run(cells, tmp_path, Resources(SITE, {"dependency": "afterok:3"}), "x")
    assert re.findall("--dependency=(.*)", text) == ["afterok:3", "afterany:JOB_OF_THE_TRAININGS,afterok:3"]


@pytest.mark.parametrize("option", ["--output=x", "--array=1-3", "--open-mode=truncate", "--chdir=/tmp", "--wrap=true"])
def test_what_a_submission_decides_itself_cannot_be_given(option):
    with pytest.raises(ConfigError, match=f"--extra: {option.split('=')[0]} is what a submission gives"):
        parse_options(option, "--extra")


def test_a_quotation_mark_that_is_left_open_is_named():
    with pytest.raises(ConfigError, match="--extra: No closing quotation"):
        parse_options("--comment='a", "--extra")


def test_a_folder_may_be_called_as_slurm_calls_its_numbers(tmp_path):
    folder = tmp_path / "50%a %j"
    text = script({}, folder)
    assert line(text, "output") == f"'{tmp_path}/50%%a %%j/logs/%j.log'"
    array = dry_run(cells_of(folder, 2), folder, Resources(SITE), "x")
    assert line(array, "output") == f"'{tmp_path}/50%%a %%j/logs/%A_%a.log'"


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("5", 300),
        ("5:30", 330),
        ("1:00:00", 3600),
        ("2-0", 172800),
        ("1-02:30", 95400),
        ("1-00:00:01", 86401),
        ("UNLIMITED", None),
        ("", None),
        ("1:2:3:4", None),
    ],
)
def test_time_limits_are_read_as_slurm_writes_them(limit, seconds):
    assert seconds_of(limit) == seconds


def test_a_signal_that_comes_at_once_is_refused_before_anything_is_submitted():
    """Each start would do one step: a hundred starts, a hundred steps."""
    check_time({"time": "1:00:00", "signal": "B:USR1@120"})
    check_time({"signal": "B:USR1@120"})
    check_time({"time": "4", "signal": "USR1"})
    for limit in ("1:00", "3", "0-0:3"):
        with pytest.raises(ConfigError, match="no time to run"):
            check_time({"time": limit, "signal": "B:USR1@120"})
    with pytest.raises(ConfigError, match="no time to run"):
        check_time({"time": "2", "signal": "B:USR1"})
    with pytest.raises(ConfigError, match="would kill it"):
        check_time({"signal": "B:INT@120"})


def test_the_tool_checks_the_time(run_tool, cluster, tmp_path):
    cluster()
    asked = ["--config-file", CONFIG, "--time", "2:00", "--dry-run", "OUTPUT_DIR", tmp_path / "run"]
    with pytest.raises(ConfigError, match=r"--time=2:00 is 120 s"):
        run_tool("submit_slurm", "train", *asked)
    run_tool("submit_slurm", "train", "--signal-seconds", "30", *asked)


def test_a_number_of_starts_that_means_nothing_is_found_before_the_job_is_interrupted(tmp_path):
    (tmp_path / "site.env").write_text("PARTBOX_MAX_STARTS=many\n")
    with pytest.raises(ConfigError, match=r"line 1: PARTBOX_MAX_STARTS must be a whole number"):
        load_site(tmp_path / "site.env")


def test_a_seed_below_0_is_refused(run_tool, cluster, tmp_path, capsys):
    """It means another one each time, so that no results would be of the seed of the plan."""
    cluster()
    with pytest.raises(SystemExit):
        run_tool(
            "submit_slurm",
            "sweep",
            "--configs",
            CONFIG,
            "--seeds=1,-1",
            "--perturbation",
            "clean",
            "--folder",
            tmp_path,
        )
    assert "a seed is at least 0" in capsys.readouterr().err


def test_the_python_of_the_site_file_counts_where_nobody_asked_for_another(tmp_path, monkeypatch):
    monkeypatch.delenv("PARTBOX_PYTHON", raising=False)
    (tmp_path / "site.env").write_text("PARTBOX_PYTHON=/envs/partbox/bin/python\n")
    site = load_site(tmp_path / "site.env")
    assert "export PARTBOX_PYTHON" not in dry_run(cells_of(tmp_path, 1), tmp_path, Resources(site), "x")
    assert f"export PARTBOX_PYTHON={sys.executable}" in script({}, tmp_path)
    monkeypatch.setenv("PARTBOX_PYTHON", "/mine")
    assert "export PARTBOX_PYTHON=/mine" in dry_run(cells_of(tmp_path, 1), tmp_path, Resources(site), "x")


# --- submitting ------------------------------------------------------------------------------------------------------


def test_a_job_does_not_inherit_the_variables_of_the_job_that_it_is_submitted_from(cluster, tmp_path, monkeypatch):
    folder = cluster()
    others = ("SLURM_NTASKS", "SLURM_CPUS_PER_TASK", "SRUN_CPUS_PER_TASK", "SBATCH_PARTITION")
    for name in (*others, "SLURM_CONF"):
        monkeypatch.setenv(name, "7")
    submit(cells_of(tmp_path, 1), tmp_path, Resources(SITE), "x", {})
    seen = {one.split("=")[0] for one in (folder / "environment").read_text().splitlines()}
    assert "SLURM_CONF" in seen
    assert not seen & set(others)
    assert os.environ["SLURM_NTASKS"] == "7"


def test_more_cells_than_an_array_may_have_are_several_arrays(cluster, tmp_path):
    folder = cluster("echo 'MaxArraySize            = 3'")
    assert largest_array() == 3
    cells = [*cells_of(tmp_path, 4, "train"), *cells_of(tmp_path, 7, training="train3")]
    new = submit(cells, tmp_path, Resources(SITE, parallel=2), "x", {})
    assert [list(entry["cells"]) for entry in new] == [
        ["41_0", "41_1", "41_2"],
        ["42"],
        ["43_0", "43_1", "43_2"],
        ["44_0", "44_1", "44_2"],
        ["45"],
    ]
    assert [name for entry in new for name in entry["cells"].values()] == [cell.name for cell in cells]
    texts = [(folder / f"script{number}").read_text() for number in range(41, 46)]
    assert [line(text, "array") for text in texts] == ["0-2%2", None, "0-2%2", "0-2%2", None]
    # no more than two at once, and none before its training
    after = [line(text, "dependency") for text in texts]
    assert after == [None, "afterany:41", "afterany:42", "afterany:42:43", "afterany:42:44"]
    assert json.loads((tmp_path / SUBMISSIONS).read_text())["submissions"] == new
    shown = dry_run(cells, tmp_path, Resources(SITE), "x")
    assert re.findall("--array=(.*)", shown) == ["0-2%3"] * 3
    assert "ARRAY_BEFORE" not in shown


@pytest.mark.parametrize(
    ("answer", "most"),
    [
        ("echo 'MaxArraySize            = 5001'", 5001),
        ("printf 'MaxArraySize = 5001\\nSchedulerParameters = a=1,max_array_tasks=500\\n'", 500),
        ("exit 1", 1001),
        ("echo nothing", 1001),
    ],
)
def test_the_largest_array_is_what_the_cluster_says(cluster, answer, most):
    cluster(answer)
    assert largest_array() == most


def test_a_submission_that_is_refused_half_way_says_what_was_submitted(cluster, tmp_path):
    cluster(sbatch=1)
    cells = [*cells_of(tmp_path, 2, "train"), *cells_of(tmp_path, 2, training="train0")]
    with pytest.raises(SlurmError, match=r"QOS policy \(job 41 was submitted before; the same command again"):
        submit(cells, tmp_path, Resources(SITE), "x", {})
    assert len(json.loads((tmp_path / SUBMISSIONS).read_text())["submissions"]) == 1
    with pytest.raises(SlurmError, match=r"QOS policy$"):
        submit(cells[2:], tmp_path, Resources(SITE), "x", {"train0": "41_0"})


def test_an_evaluation_of_a_sweep_waits_for_the_end_of_its_training_and_not_for_good_weights(cluster, tmp_path):
    """The best weights of an unfinished training would pass for results."""
    cluster()
    cells = sweep_of_configurations([CONFIG], [0], [{"name": "clean"}], tmp_path / "sweep", [])
    run = tmp_path / "sweep/runs/part_box-seed0"
    assert cells[1].needs == str(run / "model_final.pth")
    run.mkdir(parents=True)
    (run / "model_best.pth").write_text("")
    code = "import sys; from partbox.engine.slurm.task import run_tool; run_tool(*sys.argv[1:2], [], *sys.argv[2:])"
    (tmp_path / "tool.py").write_text("print('evaluated')")

    def begin() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, str(tmp_path / "tool.py"), cells[1].needs]
        return subprocess.run(command, capture_output=True, text=True)

    assert re.search(r"^SlurmError: the training has not finished, .*model_final\.pth is missing", begin().stderr)
    assert "evaluated" not in begin().stdout
    (run / "model_final.pth").write_text("")
    assert begin().stdout == "evaluated\n"
    submit(cells, tmp_path, Resources(SITE), "x", {})
    given = [DelayedSubmission.load(tmp_path / f"submitit/{job}_submitted.pkl").args for job in (41, 42)]
    assert [needs for _, _, needs in given] == ["", cells[1].needs]


def test_runs_that_have_not_finished_are_refused(teacher, tmp_path):
    run = teacher(name="a")
    (run / "model_best.pth").write_bytes((run / "model_final.pth").read_bytes())
    (run / "resume_0000007.pth").write_text("")
    (cell,) = sweep_of_runs([run], [{"name": "clean"}], tmp_path / "sweep", [])
    assert str(run / "model_best.pth") in cell.command
    assert cell.needs == ""
    (run / "model_final.pth").unlink()
    with pytest.raises(ConfigError, match="it is no finished training"):
        sweep_of_runs([run], [{"name": "clean"}], tmp_path / "sweep", [])
    (run / "resume_0000007.pth").unlink()  # a copy of the best weights alone
    assert len(sweep_of_runs([run], [{"name": "clean"}], tmp_path / "sweep", [])) == 1


# --- what became of it -----------------------------------------------------------------------------------------------


def submitted(where: Path, count: int = 2, **more: str) -> list[Cell]:
    cells = cells_of(where, count)
    save_plan(where, cells)
    entry = {"job": "7", "submitted": "", "cells": {f"7_{i}": cell.name for i, cell in enumerate(cells)}, **more}
    (where / SUBMISSIONS).write_text(json.dumps({"submissions": [entry]}))
    (where / "logs").mkdir()
    return cells


def test_a_controller_that_does_not_answer_is_no_job_that_ended(run_tool, cluster, tmp_path, monkeypatch, capsys):
    """Else the same run would be submitted a second time."""
    cluster("echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1")
    cells = submitted(tmp_path, 3)
    (tmp_path / "logs/7_0.log").write_text("ValueError: of an earlier start\n")
    (tmp_path / "failures").mkdir()
    (tmp_path / "failures/7_1.txt").write_text("ConfigError: no\n")
    Path(cells[2].output).mkdir()
    Path(cells[2].output, "results.json").write_text("{}")
    states = status_of(tmp_path, cells)
    assert [one.state for one in states] == [NO_ANSWER, "FAILED", "FINISHED"]
    assert "Unable to contact slurm controller" in states[0].reason
    monkeypatch.setattr("partbox.engine.slurm.plan.single", lambda *_: cells[0])
    (tmp_path / "plan.json").unlink()
    save_plan(tmp_path, cells[:1])
    with pytest.raises(SlurmError, match=r"nothing was submitted: job 7_0 of evaluate0, whether it still runs"):
        run_tool("submit_slurm", "eval", "--config-file", CONFIG, "--folder", tmp_path, "OUTPUT_DIR", tmp_path / "x")
    assert not (tmp_path / "count").exists()
    (tmp_path / "bin/scontrol").unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert "not on PATH" in status_of(tmp_path, cells)[0].reason


def test_slurm_that_answers_and_knows_no_such_job_has_forgotten_it(cluster, tmp_path):
    cluster("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    with pytest.raises(UnknownJob):
        show_jobs("7")
    assert [one.state for one in status_of(tmp_path, submitted(tmp_path))] == ["UNKNOWN"] * 2


def test_all_waiting_tasks_of_an_array_are_seen_however_slurm_abbreviates_them(cluster, tmp_path):
    """Every second one, after somebody cancelled the others; and more than Slurm writes unless it is told to."""
    job = "JobId=7 ArrayJobId=7 ArrayTaskId={} JobName=x\\n   JobState=PENDING Reason=Priority\\n"
    cluster(f"printf '{job.format('0-6:2%%3')}'")
    states = [one.state for one in status_of(tmp_path, submitted(tmp_path, 8))]
    assert states == ["PENDING", "UNKNOWN"] * 4
    cluster(f"[ \"$SLURM_BITSTR_LEN\" = 0 ] && printf '{job.format('0,2-3,7')}' || printf '{job.format('0,2-...')}'")
    states = [one.state for one in status_of(tmp_path, cells_of(tmp_path, 8))]
    assert [i for i, state in enumerate(states) if state == "PENDING"] == [0, 2, 3, 7]


def test_a_job_of_the_same_number_on_a_slurm_that_began_anew_is_another_one(cluster, tmp_path):
    task = "JobId={0} ArrayJobId=7 ArrayTaskId={0} JobName=x\\n   JobState=RUNNING\\n   StdOut={1}/logs/7_{0}.log\\n"
    cluster(f"printf '{task.format(0, tmp_path)}{task.format(1, '/elsewhere')}'")
    assert [one.state for one in status_of(tmp_path, submitted(tmp_path, folder=str(tmp_path)))] == [
        "RUNNING",
        "UNKNOWN",
    ]


def test_paths_with_blanks_are_read_whole_and_arguments_are_no_fields():
    text = "JobId=3 JobState=RUNNING\n   Command=/my house/train.sbatch A JobState=FAILED\n   StdOut=/my runs/3.log\n"
    (job,) = parse_jobs(text)
    assert job == {
        "JobId": "3",
        "JobState": "RUNNING",
        "Command": "/my house/train.sbatch A JobState=FAILED",
        "StdOut": "/my runs/3.log",
    }


def test_somebody_who_may_not_write_there_can_look(cluster, tmp_path, monkeypatch):
    cluster("printf 'JobId=7 ArrayJobId=7 ArrayTaskId=0-1 JobName=x\\n   JobState=FAILED ExitCode=3:0\\n'")
    cells = submitted(tmp_path)

    def refuse(path: Path, _text: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(status, "write_text", refuse)
    assert [one.state for one in status_of(tmp_path, cells)] == ["FAILED"] * 2


def test_a_start_of_an_evaluation_in_four_processes_is_one_start(cluster, tmp_path):
    cluster()
    cells = submitted(tmp_path, 1)
    Path(cells[0].output).mkdir()
    lines = [f"T host=h processes=1 part={i}/4 job=7 requeued={n}  x A part=3/4" for n in (0, 1) for i in range(4)]
    Path(cells[0].output, "command.txt").write_text("\n".join(lines) + "\nT host=h processes=1  x part=3/4\n")
    assert status_of(tmp_path, cells)[0].starts == 3


def test_results_whose_plan_is_gone_do_not_pass_for_those_of_another_plan(cluster, tmp_path):
    cluster()
    folder = tmp_path / "sweep"
    cells = sweep_of_configurations([CONFIG], [0], [{"name": "clean"}], folder, [])
    save_plan(folder, cells)
    Path(cells[1].output).mkdir(parents=True)
    save_plan(folder, cells)
    (folder / "plan.json").unlink()
    with pytest.raises(ConfigError, match=r"cells/part_box-seed0--clean is of a submission whose plan\.json is gone"):
        save_plan(folder, cells)


def test_an_answer_that_is_refused_for_another_reason_is_no_forgotten_job(cluster):
    cluster("echo 'Access/permission denied' >&2; exit 1")
    with pytest.raises(SlurmError, match="permission denied") as caught:
        ask("scontrol", "show", "job", "7")
    assert not isinstance(caught.value, UnknownJob)


def test_seeds_that_were_made_with_different_settings_are_named():
    """Somebody edited the configuration's file between two submissions: their mean means nothing."""
    config = "OUTPUT_DIR: a\nSEED: {}\nMODEL:\n  DEVICE: {}\n  WEIGHTS: {}\nSOLVER:\n  BASE_LR: {}\n"
    one, two = config.format(1, "cpu", "a.pth", 0.1), config.format(2, "cuda", "b.pth", 0.1)
    assert differing_settings({"a": one, "b": two, "c": one}) == []
    (sentence,) = differing_settings({"a": one, "b": two, "c": config.format(3, "cpu", "c.pth", 0.2)})
    assert sentence == "a and c were made with different settings: SOLVER.BASE_LR is 0.1 and 0.2"
