# Sourced by every script of a recipe: finds the toolkit and its environment.
MAIN_ROOT=${MAIN_ROOT:-$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../.." && pwd)}
export MAIN_ROOT
if [ -f "${MAIN_ROOT}/tools/activate_env.sh" ]; then
    # shellcheck source=/dev/null
    . "${MAIN_ROOT}/tools/activate_env.sh"
fi
export PYTHONPATH="${MAIN_ROOT}${PYTHONPATH:+:${PYTHONPATH}}"
export LC_ALL=C.UTF-8 PYTHONIOENCODING=UTF-8
export TOKENIZERS_PARALLELISM=false
# The number of threads is set where a job starts; elsewhere more than one only gets in the way.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
