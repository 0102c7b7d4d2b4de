#!/usr/bin/env bash
# Ten minutes of one GPU: tests on CUDA, times of all stages, then training; train/GPU.md explains it.
#
#   ROBOT=runs/robot bash train/gpu.sh            everything, results in $OUT (default: runs/gpu)
#   ROBOT=runs/robot bash train/gpu.sh --short    a rehearsal of a minute or two on a CPU
#
# Run again with the same OUT, it continues the training. Without ROBOT, a set of train.make_robot, it trains on
# generated scenes, which need no data.
set -u -o pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-runs/gpu} ROBOT=${ROBOT:-} PYTHON=${PYTHON:-python3}
device=cuda minutes=(--minutes 6) rounds=(--repeats 5) sizes=(--batch 64)
only=(-m cuda tests/test_cuda.py)
if [ "${1:-}" = --short ]; then
    device=cpu minutes=(--steps 2) rounds=(--repeats 1 --frames 2 --futures 1 --models assets/models/digits-stt.safetensors)
    sizes=(--batch 1 --frames 3 --set flow_width=16 --set dim=80)
    only=(tests/test_graph_breaks.py)
fi
mkdir -p "$OUT"

step() { # NAME SECONDS COMMAND...: its output goes to NAME.txt; a failure is noted and does not stop the rest
    local name=$1 seconds=$2
    shift 2
    echo "== $name"
    timeout --signal=INT --kill-after=20 "$seconds" "$@" 2>&1 | tee "$OUT/$name.txt" | tail -n 15
    echo "$name: exit ${PIPESTATUS[0]}" | tee -a "$OUT/exits.txt"
}

step tests 90 "$PYTHON" -m pytest -q "${only[@]}"
step benchmark 90 "$PYTHON" -m train.benchmark --device $device "${rounds[@]}" --json "$OUT/benchmark.json"
if [ -f "$OUT/run/run.json" ]; then
    step training 400 "$PYTHON" -m train.predictor --resume --out "$OUT/run"
elif [ -n "$ROBOT" ]; then
    step training 400 "$PYTHON" -m train.predictor --preset robot/stt/cpu --data "$ROBOT" --partial --device $device \
        "${minutes[@]}" "${sizes[@]}" --save-every 1 --out "$OUT/run"
else
    step training 400 "$PYTHON" -m train.predictor --preset scenes_flows/stt/cpu --workers "$(nproc)" --device $device \
        "${minutes[@]}" "${sizes[@]}" --save-every 1 --out "$OUT/run"
fi
for file in log.jsonl model.safetensors; do
    [ -f "$OUT/run/$file" ] && cp "$OUT/run/$file" "$OUT/$file"
done
cat "$OUT/exits.txt"
