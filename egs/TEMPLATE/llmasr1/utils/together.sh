#!/usr/bin/env bash
# together.sh COMMAND [ARG...]: run a command, in a process group with all that it starts; they end together.
#
# When the command has ended, when this script gets INT, TERM or HUP, and when it is killed, what is left of the group
# gets SIGTERM, and after ten seconds SIGKILL. Exits as the command does, or with 128 more than the signal.
set -u

end() { # the group $1
    kill -TERM -- "-$1" || return 0
    for _ in {1..100}; do
        sleep 0.1
        kill -0 -- "-$1" || return 0
    done
    kill -KILL -- "-$1"
} 2>/dev/null

set -m # a process group for each command in the background
"$@" </dev/null &
group=$!
# It outlives a kill of this script, or of the group of this script.
{
    tail --pid=$$ -s 0.2 -f /dev/null
    end "${group}"
} >/dev/null 2>&1 &
watcher=$!
disown # else its end is told
status=0
for number in 1 2 15; do
    # shellcheck disable=SC2064
    trap "status=$((128 + number))" "${number}"
done
wait "${group}"
code=$?
end "${group}"
kill -TERM -- "-${watcher}"
[ "${status}" -ne 0 ] || status=${code}
exit "${status}"
