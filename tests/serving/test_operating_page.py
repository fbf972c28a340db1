"""docs/operating.md, the Containerfile and the systemd unit say what the program does."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from detour.serving.guard import OPEN_PATHS, is_loopback
from detour.serving.metrics import ServiceCollector
from detour.serving.running import LINGER_S
from detour.serving.settings import (
    KeepingSpec,
    LimitsSpec,
    ProvenanceSpec,
    ReferencesSpec,
    ServeSpec,
    StartsSpec,
)
from tests.docs.pages import ROOT, Wrong, parse
from tests.serving.conftest import Served

PAGE = (ROOT / "docs" / "operating.md").read_text()
CONTAINERFILE = (ROOT / "deploy" / "Containerfile").read_text()
UNIT = ROOT / "deploy" / "detour.service"
PIP = "pip install 'detour-lora[serve]'"


def test_every_metric_is_on_the_page_with_its_labels_and_no_other(served: Served) -> None:
    there = set()
    for family in ServiceCollector(served.service).collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = ",".join(family._labelnames)  # type: ignore[attr-defined]
        there.add(f"{name}{{{labels}}}" if labels else name)
    listed = re.findall(r"^\| (`detour_.+?) \|", PAGE, re.M)
    quoted = {name for cell in listed for name in re.findall(r"`([^`]+)`", cell)}
    assert quoted == there


def test_a_full_queue_is_counted_as_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(served.service.dispatcher), "work", property(lambda _: 1e9))
    assert served.post("/v1/jobs", {"prompts": ["a red house"]}).status_code == 429
    assert 'detour_requests_refused_total{code="queue_full"} 1.0' in served.http.get("/metrics").text


def instruction(name: str) -> str:
    """The last instruction of a kind in the Containerfile, its lines joined."""
    joined = re.sub(r"\\\n\s*", " ", CONTAINERFILE)
    return [line.partition(" ")[2] for line in joined.splitlines() if line.startswith(f"{name} ")][-1]


def flags_of(line: str) -> dict[str, str]:
    words = shlex.split(line)
    return {word: words[i + 1] for i, word in enumerate(words) if word.startswith("--")}


def test_the_container_starts_a_command_that_there_is() -> None:
    line = shlex.join([*json.loads(instruction("ENTRYPOINT")), *json.loads(instruction("CMD"))])
    parse(line)
    with pytest.raises(Wrong):
        parse(line.replace("--state", "--stat"))
    flags = flags_of(line)
    assert {flags["--state"], flags["--adapters"]} <= set(json.loads(instruction("VOLUME")))
    assert flags["--port"] == instruction("EXPOSE") == str(ServeSpec().port)
    assert not is_loopback(flags["--host"])


def test_the_container_runs_as_no_root_and_asks_for_health_on_an_open_path() -> None:
    assert int(instruction("USER")) > 0
    program = json.loads(re.sub(r"^.*?CMD ", "", instruction("HEALTHCHECK")))
    asked = re.search(rf"http://127\.0\.0\.1:{ServeSpec().port}(/\w+)'", program[-1])
    assert asked is not None
    assert asked[1] == "/healthz"
    assert asked[1] in OPEN_PATHS
    compile(program[-1], "healthcheck", "exec")


def test_container_and_page_install_as_the_docs_do() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "serve" in extras
    assert PIP.removeprefix("pip install ") in CONTAINERFILE
    assert PIP in PAGE
    assert PIP in (ROOT / "docs" / "serving.md").read_text()


def settings_on(page: str) -> tuple[dict[str, Any], set[str]]:
    """Settings of the last TOML block with their values, and the dotted names of all, commented ones too."""
    block = page.split("```toml\n")[-1].partition("```")[0]
    table, names = "", set()
    for line in block.splitlines():
        if line.startswith("["):
            table = line.partition("]")[0].strip("[") + "."
        elif found := re.match(r"(?:# )?(\w+) = ", line):
            names.add(table + found[1])
    return tomllib.loads(block), names


def test_the_settings_on_the_page_are_all_of_them_with_their_defaults() -> None:
    values, names = settings_on((ROOT / "docs" / "serving.md").read_text())
    tables = {
        "limits": LimitsSpec,
        "references": ReferencesSpec,
        "keeping": KeepingSpec,
        "provenance": ProvenanceSpec,
        "starts": StartsSpec,
    }
    every = {f"{table}.{name}" for table, spec in tables.items() for name in spec.model_fields}
    assert names == every | (set(ServeSpec.model_fields) - set(tables))
    defaults = ServeSpec(references=ReferencesSpec()).model_dump(mode="json")
    for table in tables:
        assert values.pop(table).items() <= defaults.pop(table).items()
    assert values.items() <= defaults.items()


def setting(name: str) -> str:
    found = re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.M)
    assert len(found) == 1, name
    return str(found[0])


def test_the_unit_starts_a_command_that_there_is_as_no_root() -> None:
    line = setting("ExecStart")
    parse(line)
    flags = flags_of(line)
    assert flags["--state"] == f"/var/lib/{setting('StateDirectory')}"
    assert is_loopback(flags.get("--host", ServeSpec().host))
    assert setting("User") not in ("", "root")
    assert setting("ProtectSystem") == "strict"


def test_the_unit_waits_for_the_longest_stop() -> None:
    longest = ServeSpec().stop_s + LINGER_S
    assert float(setting("TimeoutStopSec")) >= longest + 10
    stop = re.search(r"--stop-timeout (\d+)", PAGE)
    assert stop is not None
    assert float(stop[1]) >= longest + 10
    assert f"`TimeoutStopSec={setting('TimeoutStopSec')}`" in PAGE


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    program = setting("ExecStart").split()[0]
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace(program, sys.executable))
    checked = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
