"""A Milvus cluster on this machine, for tests: every role a process of its own, etcd, S3 (moto) and Kafka (librdkafka's mock broker).

Prints where it is as one line of JSON when every role is healthy, and ends everything it started on SIGTERM, on Ctrl-C or after S seconds.
Needs `etcd` in the path (Debian: etcd-server). The mock broker keeps the log in memory: this is for tests only.
"""

import argparse
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import boto3
import milvus
from confluent_kafka import Producer
from moto.server import ThreadedMotoServer

BUCKET = "milvus"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
COORDINATORS = ["rootcoord", "datacoord", "querycoord", "indexcoord"]
ROLES = ["rootCoord", "dataCoord", "queryCoord", "indexCoord", "proxy", "queryNode", "dataNode", "indexNode"]
START = 180
BINARIES = Path(sys.prefix) / "bin"
NUMBERS = Path("/tmp/milvus")  # Where every process leaves its number in the cluster.


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Cluster:
    def __init__(self, query_nodes=2, proxies=2):
        self.folder = Path(tempfile.mkdtemp(prefix="milvus-"))
        self.processes = {}
        self.health = {}
        self.s3 = None
        self.proxies = []
        try:
            self.start(query_nodes, proxies)
        except BaseException:
            self.stop()
            raise

    def start(self, query_nodes, proxies):
        milvus._initialize_data_files(sys.prefix)  # Unpacks once.
        self.kafka = Producer({"bootstrap.servers": "unused:1", "test.mock.num.brokers": 1, "log_level": 0})
        [broker] = self.kafka.list_topics(timeout=10).brokers.values()
        [s3_port, etcd_port, peer_port] = free_ports(3)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.s3 = ThreadedMotoServer(ip_address="127.0.0.1", port=s3_port, verbose=False)
        self.s3.start()
        self.endpoint = f"http://127.0.0.1:{s3_port}"
        session = boto3.Session("test", "test", region_name="us-east-1")
        self.storage = session.client("s3", endpoint_url=self.endpoint)
        self.storage.create_bucket(Bucket=BUCKET)
        client, peer = f"http://127.0.0.1:{etcd_port}", f"http://127.0.0.1:{peer_port}"
        self.run(
            "etcd",
            ["etcd", "--name", "etcd", "--data-dir", self.folder / "etcd", "--listen-client-urls", client]
            + ["--advertise-client-urls", client, "--listen-peer-urls", peer]
            + ["--initial-advertise-peer-urls", peer, "--initial-cluster", f"etcd={peer}"],
        )
        self.config = {
            "etcd": {"endpoints": f"127.0.0.1:{etcd_port}", "rootPath": "test"},
            "minio": {"address": "127.0.0.1", "port": s3_port, "accessKeyID": "test", "secretAccessKey": "test"}
            | {"useSSL": False, "bucketName": BUCKET, "rootPath": "files", "region": "us-east-1", "cloudProvider": "aws"},
            "mq": {"type": "kafka"},
            "kafka": {"brokerList": f"127.0.0.1:{broker.port}"},
            # A process that has no CPU for so long is given up: machines of tests are busy.
            "common": {"storageType": "minio", "session": {"ttl": 60}},
            # By default a proxy asks a query node that is gone ten times before it asks another.
            "grpc": {"client": {"maxMaxAttempts": 2, "initialBackoff": 0.01, "maxBackoff": 0.05}},
            "log": {"level": "warn"},
        }
        self.role("coordinators", ["mixture", *(f"-{role}" for role in COORDINATORS)])
        self.role("datanode", ["datanode"])
        self.role("indexnode", ["indexnode"])
        for i in range(query_nodes):
            self.start_query_node(i)
        for i in range(proxies):
            self.start_proxy(i)
        self.until(self.answers, "answer")

    def start_query_node(self, i):
        self.role(f"querynode-{i}", ["querynode"])

    def start_proxy(self, i):
        ports = self.role(f"proxy-{i}", ["proxy"])
        self.proxies[i : i + 1] = [f"127.0.0.1:{ports['proxy']}"]

    def role(self, name, arguments):
        """Starts a process of Milvus with ports of its own; returns them by role."""
        folder = self.folder / name
        (folder / "configs").mkdir(parents=True, exist_ok=True)
        ports = free_ports(len(ROLES) + 2)
        config = self.config | {"localStorage": {"path": str(folder / "data")}}
        config |= {role: {"ip": "127.0.0.1", "port": port} for role, port in zip(ROLES, ports)}
        config["proxy"]["internalPort"] = ports[-2]
        config["queryCoord"] |= {"autoBalance": True}
        (folder / "configs" / "milvus.yaml").write_text(json.dumps(config))  # JSON is YAML.
        shutil.copy(Path(milvus.__file__).parent / "data" / "glog.conf", folder / "configs")
        environment = {"MILVUSCONF": str(folder / "configs"), "METRICS_PORT": str(ports[-1])}
        environment |= {"LD_LIBRARY_PATH": str(BINARIES), "DEPLOY_MODE": "DISTRIBUTED"}
        self.run(name, [BINARIES / "milvus", "run", *arguments], environment)
        self.health[name] = ports[-1]
        return dict(zip(ROLES, ports))

    def run(self, name, command, environment={}):
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        with open(folder / "log", "a") as log:
            self.processes[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *map(str, command)],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | environment,
            )

    def kill(self, name):
        self.health.pop(name)
        self.end([self.processes.pop(name)])

    def end(self, processes):
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
            (NUMBERS / f"server_id_{process.pid}").unlink(missing_ok=True)

    def answers(self):
        """Whether every role says that it is healthy."""
        try:
            return all(self.get(f"http://127.0.0.1:{port}/healthz") == b"OK" for port in self.health.values())
        except OSError:
            return False

    def get(self, url):
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read()

    def until(self, what, name, seconds=START):
        end = time.monotonic() + seconds
        while not what():
            for process, running in self.processes.items():
                if running.poll() is not None:
                    raise SystemExit(f"{process} ended:\n{self.log(process)}")
            if time.monotonic() > end:
                logs = "\n".join(f"{process}:\n{self.log(process)}" for process in self.processes)
                raise SystemExit(f"no {name} within {seconds} s\n{logs}")
            time.sleep(0.5)

    def log(self, name):
        return "\n".join((self.folder / name / "log").read_text(errors="replace").splitlines()[-15:])

    def variables(self):
        """What `trawl` is to find in its environment."""
        return KEYS | {"AWS_ENDPOINT_URL": self.endpoint}

    def stop(self):
        self.end(self.processes.values())
        if self.s3:
            self.s3.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--query-nodes", type=int, default=2)
    parser.add_argument("--proxies", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3600)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with Cluster(args.query_nodes, args.proxies) as cluster:
        place = {"proxies": cluster.proxies, "bucket": BUCKET, "environment": cluster.variables()}
        print(json.dumps(place | {"folder": str(cluster.folder)}), flush=True)
        try:
            time.sleep(args.seconds)
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
