"""The manifests in deploy/kubernetes: every pod is limited, probed and shut off, and runs what the image has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from settings import Settings

ROOT = Path(__file__).parents[2]
HERE = ROOT / "deploy" / "kubernetes"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
FILES = sorted(path for path in HERE.rglob("*.yaml") if path.name != "kustomization.yaml")
OBJECTS: list[dict[str, Any]] = [one for path in FILES for one in yaml.safe_load_all(path.read_text(encoding="utf-8"))]
KUSTOMIZATIONS = sorted(HERE.rglob("kustomization.yaml"))


def of(kind: str) -> dict[str, dict[str, Any]]:
    """The objects of a kind, by their names without ``sendq-``."""
    return {one["metadata"]["name"].removeprefix("sendq-"): one for one in OBJECTS if one["kind"] == kind}


PODS = {name: one["spec"]["template"] for name, one in {**of("Deployment"), **of("Job")}.items()}
each_pod = pytest.mark.parametrize("name", PODS)


def container(name: str) -> dict[str, Any]:
    (only,) = PODS[name]["spec"]["containers"]
    found: dict[str, Any] = only
    return found


class TestAPod:
    def test_is_made_of_everything_that_runs(self) -> None:
        assert PODS.keys() == {"worker", "console", "api", "webhooks", "flower", "migrate"}

    @each_pod
    def test_is_no_root_and_writes_nowhere_but_to_its_own_tmp(self, name: str) -> None:
        spec, only = PODS[name]["spec"], container(name)
        context = spec["securityContext"]
        assert (context["runAsNonRoot"], context["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
        assert f"USER {context['runAsUser']}\n" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
        assert only["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert spec["automountServiceAccountToken"] is False
        writable = [mount["mountPath"] for mount in only["volumeMounts"] if not mount.get("readOnly")]
        assert writable == ["/tmp"]
        assert {mount["name"] for mount in only["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}

    @each_pod
    def test_has_limits_and_probes(self, name: str) -> None:
        only = container(name)
        assert {"memory", "ephemeral-storage"} <= only["resources"]["limits"].keys()
        assert {"cpu", "memory"} <= only["resources"]["requests"].keys()
        probes = {"startupProbe", "livenessProbe", "readinessProbe"}
        assert probes & only.keys() == (set() if name == "migrate" else probes)

    @each_pod
    def test_runs_the_command_that_compose_runs(self, name: str) -> None:
        assert container(name)["command"] == COMPOSE[name]["command"]
        assert container(name)["image"] == "sendq"

    @each_pod
    def test_sets_only_settings_that_exist(self, name: str) -> None:
        only = container(name)
        given = {one["name"]: one["value"] for one in only.get("env", ())}
        Settings.load(given)
        assert given.keys() <= {variable for row in Settings.describe() for variable in row.env}
        assert only["envFrom"] == [{"secretRef": {"name": f"sendq-{name}"}}]
        assert PODS[name]["spec"]["enableServiceLinks"] is False  # Flower would read its own Service's variables

    @pytest.mark.parametrize("name", ["console", "api", "webhooks", "flower"])
    def test_that_serves_is_probed_as_in_compose_and_has_a_service(self, name: str) -> None:
        only = container(name)
        (port,) = only["ports"]
        asked = f"http://127.0.0.1:{port['containerPort']}{only['livenessProbe']['httpGet']['path']}"
        assert asked in COMPOSE[name]["healthcheck"]["test"][-1]
        assert str(port["containerPort"]) in " ".join(only["command"])
        service = of("Service")[name]["spec"]
        assert service["selector"] == of("Deployment")[name]["spec"]["selector"]["matchLabels"]
        assert [one["targetPort"] for one in service["ports"]] == [port["name"]]


class TestAWorker:
    def test_has_more_time_to_stop_than_it_takes(self) -> None:
        given = {one["name"]: one["value"] for one in container("worker")["env"]}
        settings = Settings.load({**given, "NYLAS_API_KEY": "nyk_1"})
        assert PODS["worker"]["spec"]["terminationGracePeriodSeconds"] > settings.grace_s + 5

    def test_is_probed_by_its_heartbeat_and_scraped_where_it_serves_metrics(self) -> None:
        worker = container("worker")
        for probe in ("livenessProbe", "startupProbe"):
            assert worker[probe]["exec"]["command"] == COMPOSE["worker"]["healthcheck"]["test"][1:]
        given = {one["name"]: one["value"] for one in worker["env"]}
        (port,) = worker["ports"]
        assert given["SENDQ_METRICS_ADDRESS"] == f"0.0.0.0:{port['containerPort']}"
        (endpoint,) = of("PodMonitor")["sendq"]["spec"]["podMetricsEndpoints"]
        assert endpoint["port"] == port["name"]
        alerts = (ROOT / "deploy" / "alerts.yml").read_text(encoding="utf-8")
        assert set(re.findall(r'job="(\w+)"', alerts)) == {endpoint["relabelings"][0]["replacement"]}

    def test_is_scaled_by_a_metric_that_the_alerts_use(self) -> None:
        scaled = of("ScaledObject")["worker"]["spec"]
        assert scaled["scaleTargetRef"]["name"] == of("Deployment")["worker"]["metadata"]["name"]
        alerts = (ROOT / "deploy" / "alerts.yml").read_text(encoding="utf-8")
        assert scaled["triggers"][0]["metadata"]["query"] in alerts


class TestTheWhole:
    def test_selectors_select_what_there_is(self) -> None:
        labels = {name: pod["metadata"]["labels"] for name, pod in PODS.items()}
        for name, one in of("Deployment").items():
            assert one["spec"]["selector"]["matchLabels"] == labels[name]
        for name, one in of("NetworkPolicy").items():
            assert one["spec"]["podSelector"]["matchLabels"] == labels[name]
            assert one["spec"]["policyTypes"] == ["Ingress", "Egress"]
        assert of("NetworkPolicy").keys() == PODS.keys()
        assert of("PodDisruptionBudget")["worker"]["spec"]["selector"]["matchLabels"] == labels["worker"]
        assert of("PodMonitor")["sendq"]["spec"]["selector"]["matchLabels"] == labels["worker"]

    @pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=lambda path: path.parent.name)
    def test_every_file_belongs_to_a_kustomization(self, path: Path) -> None:
        listed = yaml.safe_load(path.read_text(encoding="utf-8"))["resources"]
        assert sorted(listed) == [one.name for one in FILES if one.parent == path.parent]

    def test_the_documented_kustomization_names_what_there_is(self) -> None:
        page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
        (snippet,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
        example = yaml.safe_load(snippet)
        for path in [*example["resources"], *example["components"]]:
            assert (ROOT / path.removeprefix("../sendq/") / "kustomization.yaml").is_file()
        assert [one["name"] for one in example["images"]] == [container("worker")["image"]]
        secrets = set(re.findall(r"`(sendq-[a-z-]+)`", page[page.index("| Secret | keys |") :].partition("\n\n")[0]))
        assert secrets == {f"sendq-{name}" for name in PODS} | {"sendq-console-passwords", "sendq-api-tokens"}
