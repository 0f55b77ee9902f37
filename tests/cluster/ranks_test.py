"""Two ranks of a training run on this machine, started by real launchers; one of them is killed and the run goes on."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRAWL = sys.argv.pop(1)
CONFIG = f"""
[model]
path = "{ROOT}/tests/fixtures/models/tiny-bert"

[data]
batch_size = 8
group_size = 1

[[data.train]]
dataset = "{ROOT}/tests/fixtures/sample"
split = "test"

[objective]
name = "bi_encoder"
query_tokens = 16
passage_tokens = 48

[schedule]
max_steps = 200

[run]
save_every = 5
evaluate_every = "never"

[engine]
threads = 1
"""


def free_port():
    """A port that no connection is given by chance before it is used, as those from 32768 on are."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as taken:
            try:
                taken.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


def torchrun(command):
    return [shutil.which("torchrun"), "--no-python", "--nproc-per-node", "2", "--max-restarts", "1",
            "--master-addr", "127.0.0.1", "--master-port", str(free_port()), *command]


def mpirun(command):
    return ["mpirun", "-np", "2", "--oversubscribe", "--bind-to", "none", "-x", "MASTER_ADDR", "-x", "MASTER_PORT", *command]


def mpi(command):
    return mpirun([*command, "--mpi"])


def has_mpi():
    return "libmpi" in subprocess.run(["ldd", TRAWL], capture_output=True, text=True, check=True).stdout


class Ranks(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="trawl-ranks-")))
        cls.config = cls.folder / "train.toml"
        cls.config.write_text(CONFIG)
        cls.run_alone = subprocess.run(cls.train("alone"), capture_output=True, text=True, timeout=600)

    @classmethod
    def train(cls, name):
        return [TRAWL, "--quiet", "train", str(cls.config), "--out", str(cls.folder / name)]

    def start(self, launcher, name):
        """Starts two ranks of a run that goes on where it was."""
        environment = os.environ | {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1",
            "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        }
        command = launcher([*self.train(name), "--resume"])
        with (self.folder / f"{name}.log").open("a") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self.addCleanup(process.wait)
        self.addCleanup(process.terminate)
        return process

    def ranks(self, name):
        """Processes of the run by their ranks."""
        command = "\0".join(self.train(name)).encode()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if process.joinpath("cmdline").read_bytes().startswith(command + b"\0"):
                    variables = process.joinpath("environ").read_bytes().decode().split("\0")
                    variables = dict(one.split("=", 1) for one in variables if "=" in one)
                    yield int(variables.get("RANK") or variables["OMPI_COMM_WORLD_RANK"]), int(process.name)
            except (FileNotFoundError, ProcessLookupError, KeyError):  # One that has ended has no variables.
                continue

    def kill_rank_1(self, process, name):
        """Kills it after the first checkpoint, unless it has ended by then."""
        end = time.monotonic() + 300
        while not list(self.folder.glob(f"{name}/checkpoints/step-*")):
            self.assertIsNone(process.poll(), self.log(name))
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)
        for pid in [pid for rank, pid in self.ranks(name) if rank == 1]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def until_killed_in_time(self, launcher, name, is_in_time):
        """Starts ranks and kills one, anew where all steps were done before; returns how the launcher ended."""
        for _ in range(5):
            process = self.start(launcher, name)
            self.kill_rank_1(process, name)
            code = process.wait(600)
            if is_in_time():
                return code
            shutil.rmtree(self.folder / name)
        self.fail(f"every kill came too late: {self.log(name)}")

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()

    def losses(self, name):
        lines = map(json.loads, (self.folder / name / "metrics.jsonl").read_text().splitlines())
        return [line["loss"] for line in lines if line["kind"] == "train"]

    def weights(self, name):
        return (self.folder / name / "export/model.safetensors").read_bytes()

    def end_well(self, process, name):
        self.assertEqual(process.wait(600), 0, self.log(name))

    def check(self, name, launcher):
        """Compares a run that was disturbed with one that was not, and that with one process."""
        self.assertEqual(self.run_alone.returncode, 0, self.run_alone.stderr)
        undisturbed = f"{name}-undisturbed"
        self.end_well(self.start(launcher, undisturbed), undisturbed)
        self.assertEqual(self.losses(name), self.losses(undisturbed))
        self.assertEqual(self.weights(name), self.weights(undisturbed))
        # Rounding grows with the steps.
        for alone, together in zip(self.losses("alone")[:20], self.losses(name), strict=False):
            self.assertAlmostEqual(alone, together, delta=1e-5 * alone)

    @unittest.skipUnless(shutil.which("torchrun"), "there is no torchrun")
    def test_torchrun_starts_all_ranks_again(self):
        code = self.until_killed_in_time(torchrun, "torchrun", lambda: "rank 1 is gone" in self.log("torchrun"))
        self.assertEqual(code, 0, self.log("torchrun"))
        self.check("torchrun", torchrun)

    def check_mpirun(self, name, launcher):
        # Without rank 1 there is no export, unless it was killed after the last step.
        code = self.until_killed_in_time(launcher, name, lambda: not (self.folder / name / "export").exists())
        self.assertNotEqual(code, 0)
        end = time.monotonic() + 60
        while list(self.ranks(name)) and time.monotonic() < end:
            time.sleep(0.02)
        self.assertEqual(list(self.ranks(name)), [])
        self.end_well(self.start(launcher, name), name)
        self.check(name, launcher)

    @unittest.skipUnless(shutil.which("mpirun"), "there is no mpirun")
    def test_mpirun_ends_all_ranks_and_the_same_command_goes_on(self):
        self.check_mpirun("mpirun", mpirun)

    @unittest.skipUnless(has_mpi(), "trawl was built without MPI")
    def test_so_it_does_over_mpi(self):
        self.check_mpirun("mpi", mpi)


if __name__ == "__main__":
    unittest.main(verbosity=2)
