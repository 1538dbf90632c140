#!/usr/bin/env bash
# Stops by process id what up.sh and the pod runner started, then takes the namespaces and $RUN away.
NS=${NS:?the network namespace}; : "${RUN:?the folder given to up.sh}"
for n in tidegate inject podrunner exec kube-controller-manager kube-apiserver etcd; do
  p=$(cat "$RUN/$n.pid" 2>/dev/null) || continue
  kill "$p" 2>/dev/null && for i in $(seq 100); do kill -0 "$p" 2>/dev/null || break; sleep 0.1; done
  kill -9 "$p" 2>/dev/null; rm -f "$RUN/$n.pid"
done
for n in $(ip netns list | awk '{print $1}' | grep "^$NS-pod-"); do ip netns del "$n"; done
ip netns del "$NS" 2>/dev/null; rm -rf "$RUN"
