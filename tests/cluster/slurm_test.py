"""A rebuild on a Slurm cluster of two nodes on this machine, one of which is killed in its middle."""

import os
import shutil
import socket
import subprocess
import sys
import time
import unittest

from storage import BUCKET, CONTENT, ROOT, ClusterTest

ClusterTest.trawl = sys.argv.pop(1)
N_PARTS = 6
NODES = ["node-a", "node-b"]


def free_ports(n):
    taken = [socket.socket() for _ in range(n)]
    for port in taken:
        port.bind(("127.0.0.1", 0))
    numbers = [port.getsockname()[1] for port in taken]
    for port in taken:
        port.close()
    return numbers


class Rebuild(ClusterTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for name in ("bin", "state", "jobs"):
            (cls.folder / name).mkdir()
        (cls.folder / "bin/trawl").symlink_to(cls.trawl)
        cls.path = f"{cls.folder}/bin:/usr/sbin:{os.environ['PATH']}"
        cls.environment |= {"SLURM_CONF": f"{cls.folder}/slurm.conf", "PATH": cls.path}
        # What a task does is known as its node's work: to the bucket, and to whoever kills the node.
        prolog = cls.folder / "prolog"
        prolog.write_text("#!/bin/sh\necho export AWS_SESSION_TOKEN=$SLURMD_NODENAME\n"
                          f"echo export TRAWL_TEST_NODE={cls.folder}/$SLURMD_NODENAME\n")
        prolog.chmod(0o755)
        control, *daemons = free_ports(1 + len(NODES))
        nodes = [f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=1\n" for name, port in zip(NODES, daemons)]
        (cls.folder / "slurm.conf").write_text(f"""
ClusterName=trawl
SlurmctldHost={socket.gethostname()}(127.0.0.1)
SlurmctldPort={control}
SlurmUser=root
StateSaveLocation={cls.folder}/state
SlurmdSpoolDir={cls.folder}/%n
SlurmctldPidFile={cls.folder}/slurmctld.pid
SlurmdPidFile={cls.folder}/%n.pid
AuthType=auth/munge
# What is requeued waits for so many seconds; 120 by default.
AuthInfo=socket={cls.folder}/munge.socket,cred_expire=10
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog={prolog}
MpiDefault=none
SelectType=select/cons_tres
SchedulerParameters=sched_interval=5,bf_interval=5
SlurmdParameters=config_overrides
SlurmdTimeout=15
{"".join(nodes)}PartitionName=all Nodes={",".join(NODES)} Default=YES
""")
        key = cls.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        files = [f"--{name}={cls.folder}/munge.{name.split('-')[0]}" for name in ("socket", "key-file", "pid-file", "log-file", "seed-file")]
        cls.start("munged", "/usr/sbin/munged", "--foreground", "--force", *files)
        cls.start("slurmctld", "/usr/sbin/slurmctld", "-D", "-i")
        for node in NODES:
            cls.start(node, "/usr/sbin/slurmd", "-D", "-N", node)
        end = time.monotonic() + 60
        while cls.slurm("sinfo", "--noheader", "--format=%D %t").split() != ["2", "idle"]:
            assert time.monotonic() < end, "no two idle nodes"
            time.sleep(0.5)

    @classmethod
    def slurm(cls, *command):
        ended = subprocess.run([*map(str, command)], capture_output=True, text=True, env=cls.environment, cwd=cls.folder / "jobs", timeout=60)
        return ended.stdout.strip()

    def rebuild(self, url, *content, parts=N_PARTS):
        self.environment |= {"ENCODE_OPTIONS": "--cpus-per-task=1", "COMMIT_OPTIONS": "--cpus-per-task=1"}
        return self.slurm(ROOT / "deploy/slurm/rebuild", url, parts, *content).split()

    def job(self, name):
        words = self.slurm("scontrol", "--oneliner", "show", "job", name).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def ended(self, job, seconds=400):
        """The state of a job that has ended."""
        def state():
            found = self.job(job)["JobState"]
            return found in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL") and found
        return self.until(state, seconds)

    def logs(self):
        jobs = "".join(path.read_text() for path in self.folder.glob("jobs/*.out"))
        return super().logs() + self.slurm("squeue") + self.slurm("sinfo") + jobs

    def first_attempt(self, line):
        """Puts a line before the program that only its first run follows."""
        once, trawl = self.folder / "once", self.folder / "bin/trawl"
        trawl.unlink()
        trawl.write_text(f"#!/bin/sh\nmkdir {once} 2>/dev/null && {line}\nexec {self.trawl} \"$@\"\n")
        trawl.chmod(0o755)

    def test_1_a_part_that_fails_is_tried_again(self):
        self.first_attempt("exit 7")
        encode, commit = self.rebuild(f"s3://{BUCKET}/again", *CONTENT, parts=2)
        self.assertEqual(self.ended(commit), "COMPLETED")
        self.assertEqual(sorted(self.job(f"{encode}_{i}")["Restarts"] for i in range(2)), ["0", "1"])
        [listed] = self.run_trawl("index", "list", f"s3://{BUCKET}/again")
        self.assertEqual(listed["content_digest"], self.alone["content_digest"])

    def test_2_bad_input_is_not_tried_again(self):
        bad = self.folder / "bad.jsonl"
        bad.write_text("not json\n")
        encode, commit = self.rebuild(f"s3://{BUCKET}/bad", "--corpus", bad, *CONTENT[2:], parts=1)
        self.assertEqual(self.ended(f"{encode}_0"), "FAILED")
        found = self.job(f"{encode}_0")
        self.assertEqual((found["ExitCode"], found["Restarts"]), ("65:0", "0"))
        self.assertEqual(self.ended(commit), "CANCELLED")

    def test_3_a_lost_node_costs_its_parts_and_nothing_else(self):
        url = f"s3://{BUCKET}/lost"
        self.records.created.clear()
        self.records.hold("node-b")
        encode, commit = self.rebuild(url, *CONTENT)
        self.until(self.records.held.is_set)
        [lost] = [i for i in range(N_PARTS) if self.job(f"{encode}_{i}").get("NodeList") == "node-b"
                  and self.job(f"{encode}_{i}")["JobState"] == "RUNNING"]
        killed = time.monotonic()
        self.kill("node-b")
        self.until(lambda: not list(self.of_node("node-b")))
        n_requests = self.records.n_requests["node-b"]
        self.assertEqual(self.ended(commit), "COMPLETED")
        print(f"complete {time.monotonic() - killed:.0f} s after the kill; lost part: {lost}", flush=True)
        restarts = {i: self.job(f"{encode}_{i}")["Restarts"] for i in range(N_PARTS)}
        self.assertEqual(restarts, {i: "1" if i == lost else "0" for i in range(N_PARTS)})
        self.assertEqual(self.records.n_requests["node-b"], n_requests, "an orphan went on")
        self.assert_built_as_by_one_process(url, N_PARTS)


if __name__ == "__main__":
    if missing := [program for program in ("slurmctld", "slurmd", "munged") if not shutil.which(program, path="/usr/sbin")]:
        sys.exit(f"{' and '.join(missing)} not found: apt-get install slurmctld slurmd slurm-client munge")
    unittest.main(verbosity=2)
