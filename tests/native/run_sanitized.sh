#!/bin/sh
# Builds the extensions with AddressSanitizer and UndefinedBehaviorSanitizer into a folder
# of their own and runs the native tests on them.  Every finding ends the run.
#
#     PYTHON=python3 tests/native/run_sanitized.sh [pytest arguments]
#
# The interpreter is not sanitized, hence the preload; it never frees everything at exit,
# hence no leak detection here (test_leaks.py watches for leaks instead); and its own
# allocator would hide overruns, hence PYTHONMALLOC.
set -eu

python=${PYTHON:-python3}
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT INT TERM

cd "$root"
FL_CLUSTER_SANITIZE=address,undefined FL_CLUSTER_WERROR=1 "$python" setup.py --quiet \
    build --build-base "$build/temp" --build-lib "$build/lib"

compiler=${CC:-gcc}
case $("$compiler" --version) in
*clang*) runtime=libclang_rt.asan-$(uname -m).so ;;
*) runtime=libasan.so ;;
esac
preload=$("$compiler" -print-file-name="$runtime")

# From another folder and with PYTHONPATH, so that the sanitized package is the one tested.
cd "$build"
export PYTHONPATH="$build/lib" PYTHONMALLOC=malloc LD_PRELOAD="$preload"
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
"$python" -c "
import fl_cluster._native as extension
assert extension.__file__.startswith('$build'), extension.__file__
print('sanitized:', extension.__file__)"
"$python" -m pytest -c "$root/pyproject.toml" --rootdir "$root" -p no:cacheprovider \
    --timeout 300 "$root/tests/native" "$@"
