"""The manifests against the schema of Kubernetes, and the jobs of a rebuild as a kubelet would run them, without Kubernetes."""

import copy
import os
import re
import shutil
import subprocess
import sys
import unittest

import kubernetes_validate
import yaml

from storage import CONTENT, CORPUS, MODEL, ROOT, ClusterTest

ClusterTest.trawl = sys.argv.pop(1)
DEPLOY = ROOT / "deploy/kubernetes"
VERSIONS = ["1.33", "1.37"]  # `backoffLimitPerIndex` is stable since 1.33.
# In a mount namespace: a root of /usr and the volumes alone, which cannot be written; then the image's user, without capabilities.
CONTAINER = r"""
set -eu
root=$1 user=$2 trawl=$3; shift 3
mount -t tmpfs tmpfs "$root"
mkdir -p "$root"/usr "$root"/dev "$root"/proc "$root"/entry
for link in bin lib lib64 sbin; do ln -s usr/$link "$root/$link"; done
mount --rbind /usr "$root/usr"; mount --rbind /dev "$root/dev"; mount -t proc proc "$root/proc"
touch "$root/entry/trawl"; mount --bind "$trawl" "$root/entry/trawl"
while [ "$1" != -- ]; do mkdir -p "$root$2"; mount --bind "$1" "$root$2"; [ "$3" = rw ] || mount -o remount,bind,ro "$root$2"; shift 3; done; shift
mount -o remount,ro "$root"
exec chroot "$root" setpriv --reuid="$user" --regid="$user" --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all "$@"
"""


def documents(*paths):
    return [document for path in paths for document in yaml.safe_load_all(path.read_text())]


def with_gpu(job):
    """The job after the patch of `gpu/kustomization.yaml`."""
    job = copy.deepcopy(job)
    [patch] = documents(DEPLOY / "gpu/kustomization.yaml")[0]["patches"]
    for step in yaml.safe_load(patch["patch"]):
        *way, last = [name.replace("~1", "/") for name in step["path"].split("/")[1:]]
        place = job
        for name in way:
            place = place[int(name) if isinstance(place, list) else name]
        assert step["op"] == "add", step
        place[last] = step["value"]
    return job


class Manifests(unittest.TestCase):
    def setUp(self):
        places = [*ROOT.glob("docker/kubernetes/*.yaml"), *DEPLOY.glob("*.yaml")]
        self.manifests = documents(*(path for path in places if path.name != "kustomization.yaml"))
        self.encode = documents(DEPLOY / "encode.yaml")[0]

    def check(self, manifest):
        for version in VERSIONS:
            kubernetes_validate.validate(manifest, version, strict=True)

    def test_all_are_strictly_valid(self):
        self.assertGreater(len(self.manifests), 6)
        for manifest in self.manifests:
            with self.subTest(manifest["metadata"]["name"]):
                self.check(manifest)

    def test_the_variant_with_gpus_is_valid(self):
        gpu = with_gpu(self.encode)
        self.check(gpu)
        self.assertEqual(gpu["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"], 1)

    def test_a_misspelt_field_or_another_type_is_not(self):
        for name, value in ("backofLimitPerIndex", 5), ("completions", "many"):
            wrong = copy.deepcopy(self.encode)
            wrong["spec"][name] = value
            with self.assertRaises(kubernetes_validate.ValidationError):
                self.check(wrong)

    def test_a_server_has_time_to_read_its_volume_before_it_is_restarted(self):
        probe = documents(ROOT / "docker/kubernetes/deployment.yaml")[0]["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
        data = documents(ROOT / "docker/kubernetes/volumes.yaml")[0]
        self.assertEqual(data["metadata"]["name"], "trawl-data")
        mebibytes = 1024 * int(data["spec"]["resources"]["requests"]["storage"].removesuffix("Gi"))
        self.assertGreater(probe["periodSeconds"] * probe["failureThreshold"], mebibytes / 20)

    def test_as_many_parts_as_completions(self):
        of = {argument for argument in self.encode["spec"]["template"]["spec"]["containers"][0]["args"] if "--part" in argument}
        self.assertEqual(of, {f"--part=$(JOB_COMPLETION_INDEX)/{self.encode['spec']['completions']}"})


@unittest.skipUnless(os.geteuid() == 0, "containers are replayed by root only")
class Jobs(ClusterTest):
    N_PARTS = 3

    def run_container(self, job, volumes, *more, **variables):
        """What a kubelet does with the container of a job."""
        pod = job["spec"]["template"]["spec"]
        [container] = pod["containers"]
        config = documents(DEPLOY / "storage.yaml")[0]
        keys = {name: self.environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")}
        variables = {"TRAWL_MODELS": "/models"} | keys | config["data"] | variables
        self.assertTrue(pod["securityContext"]["runAsNonRoot"])
        self.assertTrue(container["securityContext"]["readOnlyRootFilesystem"])
        mounts = []
        for mount in container["volumeMounts"]:
            mounts += [str(volumes[mount["name"]]), mount["mountPath"], "ro" if mount.get("readOnly") else "rw"]
        arguments = [re.sub(r"\$\((\w+)\)", lambda name: variables[name[1]], argument) for argument in [*container["args"], *more]]
        root = self.folder / "root"
        root.mkdir(exist_ok=True)
        user = str(pod["securityContext"]["runAsUser"])
        inside = ["env", "-i", *(f"{name}={value}" for name, value in variables.items()), "/entry/trawl", *arguments]
        command = ["unshare", "--mount", "sh", "-c", CONTAINER, "container", str(root), user, self.trawl, *mounts, "--", *inside]
        return subprocess.run(command, capture_output=True, text=True, timeout=600)

    def work(self, job):
        """An empty folder, as a pod's own volume is."""
        work = self.folder / f"work-{job['metadata']['name']}"
        work.mkdir(exist_ok=True)
        os.chown(work, 10001, 10001)
        return work

    def test_parts_and_commit_are_a_build_by_one_process(self):
        encode, commit = documents(DEPLOY / "encode.yaml", DEPLOY / "commit.yaml")
        url = documents(DEPLOY / "storage.yaml")[0]["data"]["COLLECTION"]
        self.s3.create_bucket(Bucket=url.split("/")[2])
        container = encode["spec"]["template"]["spec"]["containers"][0]
        container["args"] = [argument.replace("/64", f"/{self.N_PARTS}") for argument in container["args"]]
        models = self.folder / "models"
        shutil.copytree(MODEL, models / "all-MiniLM-L6-v2")
        self.folder.chmod(0o755)
        volumes = {"corpus": CORPUS.parent, "models": models, "work": self.work(encode)}
        chunks = CONTENT[CONTENT.index("--chunk-passages"):]
        for i in [2, 0, 1, 0]:  # In any order, and again.
            part = self.run_container(encode, volumes, *chunks, JOB_COMPLETION_INDEX=str(i))
            self.assertEqual(part.returncode, 0, part.stderr)
        self.assertEqual(len(self.records.created), self.N_PARTS)
        committed = self.run_container(commit, {"work": self.work(commit)})
        self.assertEqual(committed.returncode, 0, committed.stderr)
        self.assert_built_as_by_one_process(url, self.N_PARTS)

    def test_bad_input_ends_with_a_code_of_the_policy(self):
        encode = documents(DEPLOY / "encode.yaml")[0]
        corpus = self.folder / "bad"
        corpus.mkdir()
        (corpus / "corpus.jsonl").write_text("not json\n")
        self.folder.chmod(0o755)
        fixtures = ROOT / "tests/fixtures/models"
        volumes = {"corpus": corpus, "models": fixtures, "work": self.work(encode)}
        ended = self.run_container(encode, volumes, "--model=tiny-bert", JOB_COMPLETION_INDEX="0")
        codes = encode["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]
        self.assertIn(ended.returncode, codes, ended.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
