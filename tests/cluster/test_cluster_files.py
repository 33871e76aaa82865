"""The files under docker/: valid by the schemas that can be had without an engine, closed to strangers, and filled in."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

from pipeline.cluster.launch.cluster_files import UNFILLED, open_cluster
from pipeline.config.yaml import read_yaml
from pipeline.errors import UserError
from pipeline.workspace import Workspace

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
RAY_FILES = sorted(DOCKER.glob("ray-*.yaml"))
VALUES = {"worker_ips": ["10.0.0.2", "10.0.0.3"]}


def _filled(value: Any, name: str = "") -> Any:
    """The content with something in every place that is to be filled in."""
    if name in VALUES:
        return VALUES[name]
    if isinstance(value, dict):
        return {key: _filled(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item) for item in value]
    return UNFILLED.sub("10.0.0.1", value) if isinstance(value, str) else value


def test_there_is_a_file_for_each_kind_of_cluster() -> None:
    assert [path.name for path in RAY_FILES] == ["ray-aws.yaml", "ray-gcp.yaml", "ray-onprem.yaml"]


@pytest.mark.parametrize("path", RAY_FILES, ids=lambda path: path.stem)
def test_cluster_file_is_valid_by_rays_own_schema(path: Path) -> None:
    validate_config(prepare_config(_filled(read_yaml(path))))


@pytest.mark.parametrize("path", RAY_FILES, ids=lambda path: path.stem)
def test_file_with_its_section_of_containers_is_valid_and_complete(path: Path, tmp_path: Path) -> None:
    """What is commented out in it, with the signs taken away."""
    lines = path.read_text().splitlines()
    first = lines.index("# docker:")
    end = next(number for number in range(first, len(lines)) if not lines[number])
    taken = [line.removeprefix("# ").removeprefix("#") for line in lines[first:end]]
    (tmp_path / "ray.yaml").write_text("\n".join([*lines[:first], *taken, *lines[end:]]))
    content = read_yaml(tmp_path / "ray.yaml")
    keys = {"image", "container_name", "pull_before_run", "use_podman", "run_options"}
    assert set(content["docker"]) == keys | {"disable_automatic_runtime_detection"}
    validate_config(prepare_config(_filled(content)))
    # What the image has no right to, or has no need of, is done on the machine, before.
    assert not any("sudo" in command for command in content["setup_commands"])
    assert all("ray_bootstrap_config" in command for command in content["head_start_ray_commands"][-1:])
    steps = (DOCKER / "Dockerfile").read_text()
    assert "/opt/sar-search" in steps
    assert "chmod 1777 /home/pipeline" in steps
    assert "HOME=/home/pipeline" in steps


def test_schema_sees_a_key_that_it_does_not_know() -> None:
    content = _filled(read_yaml(DOCKER / "ray-onprem.yaml")) | {"idle_minutes": 3}
    with pytest.raises(ValidationError, match="idle_minutes"):
        validate_config(prepare_config(content))


@pytest.mark.parametrize("path", RAY_FILES, ids=lambda path: path.stem)
def test_every_start_command_asks_for_the_token_and_the_token_is_distributed(path: Path) -> None:
    content = read_yaml(path)
    starts = [c for kind in ("head", "worker") for c in content[f"{kind}_start_ray_commands"] if "ray start" in c]
    assert len(starts) == 2
    for command in starts:
        assert "RAY_AUTH_MODE=token" in command
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert content["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in " ".join(content["setup_commands"])


@pytest.mark.parametrize("path", RAY_FILES, ids=lambda path: path.stem)
def test_no_data_and_no_secrets_are_sent_with_the_checkout(path: Path) -> None:
    ignored = {line.strip("/*\n") for line in (ROOT / ".gitignore").read_text().splitlines() if line.startswith("/")}
    excluded = {name.strip("/*") for name in read_yaml(path)["rsync_exclude"]}
    assert ignored - {"dvc_plots"} <= excluded | {""}
    assert ".git" in excluded


@pytest.mark.skipif(shutil.which("rsync") is None, reason="needs rsync")
@pytest.mark.parametrize("path", RAY_FILES, ids=lambda path: path.stem)
def test_package_is_sent_whole_and_folders_of_results_are_not(path: Path, tmp_path: Path) -> None:
    """As Ray's launcher sends it. `models` without a slash in front would leave out pipeline/models too."""
    package = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "pipeline").rglob("*.py"))
    for name in [*package, "models/best/model.pt", "data/images.npy", "state/journal", ".dvc/cache/a", ".dvc/config"]:
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "here" / name).touch()
    flags = [part for name in read_yaml(path)["rsync_exclude"] for part in ("--exclude", name)]
    subprocess.run(["rsync", "-a", *flags, f"{tmp_path}/here/", f"{tmp_path}/there/"], check=True)
    there = sorted(
        str(file.relative_to(tmp_path / "there")) for file in (tmp_path / "there").rglob("*") if file.is_file()
    )
    assert there == [".dvc/config", *package]


@pytest.mark.parametrize("path", RAY_FILES, ids=lambda path: path.stem)
def test_what_is_not_filled_in_is_told(path: Path) -> None:
    with pytest.raises(UserError, match=r"fill in <"):
        open_cluster(Workspace(ROOT, ROOT), path.stem.removeprefix("ray-"))


def test_cluster_that_there_is_none_of_is_told() -> None:
    with pytest.raises(UserError, match="one of these names: aws, gcp, onprem"):
        open_cluster(Workspace(ROOT, ROOT), "azure")


def test_workers_in_clouds_are_spot_instances_that_come_from_zero_and_go_when_idle() -> None:
    aws, gcp = (read_yaml(DOCKER / f"ray-{name}.yaml") for name in ("aws", "gcp"))
    for content in (aws, gcp):
        assert content["idle_timeout_minutes"] <= 10
        assert content["available_node_types"]["gpu"]["min_workers"] == 0
        assert content["available_node_types"]["head"]["resources"] == {"CPU": 0}
    assert aws["available_node_types"]["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert gcp["available_node_types"]["gpu"]["node_config"]["scheduling"]["provisioningModel"] == "SPOT"


def test_compose_publishes_on_loopback_alone_and_holds_no_secret() -> None:
    content = read_yaml(DOCKER / "compose.yaml")
    services = content["services"]
    assert {"postgres", "s3", "mlflow", "head", "worker"} <= set(services)
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert set(service.get("depends_on", [])) <= set(services), name
        assert set(service.get("networks", [])) <= set(content["networks"]), name
        for key, value in {**content["x-ray"]["environment"], **service.get("environment", {})}.items():
            if re.search("PASSWORD|TOKEN|SECRET|ACCESS_KEY|USER$", key) and key != "POSTGRES_USER":
                assert re.fullmatch(r"\$\{\w+:\?fill in docker/\.env\}", value), (name, key)
    mounted = [volume for service in services.values() for volume in service.get("volumes", [])]
    named = {volume.partition(":")[0] for volume in mounted if not volume.startswith(".")}
    assert named == set(content["volumes"])
    assert ".env" in (ROOT / ".gitignore").read_text()


def test_kuberay_asks_for_the_token_and_the_version_of_the_lock() -> None:
    spec = read_yaml(DOCKER / "kuberay.yaml")["spec"]
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert re.search(
        rf"^ray(\[[a-z,]+\])?=={re.escape(cluster['rayVersion'])} ", (ROOT / "requirements.lock").read_text(), re.M
    )
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        mounts = {m["name"] for container in pod["containers"] for m in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["volumes"]}
    assert cluster["workerGroupSpecs"][0]["minReplicas"] == 0
    assert cluster["enableInTreeAutoscaling"] is True
    assert spec["shutdownAfterJobFinishes"] is True


RAYJOB = {
    "spec": {
        "entrypoint", "submissionMode", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit",
        "rayClusterSpec",
    },
    "rayClusterSpec": {
        "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs",
    },
    "autoscalerOptions": {"idleTimeoutSeconds"},
    "headGroupSpec": {"rayStartParams", "template"},
    "workerGroupSpecs": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
}  # fmt: skip
"""Fields of KubeRay's RayJob (ray.io/v1) that the file uses. The API server would refuse others, or drop them."""


def test_kuberay_uses_fields_of_a_rayjob_and_nothing_else() -> None:
    content = read_yaml(DOCKER / "kuberay.yaml")
    assert (content["apiVersion"], content["kind"], set(content)) == (
        "ray.io/v1", "RayJob", {"apiVersion", "kind", "metadata", "spec"},
    )  # fmt: skip
    spec = content["spec"]
    cluster = spec["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    parts = {"spec": spec, "rayClusterSpec": cluster, "workerGroupSpecs": workers}
    for name, fields in RAYJOB.items():
        assert set(parts.get(name) or cluster[name]) == fields, name
    assert spec["submissionMode"] in ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")
    for group in (cluster["headGroupSpec"], workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())  # numbers are refused
        (container,) = group["template"]["spec"]["containers"]
        assert all(set(variable) == {"name", "value"} for variable in container["env"])
        assert all(isinstance(variable["value"], str) for variable in container["env"])
    for key in ("replicas", "minReplicas", "maxReplicas"):
        assert isinstance(workers[key], int)


def test_dockerfile_does_not_run_as_root_and_copies_what_there_is() -> None:
    lines = _dockerfile()
    steps = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    (user,) = (step[1] for step in steps if step[0] == "USER")
    assert int(user) == int(next(re.search(r"--uid (\d+)", step[1])[1] for step in steps if "useradd" in step[1])) > 0  # type: ignore[index]
    for kind, rest in steps:
        assert kind in ("FROM", "ARG", "RUN", "WORKDIR", "COPY", "ENV", "LABEL", "USER", "CMD"), kind
        for source in rest.split()[:-1] if kind == "COPY" else []:
            assert (ROOT / source).exists(), source
    assert [step[1] for step in steps if step[0] == "FROM"] == ["${PYTHON_IMAGE}"]
    base = next(step[1] for step in steps if step[1].startswith("PYTHON_IMAGE="))
    assert re.fullmatch(r"PYTHON_IMAGE=docker\.io/library/python:3\.\d+-slim", base)


def test_what_the_dockerfile_copies_is_all_that_the_engine_is_sent() -> None:
    """No data, no secrets: .dockerignore leaves everything out but what a COPY names."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert (lines[0], lines[-1]) == ("*", "**/__pycache__")
    copied = {source for line in _dockerfile() if line.startswith("COPY ") for source in line.split()[1:-1]}
    assert {line.removeprefix("!") for line in lines[1:-1]} == copied
    assert all(line.startswith("!") for line in lines[1:-1])


def test_every_image_can_be_replaced_and_is_named_whole() -> None:
    """Podman takes no short names."""
    content = read_yaml(DOCKER / "compose.yaml")
    for name in ("postgres", "s3"):
        image = content["services"][name]["image"]
        assert re.fullmatch(rf"\$\{{{name.upper()}_IMAGE:-docker\.io/[a-z]+/[a-z]+:v?\d[\d.]*\}}", image)
    assert {service["image"] for name, service in content["services"].items() if name not in ("postgres", "s3")} == {
        "${IMAGE:-sar-search}"
    }
    gpu = read_yaml(DOCKER / "compose.gpu.yaml")
    assert gpu == {"services": {name: {"gpus": "all"} for name in ("head", "worker")}}


def test_rays_ports_are_those_that_the_fence_closes() -> None:
    """docker/fence.sh has one list for them, and both start commands name ports of it."""
    (listed,) = re.findall(r'^PORTS="(.*)"$', (DOCKER / "fence.sh").read_text(), re.M)
    ranges = [(int(first), int(last or first)) for first, _, last in (p.partition("-") for p in listed.split(", "))]
    content = read_yaml(DOCKER / "ray-onprem.yaml")
    for kind in ("head", "worker"):
        (start,) = (command for command in content[f"{kind}_start_ray_commands"] if "ray start" in command)
        ports = [int(port) for port in re.findall(r"-port=(\d+)", start)]
        assert len(ports) >= 7
        assert all(any(first <= port <= last for first, last in ranges) for port in ports), ports


LINTERS = {"Dockerfile": "hadolint"} | dict.fromkeys(("install.sh", "fence.sh", "services.sh"), "shellcheck")


@pytest.mark.parametrize("name", LINTERS)
def test_linters_have_nothing_to_say(name: str) -> None:
    linter = LINTERS[name]
    program = Path(sys.executable).with_name(linter)
    if not program.exists():
        pytest.skip(f"{linter} is not installed")
    done = subprocess.run([program, str(DOCKER / name)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_compose_itself_takes_the_file(tmp_path: Path) -> None:
    """Docker Compose; or its first version (Debian's docker-compose), which does not know `name` yet."""
    secrets = {"POSTGRES_PASSWORD": "a", "S3_USER": "b", "S3_PASSWORD": "c", "RAY_AUTH_TOKEN": "d"}
    file, docker, first = DOCKER / "compose.yaml", shutil.which("docker"), shutil.which("docker-compose")
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True).returncode == 0:
        command = [docker, "compose"]
    elif first:
        command = [first]
        lines = file.read_text().splitlines(keepends=True)
        file = tmp_path / "compose.yaml"
        file.write_text("".join(line for line in lines if not line.startswith("name:")))
    else:
        pytest.skip("needs Docker Compose")
    asked = [*command, "-f", str(file), "config", "--quiet"]
    done = subprocess.run(asked, env=os.environ | secrets, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


SERVICE = {
    "build": dict, "cap_drop": list, "command": str | list, "depends_on": dict, "environment": dict, "healthcheck": dict,
    "image": str, "networks": list, "ports": list, "read_only": bool, "restart": str, "security_opt": list,
    "shm_size": str, "tmpfs": list, "user": str, "volumes": list,
}  # fmt: skip
"""Keys of the Compose specification that the file uses, and what each may hold."""

CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}


def test_compose_uses_keys_of_the_specification_and_each_refers_to_what_is_there() -> None:
    content = read_yaml(DOCKER / "compose.yaml")
    assert {key for key in content if not key.startswith("x-")} == {"name", "services", "networks", "volumes"}
    services = content["services"]
    assert sum("build" in service for service in services.values()) == 1
    for name, service in services.items():
        for key, value in service.items():
            assert isinstance(value, SERVICE[key]), (name, key)
        for other, how in service.get("depends_on", {}).items():
            assert set(how) == {"condition"}
            assert how["condition"] in CONDITIONS
            assert ("healthcheck" in services[other]) >= (how["condition"] == "service_healthy"), (name, other)
        assert set(service.get("healthcheck", {})) <= {"test", "interval", "timeout", "retries", "start_period"}
        for value in service.get("environment", {}).values():
            assert isinstance(value, str), name  # of YAML's numbers and booleans Compose makes its own text
        for value in service.get("volumes", []):
            source, target = value.split(":")  # of one without a name podman-compose makes one for all replicas
            assert source == ".." or source in content["volumes"]
            assert target.startswith("/")
        # A service is reached by its name: every host that is named is one.
        text = str({key: service[key] for key in ("command", "entrypoint", "environment") if key in service})
        for host in re.findall(r"(?:https?://|@|--address=)([a-z][a-z0-9]*)", text):
            assert host in services, (name, host)
    build = services["head"]["build"]
    assert (DOCKER / build["context"] / build["dockerfile"]).exists()
    declared = {line.split()[1].partition("=")[0] for line in _dockerfile() if line.startswith("ARG ")}
    assert set(build["args"]) <= declared


def _dockerfile() -> list[str]:
    return (DOCKER / "Dockerfile").read_text().replace("\\\n", " ").splitlines()


def test_install_step_says_what_a_cpu_image_needs() -> None:
    done = subprocess.run(["bash", str(DOCKER / "install.sh"), "cpu"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "TORCH_INDEX" in done.stderr
    done = subprocess.run(["bash", str(DOCKER / "install.sh"), "tpu"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2


def test_lock_without_cuda_leaves_out_cuda_alone(tmp_path: Path) -> None:
    """The install step's own filter, on the project's own lock."""
    script = (DOCKER / "install.sh").read_text()
    leave = re.search(r"leave='(.*)'", script)
    assert leave
    command = ["awk", "-v", f"leave={leave[1]}", "/^[A-Za-z0-9]/ {skip = $0 ~ leave} !skip", "requirements.lock"]
    assert command[3] in script
    whole = set(re.findall(r"^([A-Za-z0-9._-]+)==", (ROOT / "requirements.lock").read_text(), re.M))
    kept = set(
        re.findall(
            r"^([A-Za-z0-9._-]+)==", subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout, re.M
        )
    )
    gone = whole - kept
    assert {"torch", "torchvision", "triton"} <= gone
    assert all(re.match("torch|triton|nvidia-|cuda-", name) for name in gone)
    assert "ray" in kept
