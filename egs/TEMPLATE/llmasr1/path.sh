# Sourced by every script of a recipe: finds the toolkit and its environment.
_here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
if [ -z "${MAIN_ROOT:-}" ]; then
    # A fork remembers where the toolkit was; a recipe of a checkout lies in it.
    # shellcheck source=/dev/null
    [ ! -f "${_here}/toolkit.sh" ] || . "${_here}/toolkit.sh"
    [ -d "${MAIN_ROOT:-}/espnet_llmvq" ] || MAIN_ROOT=$(cd "${_here}/../../.." && pwd)
    # Else it is installed in the environment that is active.
    [ -d "${MAIN_ROOT}/espnet_llmvq" ] || MAIN_ROOT=$(python3 -c 'import os, espnet_llmvq
print(os.path.dirname(os.path.dirname(espnet_llmvq.__file__)))' 2>/dev/null) || {
        echo "error: the toolkit is not installed here; install it, or set MAIN_ROOT to its checkout" >&2
        return 1
    }
fi
# Else the package of the active environment, if there is one, would run in its place.
[ -d "${MAIN_ROOT}/espnet_llmvq" ] || {
    echo "error: MAIN_ROOT=${MAIN_ROOT} holds no espnet_llmvq; set it to a checkout, or unset it" >&2
    return 1
}
export MAIN_ROOT
unset _here
if [ -f "${MAIN_ROOT}/tools/activate_env.sh" ]; then
    # shellcheck source=/dev/null
    . "${MAIN_ROOT}/tools/activate_env.sh"
fi
# An installed package is found as it is; its directory, put in front, could hide modules of Python.
[ ! -f "${MAIN_ROOT}/setup.py" ] || export PYTHONPATH="${MAIN_ROOT}${PYTHONPATH:+:${PYTHONPATH}}"
export LC_ALL=C.UTF-8 PYTHONIOENCODING=UTF-8
export TOKENIZERS_PARALLELISM=false
# The number of threads is set where a job starts; elsewhere more than one only gets in the way.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
