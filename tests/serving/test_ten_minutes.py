"""The commands of "Ten minutes to three pictures" in docs/serving.md, run as they stand against a real server."""

import base64
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "serving.md").read_text()
MINUTES = PAGE[PAGE.index("## Ten minutes to three pictures") : PAGE.index("## What each interface takes")]
FENCES = re.findall(r"^```(\w*)\n(.*?)^```$", MINUTES, re.M | re.S)


def commands(fence: str) -> list[str]:
    """The commands of a fence, each with its lines of data."""
    found: list[str] = []
    for line in fence.splitlines():
        if re.match(r"(?:pip|mkdir|detour|curl) ", line):
            found.append(line)
        else:
            found[-1] += "\n" + line
    return found


def adapter_in(folder: Path) -> None:
    """A small adapter for the embedded base, where a training run would have left it."""
    from benchmarks.mixed import Setting

    from detour.adapter_files.writing import write_adapter
    from detour.bases.base import open_base

    base = open_base("pocket")
    folder.mkdir(parents=True)
    adapter = Setting(base, 1, 1, rank=4, targets="attn").adapters[0]
    write_adapter(folder / "my-style.safetensors", adapter, family=base.family)


class Shell:
    """Runs commands of the page in a folder, with the server's own port."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port

    def here(self, text: str) -> str:
        return text.replace("8188", str(self.port))

    def run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", self.here(command).replace("curl ", "curl -sS ", 1)],
            cwd=self.folder, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout


def check_png(data: bytes, seed: int) -> None:
    picture = Image.open(io.BytesIO(data))
    assert picture.size[0] >= 64
    said = json.dumps(getattr(picture, "text", {}))
    assert "my-style" in said
    assert str(seed) in said


def native(shell: Shell, lines: list[str]) -> None:
    made = json.loads(shell.run(lines[0]))
    events, job, drop = (line.replace("ID", made["id"]) for line in lines[1:])
    assert "event: done" in shell.run(events)
    told = json.loads(shell.run(job))
    assert told["state"] == "done"
    for index, picture in enumerate(told["pictures"]):
        done = subprocess.run(["curl", "-sS", picture["url"]], capture_output=True, check=True)
        check_png(done.stdout, 7 + index)
    assert json.loads(shell.run(drop))["state"] == "done"


def openai(shell: Shell, snippet: str) -> None:
    names: dict[str, Any] = {}
    exec(compile(shell.here(snippet), "serving.md", "exec"), names)
    assert len(names["answer"].data) == 2
    for index, one in enumerate(names["answer"].data):
        assert one.b64_json, one
        check_png(base64.b64decode(one.b64_json), 7 + index)


def a1111(shell: Shell, lines: list[str]) -> None:
    told = json.loads(shell.run(lines[0]))
    assert len(told["images"]) == 2
    for index, one in enumerate(told["images"]):
        check_png(base64.b64decode(one), 7 + index)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not here")
def test_each_command_of_the_page_leads_to_a_picture(tmp_path: Path) -> None:
    (_, install), (_, by_native), (kind, by_openai), (_, by_a1111) = FENCES
    assert kind == "python"
    pip, shelf, start = commands(install)
    assert pip == "pip install 'detour-lora[serve]'"
    adapter_in(tmp_path / "runs" / "my-style")
    subprocess.run(["bash", "-c", shelf], cwd=tmp_path, check=True)
    began = time.monotonic()
    with (tmp_path / "server.log").open("w") as log:
        words = [sys.executable, "-m", "detour", *start.split()[1:], "--port", "0"]
        server = subprocess.Popen(words, cwd=tmp_path, stderr=log)
    try:
        while "ready: " not in (said := (tmp_path / "server.log").read_text()):
            assert server.poll() is None, said
            assert time.monotonic() - began < 300, said
            time.sleep(0.2)
        found = re.search(r"listening on http://127\.0\.0\.1:(\d+)", said)
        assert found is not None
        ready_s, shell = time.monotonic() - began, Shell(tmp_path, int(found[1]))
        native(shell, commands(by_native))
        openai(shell, by_openai)
        a1111(shell, commands(by_a1111))
        print(f"ready after {ready_s:.0f} s, six pictures after {time.monotonic() - began:.0f} s")
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(120)
    assert code == 0
