#!/usr/bin/env bash
# together.sh COMMAND [ARG...]: run a command, in a session with all that it starts; they end together.
#
# When the command has ended, when this script gets INT, TERM or HUP, and when it is killed, what is left of the session's
# group gets SIGTERM, and after ten seconds SIGKILL. It pauses with this script (Ctrl-Z, fg), and may be paused itself.
# Exits as the command does, or with 128 more than the signal.
set -u

end() { # the group $1
    kill -TERM -- "-$1" && kill -CONT -- "-$1" || return 0
    for _ in {1..100}; do
        sleep 0.1
        kill -0 -- "-$1" || return 0
    done
    kill -KILL -- "-$1"
} 2>/dev/null

status=0 group=
stop() { # with the exit code $1
    status=$1
    [ -z "${group}" ] || end "${group}"
}
pause() {
    kill -STOP -- "-${group}"
    kill -STOP $$
    kill -CONT -- "-${group}"
} 2>/dev/null
for number in 1 2 15; do
    # shellcheck disable=SC2064
    trap "stop $((128 + number))" "${number}"
done
# Away from the terminal, which stops a group in the background that reads it, or writes to it after `stty tostop`.
(
    trap - INT QUIT # which bash lets what is in the background ignore
    exec setsid "$@" </dev/null
) &
group=$!
until kill -0 -- "-${group}" || ! kill -0 "${group}"; do sleep 0.01; done 2>/dev/null
# It outlives a kill of this script, or of the group of this script.
set -m
{
    tail --pid=$$ -s 0.2 -f /dev/null
    end "${group}"
} >/dev/null 2>&1 &
watcher=$!
disown # else its end is told
set +m
trap pause TSTP
[ "${status}" -eq 0 ] || end "${group}"
# A pause ends the first one.
while kill -0 "${group}" 2>/dev/null; do wait "${group}"; done 2>/dev/null
wait "${group}" 2>/dev/null
code=$?
end "${group}"
kill -TERM -- "-${watcher}"
[ "${status}" -ne 0 ] || status=${code}
exit "${status}"
