#!/usr/bin/env bash
# Everything that is to be checked and measured on a GPU, in at most eight minutes, from anywhere:
#
#     benchmarks/gpu.sh                        # results go to benchmarks/results/<name of the GPU>/
#     VPFB_DATA=DIR benchmarks/gpu.sh          # trains on faces or CIFAR-10 if DIR has one of the files named below
#     VPFB_RESULTS=DIR benchmarks/gpu.sh       # results go to DIR/<name of the GPU>/
#     DEVICE=cpu QUICK=1 benchmarks/gpu.sh     # tries the script itself out where there is no GPU; leaves no results
#
# The most valuable parts come first. Each part writes its results as soon as it has them, and the others go on if it
# fails. Everything that is printed is in gpu.log beside the results. The exit code is the number of parts that failed.
# PYTHON names the interpreter.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
TOTAL=480 # seconds
ENDING=60 # of them, for what follows the training
DEVICE=${DEVICE:-cuda} QUICK=${QUICK:-} PYTHON=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 COLUMNS=140
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
[ -z "$QUICK" ] || export VPFB_RESULTS=${VPFB_RESULTS:-$work/results}

results=$("$PYTHON" - "$DEVICE" <<'CHECK'
import importlib.util
import sys

needed = ("torch", "torchvision", "safetensors", "typer", "rich", "numpy", "PIL", "scipy", "matplotlib", "pytest")
if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
    sys.exit(f"gpu.sh: Python packages are missing: {', '.join(missing)}")
import torch

if sys.argv[1].startswith("cuda") and not torch.cuda.is_available():
    sys.exit(f"gpu.sh: torch {torch.__version__} finds no GPU; DEVICE=cpu QUICK=1 tries the script out without one")
sys.path.append("benchmarks")
import record

print(record.folder(sys.argv[1]))
CHECK
) || exit 1
exec > >(tee "$results/gpu.log") 2>&1
log=$! failed=()

part() { # name, seconds at most, command …
    local name=$1 most=$2 began=$SECONDS code
    shift 2
    most=$((most < TOTAL - SECONDS ? most : TOTAL - SECONDS))
    if [ "$most" -le 0 ]; then
        failed+=("$name: no time left")
        return
    fi
    echo "== $name (at most $most s)"
    timeout -k 5 "$most" "$@"
    code=$?
    echo "== $name: exit $code after $((SECONDS - began)) s"
    [ "$code" -eq 0 ] || failed+=("$name: exit $code")
}

choose_data() { # sets data: the options that name what to train on
    local root=${VPFB_DATA:-/nowhere} name folder unpacked=$work/unpacked
    data=(--data shapes --conditional)
    [ -z "$QUICK" ] || return
    for name in faces64 cifar10_jpeg; do # an archive or a folder of images
        if [ -f "$root/$name.tar.gz" ]; then
            mkdir -p "$unpacked/$name" && tar -xzf "$root/$name.tar.gz" -C "$unpacked/$name"
        fi
        for folder in {"$unpacked","$root"}/"$name"/{train,"$name",.}; do
            [ -d "$folder" ] && data=(--data "$folder" --conditional) && return
        done
    done
    [ ! -d "$root/cifar-10-batches-py" ] || data=(--data cifar10 --no-download --conditional) # torchvision's files
}

if [ -n "$QUICK" ]; then
    exact=(-m digits -n 4)
    speed=(--presets tiny --repeats 1 --precision bf16)
    ratio=(--preset tiny --size 8 --repeats 1)
    run=(--preset tiny --size 8) n=4
else
    exact=(-n 32)
    speed=(--presets base paper --precision bf16 --compile off on)
    ratio=(--preset base --size 32 --channels 3 --repeats 8 --precisions fp32 bf16)
    run=(--preset base --size 32) n=64
fi

[[ $DEVICE != cuda* ]] || nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
"$PYTHON" -c "import sys, torch; print('torch', torch.__version__, 'python', sys.version.split()[0])"
part "TF32 and energies" 60 "$PYTHON" benchmarks/precision.py "${exact[@]}" --device "$DEVICE"
part "tests on $DEVICE" 150 env VPFB_TEST_DEVICE="$DEVICE" "$PYTHON" -m pytest -q -p no:cacheprovider tests/core/machine/test_gpu.py
part "throughput and memory" 180 "$PYTHON" benchmarks/throughput.py "${speed[@]}" --device "$DEVICE"
part "price of an energy" 40 "$PYTHON" benchmarks/train_step.py "${ratio[@]}" --device "$DEVICE"
if [ "$DEVICE" = cuda ] && [ "$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')" -gt 1 ]; then
    part "two GPUs" 60 "$PYTHON" benchmarks/throughput.py --presets base --precision bf16 --processes 2 --device cuda
fi

choose_data # which may take seconds to unpack
left=$((TOTAL - ENDING - SECONDS))
budget=$((QUICK ? 40 : left * 9 / 10 - 5)) # a run may take a tenth of its budget and 5 s more
if [ "$budget" -ge 10 ]; then
    part "training run" "$left" "$PYTHON" -m vpfb_cli train "${data[@]}" "${run[@]}" --time-budget "${budget}s" --device "$DEVICE" --out "$work/run"
    part "samples" 30 "$PYTHON" -m vpfb_cli sample -m "$work/run" -n "$n" --device "$DEVICE" -o "$work/grid.png"
    part "its report" 30 "$PYTHON" benchmarks/report_run.py "$work/run" --name gpu-short --device "$DEVICE"
else
    failed+=("training run: no time left")
fi

[ ${#failed[@]} -eq 0 ] || printf 'FAILED %s\n' "${failed[@]}"
echo "$SECONDS s in all; results in $results"
exec >&- 2>&-
wait "$log" # until gpu.log is complete
exit ${#failed[@]}
