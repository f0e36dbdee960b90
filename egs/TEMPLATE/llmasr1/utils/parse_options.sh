# Sourced: sets variables from --name value (or --name=value, - and _ alike), as Kaldi's of the same name.
#
# The options are the assignments between the lines `# begin options` and `# end options` of the script that sources
# this file; a comment behind an assignment is its help. An unknown option is an error that names the nearest one.
# An option that is `true` or `false` takes nothing else, and `--name` alone is `--name true`. A script with an array
# `plan_args` leaves unknown options, with their values, in it for `llmvq plan`, which also has help on them.
_options_of() { sed -n '/^# begin options/,/^# end options/p' "$0" | grep -E '^[a-z_0-9]+='; }
_known=" $(_options_of | sed 's/=.*//' | tr '\n' ' ')"
_passing=false
! declare -p plan_args >/dev/null 2>&1 || _passing=true
while [ $# -gt 0 ]; do
    case $1 in
    --help | -h)
        echo "Usage: ./${0##*/} [options]"
        sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
        echo "Options:"
        _options_of | sed -E 's/^([a-z_0-9]+)=([^#]*)(# *(.*))?$/  --\1 \2\n        \4/'
        ! ${_passing} || { . ./path.sh && echo && "${python:-python3}" -m espnet_llmvq plan --help; }
        exit 0
        ;;
    --*)
        _name=${1#--}
        _value=
        _given=false
        if [[ ${_name} == *=* ]]; then
            _value=${_name#*=}
            _name=${_name%%=*}
            _given=true
        fi
        _name=${_name//-/_}
        if [[ ${_known} != *" ${_name} "* ]] && ${_passing}; then
            plan_args+=("$1")
            shift
            if ! ${_given} && [ $# -gt 0 ] && [[ $1 != --* ]]; then
                plan_args+=("$1")
                shift
            fi
            continue
        fi
        if [[ ${_known} != *" ${_name} "* ]]; then
            _near=$(python3 -c 'import difflib, sys
print(*difflib.get_close_matches(sys.argv[1], sys.argv[2].split(), 1))' "${_name}" "${_known}" || true)
            echo "$0: error: unknown option --${_name}${_near:+ (did you mean --${_near}?)}; see $0 --help" >&2
            exit 2
        fi
        _switch=false
        [[ ${!_name} != true && ${!_name} != false ]] || _switch=true
        if ${_given}; then
            :
        elif ${_switch} && [[ $# -lt 2 || $2 == --* ]]; then
            _value=true
        elif [ $# -lt 2 ]; then
            echo "$0: error: option --${_name} needs a value" >&2
            exit 2
        else
            _value=$2
            shift
        fi
        if ${_switch} && [[ ${_value} != true && ${_value} != false ]]; then
            echo "$0: error: --${_name} must be true or false, not ${_value:-empty}" >&2
            exit 2
        fi
        printf -v "${_name}" '%s' "${_value}"
        shift
        ;;
    *)
        echo "$0: error: unexpected argument $1; see $0 --help" >&2
        exit 2
        ;;
    esac
done
# shellcheck disable=SC2034  # of llmasr.sh
script_options=${_known}
unset _known _passing _name _value _given _switch _near
