#!/usr/bin/env bash
# Everything that a GPU has to show, in runs of which A to D fit into fifteen minutes of a GPU machine without network.
# What runs at all comes before how fast it runs:
#
#   A  smoke lines, tests of the kernels                         needs torch, Triton, pytest, hypothesis
#   B  bench kernels                                             the same
#   C  the real chain through DALI and DeepSpeed: doctor, the lines that need DALI, `pplfast run` on the demo set in
#      bf16, the same labels twice (once with CUDA_LAUNCH_BLOCKING=1), WideResNet-38 for 60 steps, the CUDA tests of
#      the whole program; then, with IMAGES, the chain on real images
#   D  bench train, cam, crf, walk                               as A
#   E  plain and progressive classifiers of real images at 448 pixels, four seeds each, and what the chain makes of their
#      CAMs: needs IMAGES with masks, and what C needs, of which it takes the parts that C has unpacked
#   F  60 steps of EfficientNet-Lite0 as it is, and with CUDA graphs (--compile reduce-overhead)      as E, without IMAGES
#
# Ready commands, the next one at hand before a run ends (COMMIT: of this tree, whose .git may not travel; the
# parts are those of offline_wheels.sh, of which such a machine may take only one at a time):
#
#   PPLFAST_COMMIT=COMMIT PART=.whl/part.aa OUT=$OUT timeout -k 5 200 benchmarks/run_gpu.sh A
#   PPLFAST_COMMIT=COMMIT PART=.whl/part.ab OUT=$OUT timeout -k 5 110 benchmarks/run_gpu.sh B
#   PPLFAST_COMMIT=COMMIT PART=.whl/part.ac OUT=$OUT timeout -k 5 300 benchmarks/run_gpu.sh C
#   PPLFAST_COMMIT=COMMIT OUT=$OUT timeout -k 5 240 benchmarks/run_gpu.sh D
#   PPLFAST_COMMIT=COMMIT OUT=$OUT IMAGES=DIR SWEEP="--train-list train_aug --val-list train" \
#       timeout -k 5 500 benchmarks/run_gpu.sh E
#   PPLFAST_COMMIT=COMMIT OUT=$OUT timeout -k 5 260 benchmarks/run_gpu.sh F
#
# `all` (the default) is A, B, C and D after one another, with no limit but those of the single steps. Each run leaves one
# archive, OUT/gpu_<run>.tar.gz (all JSON and PNG files and one log), packed anew every few seconds, so that a run that
# is cut off leaves what it has. Unpack it in benchmarks/results.
#
#   OUT=DIR       where the archive goes (default: benchmarks/results)      PYTHON=...  another interpreter
#   PART=FILE     kept in KEEP (default: build/gpu_parts) until C unpacks all parts; without parts C takes what is
#                 installed                                                 IMAGES=DIR  a data set in VOC layout, for C and E;
#                 CLASSES=bus=6,cat=8 its classes, where they are not VOC's twenty
#   SWEEP="..."   more options of `pplfast sweep`, for E: lists, labels, --seeds
#   QUICK=1       a trial run: few rounds, small sizes
#   PPLFAST_DEVICE=cpu   a trial run of this script itself where there is no GPU: the files are then named cpu_* and say
#                 device cpu
set -u
run="${1:-all}"
case "$run" in A) budget=190 ;; B) budget=100 ;; C) budget=290 ;; D) budget=230 ;; E) budget=490 ;; F) budget=250 ;; all) budget=100000 ;;
    *) sed -n '2,/^set/{/^#/p}' "$0" | cut -c3- >&2; exit 2 ;;
esac
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
out="$(mkdir -p "${OUT:-$root/benchmarks/results}" && cd "${OUT:-$root/benchmarks/results}" && pwd)"
keep="$(mkdir -p "${KEEP:-$root/build/gpu_parts}" && cd "${KEEP:-$root/build/gpu_parts}" && pwd)"  # ignored by git
[ -z "${PART:-}" ] || cp "$PART" "$keep/" || exit 2
images="${IMAGES:+$(cd "$IMAGES" && pwd)}"
python="${PYTHON:-python3}"
device="${PPLFAST_DEVICE:-cuda}"
name="${device/cuda/gpu}"
quick=${QUICK:+--quick}
patience=1 failed=0
[ "$device" = cuda ] || patience=10 budget=100000  # the limits are a GPU machine's

# pplfast.kernels and pplfast.benchmarks are folders beside pplfast in a checkout: lay them out as the package has them.
site="$(mktemp -d)"
results="$site/results" work="$site/work"
mkdir "$site/pplfast" "$results" "$work"
for entry in "$root"/pplfast/*; do ln -s "$entry" "$site/pplfast/"; done
ln -s "$root/kernels" "$site/pplfast/kernels"
ln -s "$root/benchmarks" "$site/pplfast/benchmarks"
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONPYCACHEPREFIX="$site/pycache" PYTHONUNBUFFERED=1
# Of this run alone: a process that is killed while it compiles for DeepSpeed leaves a lock, for which all others wait.
export TORCH_EXTENSIONS_DIR="$site/torch_extensions"
PPLFAST_COMMIT="${PPLFAST_COMMIT:-$(git -C "$root" describe --always --exclude='*' --dirty --abbrev=12 2>/dev/null)}"
export PPLFAST_COMMIT

pack() {
    local part="$out/.gpu_$run.$BASHPID"
    tar -C "$results" -czf "$part" . 2>/dev/null  # what changed meanwhile is whole in the next one
    mv "$part" "$out/${name}_$run.tar.gz"
}
finish() { # exit code
    trap '' TERM INT EXIT
    for job in "${step_pid:-}" "${beside_pid:-}" "${chain_pid:-}" "${network_pid:-}" "${copy_pid:-}"; do [ -z "$job" ] || kill "$job" 2>/dev/null; done
    kill "$packer" 2>/dev/null
    wait "$packer" 2>/dev/null
    echo "run $run: exit code $1 after ${SECONDS} s; results: $out/${name}_$run.tar.gz"
    exec >&- 2>&-
    for _ in $(seq 30); do kill -0 "$tee" 2>/dev/null || break; sleep 0.1; done  # the log's last lines
    pack
    rm -rf "$site"
    exit "$1"
}
exec > >(exec tee -a "$results/${name}_$run.log") 2>&1
tee=$!
(while sleep 5; do pack; done) >/dev/null 2>&1 &
packer=$!
trap 'finish 143' TERM INT
trap 'finish $?' EXIT
cd "$site" || exit 2

step() { # seconds, name, command...: a step that fails or runs over its time does not stop the next
    local limit=$(($1 * patience)) what=$2 left=$((budget - SECONDS)) start=$SECONDS
    shift 2
    [ "$left" -ge 5 ] || { echo "LEFT OUT: $what (no time left)"; failed=1; return 1; }
    echo "== $what"
    # In the background, so that a signal to this script is dealt with at once.
    timeout -s "${stop:-TERM}" -k 10 "$((limit < left ? limit : left))" "$@" &
    step_pid=$!
    wait "$step_pid"
    local code=$?
    step_pid=
    echo "-- $what: exit code $code after $((SECONDS - start)) s"
    pack
    [ $code = 0 ] || { echo "FAILED: $what"; failed=1; return 1; }
}
bench() { # seconds, benchmark, options...
    local limit=$1 which=$2
    shift 2
    step "$limit" "bench $which" "$python" -m pplfast bench "$which" $quick "$@" --out "$results/${name}_$which.json"
}
beside() { # command...: while others go on
    (trap 'kill -s "${stop:-TERM}" "$step_pid" 2>/dev/null; wait "$step_pid"; exit 143' TERM; failed=0; "$@"; exit $failed) &
    beside_pid=$!
}
smoke() { # seconds, file, options...
    local limit=$1 file=$2 tiny=
    shift 2
    [ "$device" = cuda ] && [ -z "$quick" ] || tiny=--tiny
    step "$limit" "smoke $file" "$python" -m pplfast.benchmarks.gpu_smoke --device "$device" $tiny \
        --out "$results/${name}_$file.json" "$@"
}
tests() { # seconds, files...
    local limit=$1 parallel=
    shift
    "$python" -c "import xdist" 2>/dev/null && parallel="-n 12"
    # A cut-off run is worth the names of what it did (verbose twice: the project's settings are quiet once) and what
    # failed, which pytest prints when it is interrupted; a background process ignores that signal until told otherwise.
    local heeding="import signal, sys, pytest; signal.signal(signal.SIGINT, signal.default_int_handler)"
    # One thread a worker: the networks that are compared are computed on the CPU too.
    stop=INT step "$limit" "tests: ${*##*/}" env OMP_NUM_THREADS=1 "$python" -c "$heeding; sys.exit(pytest.main(sys.argv[1:]))" -vv --tb=short --durations=15 $parallel \
        -p no:cacheprovider --rootdir "$root" "$@"
}

run_A() {
    smoke 110 smoke
    tests 75 "$root/tests/test_kernels_gpu.py"
}
run_B() {
    bench 100 kernels --no-compile
}
run_D() {
    bench 130 train --no-compile
    bench 50 cam --no-compile
    bench 40 crf
    bench 30 walk
}
run_E() {
    [ -n "$images" ] || { echo "E needs IMAGES=DIR"; failed=1; return; }
    [ ! -d "$keep/site" ] || export PYTHONPATH="$PYTHONPATH:$keep/site"
    local sweep="$keep/sweep"
    # Several at a time: the host's launches of a network this small take longer than what they launch.
    local regime=(--set augment.crop=448 --set "augment.resize_long=[320,640]" --set optim.batch=16
        --set stages.0.epochs=6 --set stages.1.epochs=6 --seeds 0-3 --at-once 8)
    [ -z "$quick" ] || regime=(--set augment.crop=64 --set "augment.resize_long=[64,96]" --set "cam.scales=[1.0]"
        --set affinity.epochs=1 --set segmentation.epochs=1 --seeds 0 --at-once 2)
    # sweep.json is written after every run; one that is cut off is finished by the next E on the same machine.
    (while sleep 5; do cp "$sweep/sweep.json" "$results/${name}_sweep_chain.json"; done) 2>/dev/null &
    copy_pid=$!
    step 480 "sweep of $images" "$python" -m pplfast sweep --data "$images" ${CLASSES:+--classes "$CLASSES"} \
        --recipe own-images --variants plain,ppl --steps all "${regime[@]}" --choose-on 0.5 --by-size ${SWEEP:-} \
        --out "$sweep"
    kill "$copy_pid"
    copy_pid=
    cp "$sweep/sweep.json" "$results/${name}_sweep_chain.json"
}
chain_images= network_images="--train 48 --val 2 --size 504"
[ -z "$quick" ] || { chain_images="--train 16 --val 8 --size 96" network_images="--train 8 --val 2 --size 72"; }
run_C() {
    "$python" -m pplfast data demo --out "$work/demo" $chain_images & # needs no GPU and none of the parts
    chain_pid=$!
    "$python" -m pplfast data demo --out "$work/large" $network_images &
    network_pid=$!
    if ls "$keep"/part.* >/dev/null 2>&1; then
        mkdir -p "$keep/site"
        step 60 "unpack $(ls "$keep" | grep -c ^part) parts" bash -c "cat '$keep'/part.* | tar -xJ -C '$keep/site'"
        export PYTHONPATH="$PYTHONPATH:$keep/site"
    fi
    step 45 "doctor" "$python" -m pplfast doctor
    shopt -s nullglob
    local whole=("$root"/tests/test_gpu_*.py)
    [ ${#whole[@]} = 0 ] || beside tests 110 "${whole[@]}"
    chain
    smoke 60 smoke_losses --only losses
    wait "$beside_pid" || failed=1
    wait "$network_pid" || { echo "FAILED: images for wrn38"; failed=1; return; }
    network network 90 wrn38 b4_5 --profile 2 # alone, since its time a step counts
    [ -z "$images" ] || chain_of_images
}
chain() { # the demo set, then the same labels twice: they differ where an image is overwritten while it is read
    local demo=(--data "$work/demo") differ=0
    wait "$chain_pid" || { echo "FAILED: images of the demo set"; failed=1; return; }
    step 120 "chain of the demo set" "$python" -m pplfast run "${demo[@]}" --recipe demo --variants ppl \
        --set optim.precision=bf16 --set stages.0.epochs=1 --set stages.1.epochs=1 --out "$work/run" || return
    cp "$work/run/summary.json" "$results/${name}_chain.json"
    cp "$work/run/ppl/train/log.jsonl" "$results/${name}_chain_log.jsonl"
    local label=("$python" -m pplfast label --model "$work/run/ppl/train" "${demo[@]}" --list train --crf device
        --value 0.25)
    step 60 "labels" "${label[@]}" --out "$work/labels"
    step 60 "labels, every launch waited for" env CUDA_LAUNCH_BLOCKING=1 "${label[@]}" --out "$work/labels_blocking"
    local files=("$work"/labels/*.png)
    for file in "${files[@]}"; do cmp -s "$file" "$work/labels_blocking/${file##*/}" || differ=$((differ + 1)); done
    echo "labels with and without CUDA_LAUNCH_BLOCKING: $differ of ${#files[@]} differ"
    echo "{\"labels\": ${#files[@]}, \"differ\": $differ}" > "$results/${name}_launch_blocking.json"
    [ -f "${files[0]}" ] && [ "$differ" = 0 ] || { echo "FAILED: labels in two runs"; failed=1; }
}
network() { # file, seconds, backbone, cut, options of train: 60 steps at 448 pixels, batch 16, as it is trained
    local file=$1 seconds=$2 backbone=$3 cut=$4 crop=448 batch=16 epochs=20
    shift 4
    [ -z "$quick" ] || { crop=64 batch=2 epochs=0.5 backbone=efficientnet_lite0 cut=group5; }
    # No weights: not all are in the parts.
    local tables=("[model]" "backbone = \"$backbone\"" "weights = \"none\"" "[augment]" "crop = $crop"
        "resize_long = [$crop, $((crop * 3 / 2))]" "[optim]" "lr = 0.001" "batch = $batch" "precision = \"bf16\""
        "[[stages]]" "position = \"$cut\"" "grid = 2" "epochs = $epochs")
    printf '%s\n' "name = \"$backbone\"" "${tables[@]}" > "$work/$file.toml"
    step "$seconds" "60 steps of $backbone $*" "$python" -m pplfast train --data "$work/large" --list train \
        --recipe "$work/$file.toml" --out "$work/$file" --checkpoint-every 1000 "$@"
    cp "$work/$file/log.jsonl" "$results/${name}_${file}_log.jsonl"
    cp "$work/$file"/profile/*.gz "$results/${name}_${file}_trace.json.gz" 2>/dev/null
}
run_F() {
    [ ! -d "$keep/site" ] || export PYTHONPATH="$PYTHONPATH:$keep/site"
    "$python" -m pplfast data demo --out "$work/large" $network_images || { failed=1; return; }
    network lite0 80 efficientnet_lite0 group3
    network lite0_graphs 150 efficientnet_lite0 group3 --compile reduce-overhead
}
chain_of_images() {
    step 600 "chain of $images" "$python" -m pplfast run --data "$images" ${CLASSES:+--classes "$CLASSES"} \
        --recipe voc-lite0 --variants ppl \
        --out "$work/images" && cp "$work/images/summary.json" "$results/${name}_images.json"
}

echo "run $run on $device, commit ${PPLFAST_COMMIT:-unknown}, $(date -u +%FT%TZ)"
"$python" - "$device" <<'END' || exit 2
import sys
import torch
if sys.argv[1] == "cuda" and not torch.cuda.is_available():
    sys.exit("run_gpu.sh: torch finds no CUDA device; to try the script: PPLFAST_DEVICE=cpu QUICK=1")
print(torch.__version__, torch.cuda.get_device_name() if sys.argv[1] == "cuda" else "cpu")
END
for module in nvidia.dali deepspeed pydensecrf.densecrf; do
    "$python" -c "import $module" 2>/dev/null || echo "not installed: $module; what needs it is left out, and named"
done
if [ "$run" = all ]; then run_A; run_B; run_C; run_D; else "run_$run"; fi
exit $failed
