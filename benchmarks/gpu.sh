#!/usr/bin/env bash
# Everything that is to be checked and measured on a GPU, in at most eight minutes, from the root of the repository:
#
#     benchmarks/gpu.sh                        # results go to benchmarks/results/<name of the GPU>/
#     DEVICE=cpu QUICK=1 benchmarks/gpu.sh     # tries the script itself out where there is no GPU; leaves no results
set -uo pipefail
cd "$(dirname "$0")/.."
DEVICE=${DEVICE:-cuda} QUICK=${QUICK:-}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
python - <<'CHECK' || exit 1
import importlib.util
import sys

needed = ("torch", "torchvision", "safetensors", "typer", "rich", "numpy", "PIL", "scipy", "matplotlib", "pytest")
if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
    sys.exit(f"gpu.sh: Python packages are missing: {', '.join(missing)}")
CHECK
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=()

part() { # name, seconds at most, command …
    local name=$1 most=$2
    shift 2
    most=$((most < 480 - SECONDS ? most : 480 - SECONDS))
    echo "== $name ($(date +%T), at most $most s)"
    [ "$most" -gt 0 ] && timeout "$most" "$@" || failed+=("$name: exit $?")
}

if [ -n "$QUICK" ]; then
    export VPFB_RESULTS=$work/results
    run=(--data digits --preset tiny --time-budget 12s) n=4
    ratio=(--preset tiny --size 8 --repeats 1)
    speed=(--presets tiny --repeats 1) compiled=(--presets tiny --repeats 1 --precision bf16)
else
    run=(--data shapes --size 32 --conditional --preset base --time-budget 90s --compile on) n=64
    ratio=(--preset base --size 32 --channels 3 --repeats 8 --bf16)
    speed=(--presets small base paper --precision fp32 bf16)
    compiled=(--presets base --precision bf16 --compile off on)
fi

[ "$DEVICE" = cpu ] || nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
python -c "import sys, torch; print('torch', torch.__version__, 'python', sys.version.split()[0])"
part "tests on $DEVICE" 150 env VPFB_TEST_DEVICE="$DEVICE" python -m pytest -q -p no:cacheprovider tests/core/machine/test_gpu.py
part "price of an energy" 90 python benchmarks/train_step.py "${ratio[@]}" --device "$DEVICE"
part "throughput and memory" 200 python benchmarks/throughput.py "${speed[@]}" --device "$DEVICE"
part "compiled throughput" 150 python benchmarks/throughput.py "${compiled[@]}" --device "$DEVICE"
part "training run" 150 python -m vpfb_cli train "${run[@]}" --device "$DEVICE" --out "$work/run"
part "samples" 60 python -m vpfb_cli sample -m "$work/run" -n "$n" --device "$DEVICE" -o "$work/grid.png"
part "its report" 60 python benchmarks/report_run.py "$work/run" --name gpu-short --device "$DEVICE"
if [ "$DEVICE" = cuda ] && [ "$(python -c 'import torch; print(torch.cuda.device_count())')" -gt 1 ]; then
    part "two GPUs" 90 python benchmarks/throughput.py --presets base --processes 2 --device cuda
fi

[ ${#failed[@]} -eq 0 ] || printf 'FAILED %s\n' "${failed[@]}"
exit ${#failed[@]}
