#!/usr/bin/env bash
# A worker of Ray on a spot machine: `spot.sh aws --address=...` is `ray start --address=... --block`, ended once the
# cloud says that it takes the machine away. Ray, so ended, calls the node draining, and its trials write a checkpoint.
set -euo pipefail

get() { curl --silent --fail --max-time 2 --header "$@"; }

# Whether there is a notice; and how long the draining may take: AWS leaves two minutes from it, Google half a minute.
case $1 in
  aws)
    export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=110
    here=http://169.254.169.254/latest
    noticed() {
      token=$(get "X-aws-ec2-metadata-token-ttl-seconds: 60" --request PUT $here/api/token) &&
        get "X-aws-ec2-metadata-token: $token" $here/meta-data/spot/instance-action
    }
    ;;
  gcp)
    export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=25
    here=http://metadata.google.internal/computeMetadata/v1
    noticed() { [[ $(get "Metadata-Flavor: Google" $here/instance/preempted) == TRUE ]]; }
    ;;
  *)
    echo "spot.sh: the cloud must be aws or gcp. Got $1 instead." >&2
    exit 2
    ;;
esac

ray start "${@:2}" --block &
while kill -0 $! 2>/dev/null; do
  if noticed; then
    echo "spot.sh: $1 takes this machine away."
    kill -TERM $!
    break
  fi
  sleep 2
done
wait $!
