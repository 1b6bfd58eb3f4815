# Sourced by install.sh, which sets `source` to the folder above this one. Defines make_program.

# make_program FOLDER: create a virtual environment with t3flow and its packages, each checked against its hash in requirements.txt.
# Sets `remedy`, the advice to print on failure.
make_program() {
  remedy=
  python3 -m venv "$1" || return
  if [ -d "$source/wheels" ]; then
    remedy=" Download the release again and compare it with SHA256SUMS."
    pip_offline "$1" --only-binary :all: --require-hashes -r "$source/deploy/requirements.txt" || return
    pip_offline "$1" --no-deps "$source"/wheels/t3flow-*.whl
  else
    remedy=" Without a network, use the tarball of a release, or type: PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER $0"
    pip_install "$1" --only-binary :all: --require-hashes -r "$source/deploy/requirements.txt" || return
    pip_install "$1" --no-deps --no-build-isolation "$source"
  fi
}

pip_install() { venv=$1; shift; "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir "$@"; }

# pip's settings in files and in the environment may name an index, so both are ignored.
pip_offline() { (export PIP_CONFIG_FILE=/dev/null; pip_install "$@" --isolated --no-index --find-links "$source/wheels"); }
