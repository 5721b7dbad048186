# Runs a command that must not outlive whoever holds the other end of standard input.
#
#   sh -c "$(cat leash.sh)" leash LEFTOVER COMMAND [ARGUMENT...]
#
# Each line on standard input is the name of a signal for the command. The end of standard input (its writer closed it,
# ended or was killed) kills the command, then removes the LEFTOVER: `dir:PATH`, `container:NAME` or `none`. A command that
# ends by itself leaves its LEFTOVER alone. The exit code is the command's.

leftover=$1
shift
exec 3<&0 </dev/null

"$@" 3<&- &
command=$!

(
    while read -r signal <&3; do
        kill -s "$signal" "$command"
    done
    # From here on this must reach its end: the exit code 0 tells the part below that the leash was let go.
    trap '' TERM
    kill -s KILL "$command" 2>/dev/null
    exit 0
) &
watcher=$!
exec 3<&-

wait "$command"
code=$?
kill -s TERM "$watcher" 2>/dev/null
if wait "$watcher" 2>/dev/null; then
    case $leftover in
        # The command was killed and waited for, but a process of its own might still write there for a moment.
        dir:*) for _ in 1 2 3 4 5; do rm -rf "${leftover#dir:}" && break; sleep 1; done ;;
        # A container does not end with the client that started it.
        container:*) docker rm --force "${leftover#container:}" >/dev/null 2>&1 ;;
    esac
fi
exit "$code"
