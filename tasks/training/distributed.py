"""Fine-tuning in several processes: `torchrun` starts them, and each runs this module.

On more than one host, every host runs `torchrun ... -m tasks.training.distributed JOB` on the same job file, which lies
in the run's directory on shared storage; the flow's own host does so when torchrun's PET_ variables tell it of others.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from pydantic import TypeAdapter

from serving.errors import DeviceError
from tasks.progress import Progress, silent
from tasks.training.errors import TrainingError
from tasks.training.parallel import joined
from tasks.training.tuning import Job, tune

JOB = "finetune.json"
_MARK = "thaw "  # before each line that is meant for the launching process
_JOBS = TypeAdapter(Job)
_ELSEWHERE = "PET_RDZV_ENDPOINT"  # torchrun's own: where the hosts meet
_END_SECONDS = 60


def launch(job: Job, progress: Progress) -> None:
    """Runs the job in `job.processes` processes of this machine, and waits. Interrupted, they save and end.

    Writes `run/finetune.json` and `run/finetune/`. Raises TrainingError, and DeviceError: fewer GPUs than processes.
    """
    if job.device == "cuda" and job.processes > torch.cuda.device_count():
        raise DeviceError(
            f"expected a GPU for each of {job.processes} processes, found {torch.cuda.device_count()}: lower "
            "runtime.processes"
        )
    job.run.mkdir(parents=True, exist_ok=True)
    place = job.run / JOB
    place.write_bytes(_JOBS.dump_json(job))
    # what torch.distributed.run does with its own arguments: a rendezvous of this machine's own unless told another
    where = [] if _ELSEWHERE in os.environ else ["--standalone"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *where, f"--nproc-per-node={job.processes}"]
    threads = max(1, torch.get_num_threads() // job.processes) if job.device == "cpu" else 1
    environment = {"OMP_NUM_THREADS": str(threads)} | ({} if _ELSEWHERE in os.environ else _LOOPBACK)
    command = [*torchrun, "-m", "tasks.training.distributed", str(place)]
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, text=True, env=os.environ | environment
        ) as process,
    ):
        try:
            error = _follow(process, progress)
            if process.wait():
                said.seek(0)
                error = error or f"expected the processes of a training to end well, found: {said.read()[-2000:]}"
                raise TrainingError(error)
        except BaseException:
            process.terminate()  # torchrun hands it on, and rank 0 writes a checkpoint
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            raise


_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}


def _follow(process: subprocess.Popen[str], progress: Progress) -> str:
    """Passes on what rank 0 says until all have ended. Its error, if it told one."""
    assert process.stdout is not None
    error = ""
    for line in process.stdout:
        if not line.startswith(_MARK):  # a library's print
            continue
        told = json.loads(line.removeprefix(_MARK))
        if "error" in told:
            error = told["error"]
        else:
            progress(**told)
    return error


def main() -> None:
    """One of the processes. Rank 0 says on stdout, line by line in JSON, how far it is, or its error."""
    job = _JOBS.validate_json(Path(sys.argv[1]).read_bytes())
    signal.signal(signal.SIGTERM, _stop)
    first = False
    try:
        with joined(job.device) as (group, device):
            first = group.rank == 0
            tune(job, _say if first else silent, group, device)
    except BaseException as error:  # _stop's too: by now rank 0 has written its checkpoint
        if isinstance(error, TrainingError) and first:
            _tell({"error": str(error)})
        else:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # an orderly end would wait for the others


def _say(done: int, total: int, text: str = "") -> None:
    _tell({"done": done, "total": total, "text": text})


def _tell(body: dict[str, Any]) -> None:
    print(_MARK + json.dumps(body), flush=True)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
