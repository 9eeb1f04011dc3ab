#!/usr/bin/env bash
# A release without the upload: sdist and wheels, built, checked and served as an index on this machine, from which a new
# environment installs `eigengrad` and `eigengrad[lab]`. Usage: release/rehearsal.sh [FOLDER, for what is built]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
dist=$(mkdir -p "${1:-dist}" && cd "${1:-dist}" && pwd)
work=$(mktemp -d)
trap 'kill ${server:-} 2> /dev/null || true; rm -rf "$work"' EXIT
rm -f "$dist"/*.whl "$dist"/*.tar.gz

# The sdist, a wheel made from it that any Linux of this age takes, and the pure wheel of platforms without a kernel.
"$python" -m build --outdir "$work" . > "$work/log" 2>&1 || { cat "$work/log"; exit 1; }
mv "$work"/*.tar.gz "$dist"
if [ "$(uname)" = Linux ]; then
    PATH=$(dirname "$("$python" -c 'import sys; print(sys.executable)')"):$PATH \
        "$python" -m auditwheel repair --wheel-dir "$dist" "$work"/*.whl
else
    mv "$work"/*.whl "$dist"
fi
SKBUILD_WHEEL_CMAKE=false SKBUILD_WHEEL_PLATLIB=false "$python" -m build --wheel --outdir "$dist" . > "$work/log" 2>&1 ||
    { cat "$work/log"; exit 1; }
ls -l "$dist"
"$python" -m twine check --strict "$dist"/*

# A folder of links is an index.
mkdir -p "$work/index/eigengrad"
for file in "$dist"/*; do
    ln -s "$file" "$work/index/eigengrad/"
    echo "<a href=\"$(basename "$file")\">$(basename "$file")</a><br>"
done > "$work/links"
mv "$work/links" "$work/index/eigengrad/index.html"
"$python" - "$work" <<'SERVER' &
import functools, http.server, pathlib, sys
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1] + "/index")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
pathlib.Path(sys.argv[1], "port").write_text(str(server.server_port))
server.serve_forever()
SERVER
server=$!
while [ ! -s "$work/port" ]; do sleep 0.1; done
address=http://127.0.0.1:$(cat "$work/port")

# What a user does. torch and the laboratory's packages come from the index that pip is set up with; eigengrad must not.
install() {
    "$work/user/bin/pip" install --quiet --constraint constraints.txt --extra-index-url "$address" --report "$work/report" "$1"
    grep -q "\"url\": \"$address/eigengrad/" "$work/report" || grep -q '"install": \[\]' "$work/report" ||
        { [ "$1" != eigengrad ] || { echo "eigengrad came from elsewhere"; exit 1; }; }
}
"$python" -m venv "$work/user"
install eigengrad
cp README.md "$work"
(
    cd "$work"
    user/bin/python - <<'CHECK'
import doctest, pathlib, eigengrad as eg

eg.show_config()
blocks = pathlib.Path("README.md").read_text().split("```python\n")
assert len(blocks) > 1
first = doctest.DocTestParser().get_doctest(blocks[1].split("```")[0], {}, "README's first lines", "README.md", 0)
results = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(first)
assert results.attempted > 0 and results.failed == 0, results
print("README's first lines run:", results)
CHECK
)
install 'eigengrad[lab]'
"$work/user/bin/eigengrad" --help > /dev/null

# The sdist is whole: its tests run, against what was installed and not against the sources beside them.
"$work/user/bin/pip" install --quiet --constraint constraints.txt pytest hypothesis mpmath
mkdir "$work/source"
tar -xzf "$dist"/*.tar.gz -C "$work/source" --strip-components=1
rm -r "$work/source/eigengrad"
(cd "$work/source" && "$work/user/bin/python" -m pytest -q -p no:cacheprovider tests/test_gradients.py README.md)
echo "rehearsal: passed. An upload still wants:"
"$python" release/ready.py "$dist"/* || true
