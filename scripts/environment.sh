# Sourced by the other scripts: ensure_environment DIRECTORY EXTRAS installs this checkout into its own virtual
# environment, once for every change of pyproject.toml or constraints.txt.
ensure_environment() {
  local directory=$1 extras=$2 python=${PYTHON:-} stamp wanted
  if [ -z "$python" ]; then
    for python in python3.12 python3.11 python3.13 python3; do
      "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
    done
  fi
  if ! "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "Python 3.11 or newer with venv is needed; set PYTHON=/path/to/python3.11" >&2
    return 1
  fi
  wanted=$(cat pyproject.toml constraints.txt | cksum)
  stamp=$directory/.installed${extras//[^a-z]/-}
  if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    echo "Installing into $directory (once) ..." >&2
    [ -x "$directory/bin/python" ] || "$python" -m venv "$directory"
    "$directory/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".$extras"
    echo "$wanted" > "$stamp"
  fi
}
