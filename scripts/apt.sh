#!/usr/bin/env bash
# Makes sure that the Debian / Ubuntu packages of the named groups are installed: scripts/apt.sh GROUP...
# Called by the Makefile. Installs what is missing as root or with passwordless sudo, else names the command and stops.
set -euo pipefail

build=(g++ cmake ninja-build python3-venv ccache
       libhwy-dev libtbb-dev libfmt-dev nlohmann-json3-dev libcli11-dev libxxhash-dev)
tests=(libgtest-dev libbenchmark-dev)
format=(clang-format-14)
tidy=(clang-tidy-14)
fuzz=(clang-14 libclang-rt-14-dev)

wanted=()
for group in "$@"; do
  declare -n packages=$group
  wanted+=("${packages[@]}")
done

if ! command -v apt-get >/dev/null; then
  echo "This is not Debian or Ubuntu: nothing is installed. Needed here, under their Debian names: ${wanted[*]}"
  exit 0  # CMake names whatever is really missing
fi

missing=()
for package in "${wanted[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $status == installed ]] || missing+=("$package")
done
((${#missing[@]})) || exit 0

run=()
if ((EUID != 0)); then
  if ! sudo -n true 2>/dev/null; then
    printf 'These packages are missing. Please run, then call make again:\n\n  sudo apt-get install -y %s\n\n' "${missing[*]}" >&2
    exit 1
  fi
  run=(sudo -n)
fi
echo "Installing: ${missing[*]}"
"${run[@]}" apt-get update -q
"${run[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
