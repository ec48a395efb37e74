#!/usr/bin/env bash
# What capture costs programs, against the same programs without it, in turns in the same run. Prints nanoseconds an operation: median,
# spread (least, greatest), and the median of the ratios of each round.
#   compare.sh [ROUNDS] [DIR]      DIR: a folder on the disk that is meant; ROUNDS: 7 at least
# Needs root, gcc, libsqlite3-dev; redis-server and redis-tools for the last row.
set -euo pipefail
cd "$(dirname "$0")/../.."
rounds=${1:-7}
dir=$(mktemp -d "${2:-$PWD/target}/repl-XXXXXX")
ring=$(mktemp -d /dev/shm/apus-repl-XXXXXX)
bin=target/release
drainers=()
trap 'kill "${drainers[@]}" 2>/dev/null || true; rm -rf "$dir" "$ring"' EXIT
[ -x $bin/apus-capture ] && [ -f $bin/libapus_interpose.so ] || cargo build --release -p apus-interpose
gcc -O2 -o "$ring/work" benches/repl/work.c -lsqlite3
mkdir "$dir/root" "$dir/copy"
drain() { # RING OPTIONS: a drainer, once it has listed the group
    local name=$1
    shift
    "$bin/apus-capture" drain --ring "$ring/$name" --root "$dir/root" "$@" &
    drainers+=($!)
    until grep -q "order: kept" <<<"$("$bin/apus-capture" status --ring "$ring/$name" 2>/dev/null)"; do sleep 0.02; done
}
drain other --match "*.other" --discard
drain discard --match "*.db" --match "*.db-wal" --match "*.aof" --discard
drain replay --match "*.db" --match "*.db-wal" --match "*.aof" --into "$dir/copy"
under() { # WAY PROGRAM...
    local way=$1
    shift
    case $way in
    none) "$@" ;;
    *) "$bin/apus-capture" run --ring "$ring/$way" -- "$@" ;;
    esac
}
clear_root() {
    local name
    # What is removed behind their backs they must have read.
    for name in other discard replay; do
        until grep -q ", 0 bytes wait" <<<"$("$bin/apus-capture" status --ring "$ring/$name")"; do sleep 0.05; done
    done
    find "$dir/root" -mindepth 1 -delete
    sync
    sleep 0.3
}
redis() { # WAY: microseconds per SET, appendfsync everysec
    local way=$1 socket=$ring/socket count=60000
    under "$way" redis-server --port 0 --unixsocket "$socket" --appendonly yes --appendfsync everysec --save "" --dir "$dir/root" >/dev/null &
    local server=$!
    until redis-cli -s "$socket" ping >/dev/null 2>&1; do sleep 0.02; done
    redis-benchmark -s "$socket" -t set -d 200 -c 20 -n $count --csv 2>/dev/null | tail -1 | tr -d '"' | awk -F, '{ printf "%.0f\n", 1e9 / $2 }'
    redis-cli -s "$socket" shutdown nosave >/dev/null 2>&1 || true
    wait $server || true
}
ways=(none other discard replay)
kinds=("sqlN 20000" "sqlF 3000" "rnd 3000" "app 20000" "ren 3000")
if command -v redis-server >/dev/null && command -v redis-benchmark >/dev/null; then kinds+=("redis 0"); fi
for kind in "${kinds[@]}"; do
    read -r name count <<<"$kind"
    for ((round = 0; round < rounds; round++)); do
        for ((turn = 0; turn < ${#ways[@]}; turn++)); do
            way=${ways[(turn + round) % ${#ways[@]}]}
            clear_root
            if [ "$name" = redis ]; then took=$(redis "$way"); else took=$(under "$way" "$ring/work" "$name" "$count" "$dir/root"); fi
            echo "$name $round $way $took"
        done
    done
done >"$ring/figures"
python3 - "$ring/figures" <<'PY'
import statistics, sys
rows = [line.split() for line in open(sys.argv[1])]
print(f"{'':6} {'way':8} {'median ns':>10} {'least':>9} {'greatest':>9} {'ratio':>6}   ratios of the rounds")
for kind in dict.fromkeys(row[0] for row in rows):
    took = {}
    for name, turn, way, nanos in rows:
        if name == kind:
            took.setdefault(way, {})[turn] = float(nanos)
    for way, rounds in took.items():
        ratios = sorted(nanos / took["none"][turn] for turn, nanos in rounds.items())
        figures = rounds.values()
        print(f"{kind:6} {way:8} {statistics.median(figures):10.0f} {min(figures):9.0f} {max(figures):9.0f} {statistics.median(ratios):6.3f}   " + " ".join(f"{ratio:.2f}" for ratio in ratios))
PY
for name in other discard replay; do
    echo "-- $name"
    "$bin/apus-capture" status --ring "$ring/$name"
done
