#!/usr/bin/env bash
# What capture costs programs, against the same programs without it, in turns in the same run. Prints nanoseconds an operation: median,
# spread (least, greatest), and the median of the ratios of each round.
#   compare.sh [ROUNDS] [DIR]      DIR: a folder on the disk that is meant; ROUNDS: 7 at least
# WAYS and KINDS in the environment choose some of them: WAYS="none fuse" KINDS="sqlN app". `fuse` is mounted by the transport that the
# kernel gives (io_uring if /sys/module/fuse/parameters/enable_uring is Y), `fuse-device` by /dev/fuse, `through` with no file in the group.
# Needs root, gcc, libsqlite3-dev; redis-server and redis-tools for the last row.
set -euo pipefail
cd "$(dirname "$0")/../.."
rounds=${1:-7}
dir=$(mktemp -d "${2:-$PWD/target}/repl-XXXXXX")
ring=$(mktemp -d /dev/shm/apus-repl-XXXXXX)
bin=target/release
drainers=()
end() {
    local mount
    for mount in fuse fuse-device through; do
        if mountpoint -q "$dir/$mount"; then umount -l "$dir/$mount"; fi
    done
    kill "${drainers[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$dir" "$ring"
}
trap end EXIT
[ -x $bin/apus-capture ] && [ -f $bin/libapus_interpose.so ] && [ -x $bin/apus-fuse ] || cargo build --release -p apus-interpose -p apus-fuse
read -ra ways <<<"${WAYS:-none other discard replay fuse fuse-device through}"
has() { [[ " ${ways[*]} " == *" $1 "* ]]; }
gcc -O2 -o "$ring/work" benches/repl/work.c -lsqlite3
mkdir "$dir/root" "$dir/copy"
drain() { # RING OPTIONS: a drainer, once it has listed the group
    local name=$1
    shift
    "$bin/apus-capture" drain --ring "$ring/$name" --root "$dir/root" "$@" &
    drainers+=($!)
    until grep -q "order: kept" <<<"$("$bin/apus-capture" status --ring "$ring/$name" 2>/dev/null)"; do sleep 0.02; done
}
serve() { # WAY OPTIONS: a mount of its own folder
    mkdir "$dir/$1"
    "$bin/apus-fuse" mount "$dir/$1" --discard "${@:2}" 2>/dev/null &
    drainers+=($!)
    until mountpoint -q "$dir/$1"; do sleep 0.02; done
}
files=(--match "*.db" --match "*.db-wal" --match "*.aof")
if has other; then drain other --match "*.other" --discard; fi
if has discard; then drain discard "${files[@]}" --discard; fi
if has replay; then drain replay "${files[@]}" --into "$dir/copy"; fi
if has fuse; then serve fuse "${files[@]}"; fi
if has fuse-device; then serve fuse-device "${files[@]}" --transport device; fi
if has through; then serve through --match "*.other"; fi
place() { # WAY: where its files are
    case $1 in
    fuse | fuse-device | through) echo "$dir/$1" ;;
    *) echo "$dir/root" ;;
    esac
}
under() { # WAY PROGRAM...
    local way=$1
    shift
    case $way in
    none | fuse | fuse-device | through) "$@" ;;
    *) "$bin/apus-capture" run --ring "$ring/$way" -- "$@" ;;
    esac
}
clear_root() {
    local name
    # What is removed behind their backs they must have read.
    for name in other discard replay; do
        has "$name" || continue
        until grep -q ", 0 bytes wait" <<<"$("$bin/apus-capture" status --ring "$ring/$name")"; do sleep 0.05; done
    done
    for name in "${ways[@]}"; do find "$(place "$name")" -mindepth 1 -delete; done
    sync
    sleep 0.3
}
redis() { # WAY: microseconds per SET, appendfsync everysec
    local way=$1 socket=$ring/socket count=60000
    under "$way" redis-server --port 0 --unixsocket "$socket" --appendonly yes --appendfsync everysec --save "" --dir "$(place "$way")" >/dev/null &
    local server=$!
    until redis-cli -s "$socket" ping >/dev/null 2>&1; do sleep 0.02; done
    redis-benchmark -s "$socket" -t set -d 200 -c 20 -n $count --csv 2>/dev/null | tail -1 | tr -d '"' | awk -F, '{ printf "%.0f\n", 1e9 / $2 }'
    redis-cli -s "$socket" shutdown nosave >/dev/null 2>&1 || true
    wait $server || true
}
kinds=("sqlN 20000" "sqlF 3000" "rnd 3000" "app 20000" "ren 3000")
if command -v redis-server >/dev/null && command -v redis-benchmark >/dev/null; then kinds+=("redis 0"); fi
for kind in "${kinds[@]}"; do
    read -r name count <<<"$kind"
    if [ -n "${KINDS:-}" ] && [[ " $KINDS " != *" $name "* ]]; then continue; fi
    for ((round = 0; round < rounds; round++)); do
        for ((turn = 0; turn < ${#ways[@]}; turn++)); do
            way=${ways[(turn + round) % ${#ways[@]}]}
            clear_root
            if [ "$name" = redis ]; then took=$(redis "$way"); else took=$(under "$way" "$ring/work" "$name" "$count" "$(place "$way")"); fi
            echo "$name $round $way $took"
        done
    done
done >"$ring/figures"
python3 - "$ring/figures" <<'PY'
import statistics, sys
rows = [line.split() for line in open(sys.argv[1])]
print(f"{'':6} {'way':11} {'median ns':>10} {'least':>9} {'greatest':>9} {'ratio':>6}   ratios of the rounds")
for kind in dict.fromkeys(row[0] for row in rows):
    took = {}
    for name, turn, way, nanos in rows:
        if name == kind:
            took.setdefault(way, {})[turn] = float(nanos)
    for way, rounds in took.items():
        ratios = sorted(nanos / took["none"][turn] for turn, nanos in rounds.items())
        figures = rounds.values()
        print(f"{kind:6} {way:11} {statistics.median(figures):10.0f} {min(figures):9.0f} {max(figures):9.0f} {statistics.median(ratios):6.3f}   " + " ".join(f"{ratio:.2f}" for ratio in ratios))
PY
for name in fuse fuse-device through; do
    if has "$name"; then echo "-- $name" && "$bin/apus-fuse" status "$dir/$name"; fi
done
for name in other discard replay; do
    has "$name" || continue
    echo "-- $name"
    "$bin/apus-capture" status --ring "$ring/$name"
done
