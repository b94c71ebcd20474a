#!/bin/sh
# Opens pages of `oodkit report` in headless Chromium: the script runs under the page's policy, nothing is asked of a network, and
# screenshots (wide, as narrow as a phone, on paper) lie in target/report-check to be looked at.
#
#   tools/report-check.sh target/release/oodkit
set -eu

oodkit=$1
out=target/report-check
chromium=${CHROMIUM:-}
for name in chromium chromium-browser google-chrome; do
  [ -n "$chromium" ] || chromium=$(command -v "$name" || true)
done
if [ -z "$chromium" ] || ! command -v "$chromium" >/dev/null; then
  echo "chromium was not found" >&2
  echo "hint: apt-get install chromium, or CHROMIUM=/path/to/it" >&2
  exit 2
fi

# Chromium has no sandbox for root.
sandbox=
[ "$(id -u)" != 0 ] || sandbox=--no-sandbox
browse() {
  timeout 120 "$chromium" --headless=new $sandbox --disable-gpu --hide-scrollbars --allow-file-access-from-files "$@"
}

mkdir -p "$out"
export OODKIT_RUNS="$out/runs"
for name in quickstart surface_quickstart; do
  "$oodkit" run "$name" --smoke >/dev/null
  "$oodkit" report "$name" --smoke --out "$out/$name.html"
  page="file://$PWD/$out/$name.html"
  # What the script adds is there: it ran.
  browse --enable-logging=stderr --v=0 --dump-dom "$page" >"$out/$name.dom" 2>"$out/$name.log"
  for told in 'aria-sort="none"' '<button type="button">' 'id="configuration"'; do
    grep -q "$told" "$out/$name.dom" || { echo "$name: the page lacks $told" >&2; exit 1; }
  done
  if grep -E 'CONSOLE' "$out/$name.log" >&2; then
    echo "$name: the browser complains" >&2
    exit 1
  fi
  browse --window-size=1280,4000 --screenshot="$out/$name-wide.png" "$page" 2>/dev/null
  # A window is not made as narrow as a phone; a frame is.
  frame="$out/$name-frame.html"
  echo "<!DOCTYPE html><style>body{margin:0}iframe{border:0;width:390px;height:6000px}</style><iframe src=\"$name.html\"></iframe>" >"$frame"
  browse --window-size=600,6000 --screenshot="$out/$name-narrow.png" "file://$PWD/$frame" 2>/dev/null
  browse --print-to-pdf="$out/$name.pdf" "$page" 2>/dev/null
done
grep -q 'aria-valuetext' "$out/surface_quickstart.dom" || { echo "surface_quickstart: no slider" >&2; exit 1; }
echo "look at $out/*.png and $out/*.pdf"
