#!/bin/sh
# The Python that Ray starts its processes with: runs $CLUSTER_PYTHON with the same words, but for those that are not
# needed here, and for an agent whose end would be the end of its node and all that runs on it.
case "$*" in
    *"/ray/dashboard/dashboard.py "* | *"ray.util.client.server "*)
        # A dashboard that was told to show nothing, and a door for remote drivers: 130 MB and a port that nobody uses.
        exit 0
        ;;
    *"/ray/dashboard/agent.py "*)
        # Reports to the dashboard: 120 MB and three ports. The raylet waits for the ports; -1 says there are none.
        for word; do
            case "$word" in
                --session-dir=*) session=${word#*=} ;;
                --node-id=*) node=${word#*=} ;;
            esac
        done
        for port in metrics_agent metrics_export dashboard_agent_listen; do
            printf %s -1 > "$session/.$port" && mv "$session/.$port" "$session/${port}_port_$node"
        done
        # Ends when the raylet does, which holds the other end.
        exec cat > /dev/null
        ;;
    *"/ray/_private/runtime_env/agent/main.py "*)
        # Prepares the environment of new workers. The raylet ends when its agent does, so it is given this script for
        # it: what stops is started again, and nobody notices.
        export RAY_RAYLET_PID=$$
        exec 3<&0
        # The raylet waits for the end of every pipe it gave away: what outlives this script may hold none of them. It
        # writes to files of its own.
        alone='import os, sys; os.closerange(3, 1024); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])'
        while kill -0 "$PPID" 2> /dev/null; do
            "$CLUSTER_PYTHON" -c "$alone" "$@" <&3 > /dev/null 2>&1 &
            wait $!
            sleep 0.2
        done
        exit 0
        ;;
    *"/ray/_private/workers/default_worker.py "*)
        # A process for an actor, forked from one that has imported what models need, where there is one. An actor may
        # name another than the usual one. Ray would start a Python first, which sets that variable and no other.
        case "$*" in
            *'"env_vars": {"CLUSTER_FORKSERVER": "'*)
                path=${*##*'"CLUSTER_FORKSERVER": "'}
                export CLUSTER_FORKSERVER="${path%%\"*}"
                for word; do
                    shift
                    case "$word" in
                        */setup_worker.py | --serialized-runtime-env-context=* | --language=*) ;;
                        *) set -- "$@" "$word" ;;
                    esac
                done
                ;;
            *'"CLUSTER_UNFORKED"'*) CLUSTER_UNFORKED=1 ;;
        esac
        if [ -z "$CLUSTER_UNFORKED" ] && [ -S "$CLUSTER_FORKSERVER" ] &&
            "$CLUSTER_PYTHON" -I -S "${0%/*}/forked.py" "$CLUSTER_FORKSERVER" "$@"; then
            exit 0
        fi
        ;;
esac
exec "$CLUSTER_PYTHON" "$@"
