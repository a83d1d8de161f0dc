"""Stands for gcloud on PATH: records what it is asked, and answers from a scenario.

$FAKE_GCLOUD names a directory. scenario.json there maps a kind of call (create, delete, queue,
node, scp, config, or the verb of the worker's script) to a list of answers: a text to print, or
[exit code, text for stderr]. The last one is repeated. With "home", a remote command is handed to
a shell there, as ssh does. Each call is added to calls.jsonl.
"""

import json
import os
import pathlib
import subprocess
import sys

here = pathlib.Path(os.environ["FAKE_GCLOUD"])
scenario = json.loads((here / "scenario.json").read_text())
arguments = sys.argv[1:]
command = next((word[10:] for word in arguments if word.startswith("--command=")), "")

if arguments[0] == "config":
    kind = "config"
elif arguments[3] == "ssh":
    words = command.split()
    kind = words[2] if words[0] == "bash" else words[0]
elif arguments[3] == "describe":
    kind = {"queued-resources": "queue", "tpu-vm": "node"}[arguments[2]]
else:
    kind = arguments[3]

log = here / "calls.jsonl"
before = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
with log.open("a") as file:
    file.write(json.dumps({"kind": kind, "arguments": arguments, "command": command}) + "\n")

if command and "home" in scenario:
    home = scenario["home"]
    env = {**os.environ, "HOME": home}
    sys.exit(subprocess.run(["bash", "-c", command], cwd=home, env=env, check=False).returncode)
answers = scenario.get(kind, [""])
answer = answers[min(sum(call["kind"] == kind for call in before), len(answers) - 1)]
if kind == "queue" and isinstance(answer, str) and "\t" not in answer:
    answer += "\tv5litepod-8\tsimclr_jax"  # as `create` asks for it
if isinstance(answer, str):
    print(answer)
else:
    print(answer[1], file=sys.stderr)
    sys.exit(answer[0])
