#!/usr/bin/env bash
# Checks that includes point down only (DESIGN.md, "Levels"). Called by `make lint`. Prints each include that does not.
set -euo pipefail
cd "$(dirname "$0")/.."

bad=0
# check ROOM ALLOWED: a file in ROOM may include quoted headers only from the ALLOWED folders (an extended regex).
check() {
  local room=$1 allowed=$2 found
  [[ -d $room ]] || return 0
  found=$(grep -rnE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' "$room" | grep -vE "include[[:space:]]*\"($allowed)/" || true)
  if [[ -n $found ]]; then
    printf '%s may include only %s:\n%s\n' "$room" "${allowed//|/, }" "$found"
    bad=1
  fi
}
check include/samebits samebits
check src/numerics 'samebits|numerics'
check src/cpu 'samebits|numerics|cpu'
check src/cuda 'samebits|numerics|cuda|cutlass|cute'
check src/io 'samebits|numerics|cuda|core|io'
check src/core 'samebits|numerics|cpu|cuda|core'
check src/cli 'samebits|numerics|cpu|cuda|core|io|cli'
check src/torch 'samebits|numerics|cuda|core|torch'

# refuse WHAT PATTERN ROOM...: no line of the rooms may match.
refuse() {
  local what=$1 pattern=$2 found
  shift 2
  found=$(grep -rnE "$pattern" "$@" 2>/dev/null || true)
  if [[ -n $found ]]; then
    printf '%s:\n%s\n' "$what" "$found"
    bad=1
  fi
}
below_cli=(include/samebits src/numerics src/cpu src/cuda src/io src/core)
refuse 'torch has no place below src/torch' '#include *[<"](torch|ATen|c10)/' "${below_cli[@]}" src/cli
refuse 'torch is met through its stable ABI only' '#include *[<"](ATen|c10|torch/(torch|extension|library))' src/torch
refuse 'CUDA headers belong to src/cuda' '#include *<cu(da|blas|tlass)' include/samebits src/numerics src/cpu src/io src/core src/cli src/torch
refuse 'below src/cli nothing prints, exits or reads the environment' \
  'std::(cout|cerr|clog|getenv|exit)|[^a-z_](printf|puts|getenv|exit)\(|fmt::print' "${below_cli[@]}"
exit $bad
