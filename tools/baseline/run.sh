#!/bin/sh
# What must not move: prints the bits of everything that is computed, one line each.
#
#   tools/baseline/run.sh target/release/oodkit | diff tools/baseline/record.txt -
#
# The network folders of every experiment (their hashes), the SHA-256 of weights after twenty steps of every kind of network and
# loss, and the SHA-256 of every detector's scores. Bits depend on the processor: the record names its own in the first line.
set -eu
oodkit=$1
cd "$(dirname "$0")/../.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

echo "# $(grep -m 1 'model name' /proc/cpuinfo | cut -d : -f 2 | xargs)"
for file in experiments/*.yaml; do
    "$oodkit" plan "$(basename "$file" .yaml)" --runs "$folder/none" 2>/dev/null |
        grep -o 'networks/[^ ]*' | sort -u | sed "s|^|$(basename "$file" .yaml) |"
done
for name in networks detectors; do
    "$oodkit" run "tools/baseline/$name.yaml" --runs "$folder/$name" >/dev/null 2>"$folder/log" || { cat "$folder/log" >&2; exit 1; }
    cd "$folder/$name/networks"
    # The data alone: the header holds the version and the identity.
    find . -name model.safetensors | sort | while read -r file; do
        header=$(od -An -t u8 -N 8 "$file" | tr -d ' ')
        printf '%s %s\n' "$(tail -c +$((header + 9)) "$file" | sha256sum | cut -c 1-16)" "${file#./}"
    done
    find . -path '*/scores/*.npy' | sort | while read -r file; do
        printf '%s %s\n' "$(sha256sum "$file" | cut -c 1-16)" "${file#./}"
    done
    cd - >/dev/null
done
