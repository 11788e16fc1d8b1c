"""make audit: asks PyPI for known vulnerabilities of every version in constraints.txt. Sends names and versions of packages, nothing else.

Ends with 1 if there is one that pyproject.toml does not list, with a reason, under [tool.audit.accepted]. If the service can't be reached, or
knows none of the packages (a mirror without the database), it says so and ends with 0: nothing was checked then.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pip-audit requires it

CHECKOUT = Path(__file__).resolve().parent.parent
UNREACHABLE = re.compile(r"ConnectionError|NameResolutionError|ProxyError|SSLError|Timeout|HTTPError|ServiceError|ConnectError|Max retries")
COMMAND = ["pip_audit", "--disable-pip", "--no-deps", "--format", "json", "--progress-spinner", "off", "--timeout", "10"]


def main() -> int:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    accepted: dict[str, str] = project["tool"]["audit"]["accepted"]
    options = ["--cache-dir", str(CHECKOUT / ".venv" / "audit_cache"), "-r", str(CHECKOUT / "constraints.txt")]
    done = subprocess.run([sys.executable, "-m", *COMMAND, *options], capture_output=True, text=True, check=False)
    try:
        dependencies = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        if UNREACHABLE.search(done.stderr) is None:
            print(done.stderr, file=sys.stderr)
            return done.returncode or 1
        print(f"not audited: the vulnerability service can't be reached ({done.stderr.strip().splitlines()[-1][:200]})")
        return 0
    return report(dependencies, accepted)


def report(dependencies: list[dict[str, Any]], accepted: dict[str, str]) -> int:
    """Prints the findings and returns the exit status; `accepted`: id of a vulnerability -> why it does not matter here."""
    asked = [entry for entry in dependencies if "skip_reason" not in entry]
    found = [(entry, fault) for entry in asked for fault in entry["vulns"]]
    open_ones = [(entry, fault) for entry, fault in found if not {fault["id"], *fault["aliases"]} & accepted.keys()]
    print(
        f"{len(asked)} of {len(dependencies)} packages looked up, {len(found)} known vulnerabilities, {len(found) - len(open_ones)} of them accepted"
    )
    if not asked:
        print("not audited: the service answers, but knows none of the packages")
    for entry, fault in open_ones:
        mended = ", ".join(fault["fix_versions"]) or "no version yet"
        print(f"{entry['name']} {entry['version']}: {fault['id']} ({', '.join(fault['aliases']) or 'no other name'}), mended in {mended}")
    if open_ones:
        print("raise the version in constraints.txt, or accept it with a reason in pyproject.toml, [tool.audit.accepted]")
    return 1 if open_ones else 0


if __name__ == "__main__":
    sys.exit(main())
