#!/usr/bin/env bash
# Everything worth measuring on a GPU within 8 minutes: tests of the kernels, then kernels, training steps and CAMs.
# Needs torch, Triton, numpy, pillow, matplotlib and pytest; neither an installed pplfast nor DALI, DeepSpeed or
# pydensecrf: what needs those is skipped, and named.
#
#   benchmarks/run_gpu.sh            results (JSON, PNG) in benchmarks/results
#   OUT=/tmp/r benchmarks/run_gpu.sh ... elsewhere;   PYTHON=... another interpreter;   QUICK=1 a trial run
set -u
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
out="$(mkdir -p "${OUT:-$root/benchmarks/results}" && cd "${OUT:-$root/benchmarks/results}" && pwd)"
python="${PYTHON:-python3}"
quick=${QUICK:+--quick}

# pplfast.kernels and pplfast.benchmarks are folders beside pplfast in a checkout: lay them out as the package has them.
site="$(mktemp -d)"
trap 'rm -rf "$site"' EXIT
mkdir "$site/pplfast"
for entry in "$root"/pplfast/*; do ln -s "$entry" "$site/pplfast/"; done
ln -s "$root/kernels" "$site/pplfast/kernels"
ln -s "$root/benchmarks" "$site/pplfast/benchmarks"
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
export PPLFAST_COMMIT="${PPLFAST_COMMIT:-$(git -C "$root" describe --always --exclude='*' --dirty --abbrev=12 2>/dev/null)}"
cd "$site" || exit 2

"$python" - <<'EOF' || exit 2
import sys
import torch
if not torch.cuda.is_available():
    sys.exit("run_gpu.sh: torch finds no CUDA device; on a CPU use `pplfast bench all`")
print(torch.__version__, torch.cuda.get_device_name())
EOF
for module in nvidia.dali deepspeed pydensecrf.densecrf; do
    "$python" -c "import $module" 2>/dev/null || echo "skipped: what needs $module (not installed)"
done

failed=0
step() { # seconds, name, command...: a step that fails or runs over its time does not stop the next
    local limit=$1 name=$2
    shift 2
    echo "== $name"
    timeout "$limit" "$@" || { echo "FAILED: $name (exit code $?)"; failed=1; }
}
step 90 "tests of the kernels" "$python" -m pytest -q -p no:cacheprovider --rootdir "$root" "$root/tests/test_kernels_gpu.py"
step 120 "kernels" "$python" -m pplfast bench kernels $quick --out "$out/gpu_kernels.json"
step 170 "training steps" "$python" -m pplfast bench train $quick --out "$out/gpu_train.json"
step 95 "CAMs" "$python" -m pplfast bench cam $quick --out "$out/gpu_cam.json"
exit $failed
