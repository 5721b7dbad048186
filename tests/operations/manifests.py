"""Whether the manifests of config/kubernetes fit together, as Kustomize puts them together.

Kustomize itself is in no package of Debian. Each file that the kustomization lists is checked against Kubernetes' schemas by
kubernetes-validate; this looks at what no schema knows: names, labels and ports of one object that another one refers to.
Prints how many objects there are.
"""

import sys
from pathlib import Path

import yaml

FOLDER = Path(sys.argv[1])
LABEL = "app.kubernetes.io/name"


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def only(kind, objects):
    found = [thing for thing in objects if thing["kind"] == kind]
    assert len(found) == 1, f"{len(found)} objects of the kind {kind}"
    return found[0]


def secret_files(text):
    """The names of the files below /run/secrets/call-legs that a configuration names."""
    return {line.split("/run/secrets/call-legs/")[1].strip('"') for line in text.splitlines() if "/run/secrets/" in line}


[base] = documents(FOLDER / "kustomization.yaml")
known = {"apiVersion", "kind", "resources", "configMapGenerator", "images"}
assert set(base) == known, f"kustomization.yaml has other keys than {known}: {set(base) ^ known}"
listed = {*base["resources"], *base["configMapGenerator"][0]["files"], "kustomization.yaml", "monitoring"}
assert listed == {path.name for path in FOLDER.iterdir()}, "kustomization.yaml lists each file of its folder"
objects = [document for name in base["resources"] for document in documents(FOLDER / name)]

[component] = documents(FOLDER / "monitoring/kustomization.yaml")
assert component["kind"] == "Component"
monitored = [document for name in component["resources"] for document in documents(FOLDER / "monitoring" / name)]

namespace = only("Namespace", objects)["metadata"]["name"]
for thing in objects + monitored + base["configMapGenerator"]:
    about = thing.get("metadata", thing)
    assert thing.get("kind") == "Namespace" or about["namespace"] == namespace, f"{about['name']} is elsewhere"

deployment = only("Deployment", objects)["spec"]
order = only("CronJob", objects)["spec"]
assert order["suspend"], "an order never starts by itself"
assert deployment["replicas"] == 2
pods = {"Deployment": deployment["template"], "CronJob": order["jobTemplate"]["spec"]["template"]}
labels = deployment["template"]["metadata"]["labels"]
assert deployment["selector"]["matchLabels"] == labels

# The order has the image, configuration, secrets and rights of the pods that publish.
for name, pod in pods.items():
    spec = pod["spec"]
    [container] = spec["containers"]
    assert container["image"] == base["images"][0]["name"], name
    assert spec["serviceAccountName"] == only("ServiceAccount", objects)["metadata"]["name"], name
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["config"]["configMap"]["name"] == base["configMapGenerator"][0]["name"], name
    assert all(mount["name"] in volumes for mount in container["volumeMounts"]), name
    security = spec["securityContext"]
    assert {security[key] for key in ("runAsUser", "runAsGroup", "fsGroup")} == {10001}, f"{name}: the image's user"
    assert "ephemeral-storage" in container["resources"]["requests"], name
publisher, orderer = (pod["spec"] for pod in pods.values())
assert publisher["volumes"] == orderer["volumes"]
for part in ("image", "securityContext", "volumeMounts", "resources"):
    assert publisher["containers"][0][part] == orderer["containers"][0][part], part

# The four files of the secret: those that the configuration names, and those that the command in the comment makes.
named = secret_files((FOLDER / "call-legs.toml").read_text())
comment = (FOLDER / "call-legs.yaml").read_text().split("apiVersion")[0]
made = {word.removeprefix("--from-file=") for word in comment.split() if word.startswith("--from-file=")}
assert named == made and len(named) == 4, named ^ made

# Who selects the pods finds them.
service = only("Service", objects)
assert service["spec"]["selector"] == labels
ports = {port["name"]: port["containerPort"] for port in publisher["containers"][0]["ports"]}
[port] = service["spec"]["ports"]
assert port["targetPort"] in ports and port["port"] == ports[port["targetPort"]]
assert only("PodDisruptionBudget", objects)["spec"]["selector"]["matchLabels"] == labels
policy = only("NetworkPolicy", objects)["spec"]
[expression] = policy["podSelector"]["matchExpressions"]
selected = {pod["metadata"]["labels"][expression["key"]] for pod in pods.values()}
assert expression["key"] == LABEL and set(expression["values"]) == selected
assert [port["port"] for port in policy["ingress"][0]["ports"]] == list(ports)
scraped = only("ServiceMonitor", monitored)["spec"]
assert scraped["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
assert scraped["endpoints"][0]["port"] == port["name"]
for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
    assert publisher["containers"][0][probe]["httpGet"]["port"] in ports, probe

print(len(objects) + len(monitored), "objects")
