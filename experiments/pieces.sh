#!/usr/bin/env bash
# Folders as an archive in pieces, for transfers that limit the size of a file.
#
#   bash experiments/pieces.sh pack OUT SIZE PATH...   writes OUT/piece.* of at most SIZE (60M) each
#   bash experiments/pieces.sh unpack OUT              puts each PATH back, below this folder
#
# OUT/SHA256SUMS is written last and read first, so an archive that was cut off is refused. Either
# command can be given again.
set -euo pipefail

fail() {
  echo "error: $1" >&2
  exit 1
}

pack() {
  local out=$1 size=$2 path
  shift 2
  for path; do
    [ -e "$path" ] || fail "$path is missing; PATHs are those below this folder."
  done
  mkdir -p "$out"
  rm -f "$out"/piece.* "$out/SHA256SUMS"
  tar -cf - "$@" | split -b "$size" - "$out/piece."
  (cd "$out" && sha256sum piece.* >sums && mv sums SHA256SUMS)
}

unpack() {
  local out=$1
  [ -f "$out/SHA256SUMS" ] || fail "$out/SHA256SUMS is missing: the archive is not whole."
  (cd "$out" && sha256sum --check --quiet SHA256SUMS) ||
    fail "$out: a piece is missing or damaged. Bring it here again."
  (cd "$out" && cut -d ' ' -f 3 SHA256SUMS | xargs cat) | tar -xf -
}

case "${1:-} $#" in
  "pack "[4-9]* | "pack "[1-3][0-9]*) pack "${@:2}" ;;
  "unpack 2") unpack "$2" ;;
  *) fail "give pack OUT SIZE PATH..., or unpack OUT." ;;
esac
