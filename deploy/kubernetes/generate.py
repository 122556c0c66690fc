"""What the manifests repeat of the rest of the project, made from it: ``python -m deploy.kubernetes.generate``.

Kustomize reads only files below its own folder, and ``kubectl apply -k`` cannot be told otherwise. So the dashboards
and the rules are copied, and a test says when the copies are old.
"""  # noqa: INP001  # a folder of manifests, not a package

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from exporter import __version__

_REPOSITORY: Final = Path(__file__).parents[2]
_HERE: Final = Path(__file__).parent
_RULES: Final = _REPOSITORY / "deploy" / "prometheus" / "sbg-exporter.rules.yml"
_RULE_OBJECT: Final = """\
---
# yamllint disable rule:line-length
# Made by deploy/kubernetes/generate.py from deploy/prometheus/sbg-exporter.rules.yml: change it there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: sbg-exporter
  labels:  # those that your Prometheus selects, for instance release: kube-prometheus-stack
    app.kubernetes.io/name: sbg-exporter
    app.kubernetes.io/instance: sbg-exporter
spec:
"""
_DASHBOARDS: Final = """\
---
# Made by deploy/kubernetes/generate.py. A ConfigMap for each dashboard: `kubectl apply` takes little more at once.
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
generatorOptions:
  disableNameSuffixHash: true
  labels:
    grafana_dashboard: "1"
    app.kubernetes.io/name: sbg-exporter
    app.kubernetes.io/instance: sbg-exporter
configMapGenerator:
"""


def dashboards() -> dict[str, str]:
    """File name to text of every dashboard, without the white space that makes up half of it."""
    return {
        file.name: json.dumps(json.loads(file.read_text(encoding="utf-8")), separators=(",", ":"), ensure_ascii=False)
        + "\n"
        for file in sorted((_REPOSITORY / "grafana" / "dashboards").glob("*.json"))
    }


def rule_groups() -> str:
    """The rules from ``groups:`` on, with the comments between them."""
    _, groups, rules = _RULES.read_text(encoding="utf-8").partition("\ngroups:\n")
    return f"{groups.lstrip()}{rules}"


def with_version(text: str, *keys: str) -> str:
    """*text* with the exporter's version as the value of each of these keys."""
    for key in keys:
        text, times = re.subn(rf"^(\s*{re.escape(key)}:\s*).*$", rf"\g<1>{__version__}", text, flags=re.MULTILINE)
        if times != 1:
            raise ValueError(f"{key}: there {times} times, not once")
    return text


def made() -> dict[Path, str]:
    """Every file that this script makes, and what it is to say."""
    operator, sidecar = (_HERE / "components" / name for name in ("prometheus-operator", "grafana-sidecar"))
    base, state = (_HERE / name / "kustomization.yaml" for name in ("base", "state"))
    indented = "".join(f"  {line}" if line.strip() else line for line in rule_groups().splitlines(keepends=True))
    entries = "".join(
        f"  - name: sbg-exporter-dashboard-{name.removesuffix('.json')}\n    files:\n      - dashboards/{name}\n"
        for name in dashboards()
    )
    return {
        base: with_version(base.read_text(encoding="utf-8"), "newTag", "app.kubernetes.io/version"),
        state: with_version(state.read_text(encoding="utf-8"), "newTag"),
        operator / "prometheusrule.yaml": _RULE_OBJECT + indented,
        sidecar / "kustomization.yaml": _DASHBOARDS + entries,
        **{sidecar / "dashboards" / name: text for name, text in dashboards().items()},
    }


def stale(folder: Path, wanted: Mapping[Path, str]) -> list[Path]:
    """Copies of dashboards in *folder* that are made no longer."""
    return sorted(set(folder.rglob("dashboards/*.json")) - wanted.keys())


def write(folder: Path, wanted: Mapping[Path, str]) -> None:
    """Write *wanted*, and remove from *folder* what is made no longer."""
    for path in stale(folder, wanted):
        path.unlink()
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def main() -> int:
    """Write all of it."""
    write(_HERE, made())
    return 0


if __name__ == "__main__":
    sys.exit(main())
