#!/usr/bin/env bash
# lmms_eval_environment.sh ENVIRONMENT [SITE_PACKAGES]: makes a virtual environment with lmms-eval and this checkout.
#
# lmms-eval 0.7.3 asks for av<16, this package for av>=17.1, so pip finds no solution for both. lmms-eval runs with the
# newer one; so it is installed without what it asks for, and what the model, the tasks of the table and `lmms-eval eval`
# need of that comes from requirements.txt of the folder of this script. SITE_PACKAGES: packages of another environment
# (torch, transformers, ...) that are shared rather than installed again.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
environment=$1

python3 -m venv "$environment"
if [[ $# -gt 1 ]]; then
  echo "$2" > "$(echo "$environment"/lib/python3.*/site-packages)/shared.pth"
fi
"$environment/bin/pip" install --quiet --editable "$here/../..[test]" --requirement "$here/requirements.txt"
"$environment/bin/pip" install --quiet --no-deps lmms-eval==0.7.3
"$environment/bin/python" - <<'END'
from importlib.metadata import version
print(", ".join(f"{name} {version(name)}" for name in ("lmms-eval", "datasets", "transformers", "torch", "av")))
END
