# Shell helpers that all layers share. Sourced, never run.
#
# A result is one line in $OTTLA_RESULTS: `pass COUNT NAME` or `FAIL COUNT NAME`. `check` writes one
# for a command, `cargo_check` one for a run of Rust tests with their count.
# shellcheck shell=bash

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export REPO
export OTTLA_CACHE=${OTTLA_CACHE:-/var/tmp/ottla-cache}
export OTTLA_RESULTS=${OTTLA_RESULTS:-/dev/null}
mkdir -p "$OTTLA_CACHE"

say() { echo "tests: $*" >&2; }
heading() { printf '\n=== %s (%s UTC)\n' "$1" "$(date -u +%T)"; }
in_list() { local x=$1 y; shift; for y in "$@"; do [ "$x" = "$y" ] && return 0; done; return 1; }
count_results() { awk -v kind="$1" '$1 == kind {n += $2} END {print n + 0}' "$OTTLA_RESULTS"; }

pass() { echo "  ok    $1${2:+  ($2)}"; echo "pass 1 $1" >>"$OTTLA_RESULTS"; }
fail() { echo "  FAIL  $1${2:+  ($2)}"; echo "FAIL 1 $1" >>"$OTTLA_RESULTS"; return 1; }

# check NAME CMD…: run a command quietly; its output is shown when it fails.
check() {
  local name=$1 log start=$SECONDS
  shift
  log=$(mktemp)
  if "$@" >"$log" 2>&1 </dev/null; then
    pass "$name" "$((SECONDS - start)) s"; rm -f "$log"
  else
    local status=$?
    sed 's/^/    | /' "$log" | tail -n "${CHECK_TAIL:-60}"; rm -f "$log"
    fail "$name" "exit code $status after $((SECONDS - start)) s"
  fi
}

# shown NAME CMD…: as `check`, for a command whose output is of interest when it passes, too.
shown() {
  local name=$1 start=$SECONDS
  shift
  if "$@" 2>&1 </dev/null | sed 's/^/    | /'; then pass "$name" "$((SECONDS - start)) s"
  else fail "$name" "after $((SECONDS - start)) s"; fi
}

# cargo_check NAME ARGS…: `cargo test ARGS`, each test counted. No test at all is a failure.
cargo_check() {
  local name=$1 log start=$SECONDS status=0 ok bad
  shift
  log=$(mktemp)
  cargo test "$@" >"$log" 2>&1 </dev/null || status=$?
  read -r ok bad < <(awk '/^test result:/ {p += $4; f += $6} END {print p + 0, f + 0}' "$log")
  [ "$status" -eq 0 ] || [ "$bad" -gt 0 ] || bad=1
  if [ "$bad" -gt 0 ]; then
    grep -vE '^test .* \.\.\. ok$|^ *(Running|Doc-tests|Compiling)|^$' "$log" | tail -n 120 | sed 's/^/    | /'
    echo "FAIL $bad $name" >>"$OTTLA_RESULTS"
  fi
  rm -f "$log"
  [ "$ok" -eq 0 ] || echo "pass $ok $name" >>"$OTTLA_RESULTS"
  if [ "$bad" -gt 0 ]; then echo "  FAIL  $name  ($ok passed, $bad failed, $((SECONDS - start)) s)"; return 1; fi
  if [ "$ok" -eq 0 ]; then fail "$name" "ran no test"; return 1; fi
  echo "  ok    $name  ($ok tests, $((SECONDS - start)) s)"
}

# need PROGRAM PACKAGE…: install Debian packages unless the program is there.
need() {
  local program=$1 log
  shift
  command -v "$program" >/dev/null && return 0
  [ "$(id -u)" -eq 0 ] || { say "$program is missing, and only root can install $*"; return 1; }
  say "installing $* for $program"
  log=$(mktemp)
  # One at a time: what is prepared beside a layer may want some, too.
  flock "$OTTLA_CACHE/apt.lock" sh -c 'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@"' - "$@" >"$log" 2>&1 ||
    { tail -n 20 "$log" >&2; rm -f "$log"; return 1; }
  rm -f "$log"
  command -v "$program" >/dev/null || { say "$* did not bring $program"; return 1; }
}

# Where Rust builds go. A developer's own target/ is used; CI, which builds from a new clone each
# time, shares one per lock file so that dependencies are compiled once.
rust_target() {
  need cargo cargo || return 1
  if [ -z "${CARGO_TARGET_DIR:-}" ] && [ -n "${CI:-}" ]; then
    CARGO_TARGET_DIR=$OTTLA_CACHE/target-$(cat "$REPO/Cargo.lock" <(rustc --version) | sha256sum | cut -c1-12)
    export CARGO_TARGET_DIR CARGO_INCREMENTAL=0
  fi
  export CARGO_TERM_COLOR=never
}

# release_program NAME: builds a program and prints where it is: `ottla`, the static binary that the
# image holds, or one of the tests'.
release_program() (
  rust_target || exit 1
  if [ "$1" = ottla ]; then exec "$REPO/image/compile"; fi
  cd "$REPO" && cargo build --quiet --release --package ottla-tests --bin "$1" >&2 || exit 1
  echo "${CARGO_TARGET_DIR:-$REPO/target}/release/$1"
)

# The one release build of the layers that run processes: the static binary that the image holds.
# Sets OTTLA to its path.
release_binary() {
  rust_target || return 1
  check "the release build" release_program ottla || return 1
  OTTLA=$("$REPO/image/compile" --path)
  export OTTLA
}

# wait_for SECONDS CMD…: until the command succeeds; false when it never does.
wait_for() {
  local until=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$until" ] || return 1
    sleep 0.2
  done
}

# free_port: a base for COUNT ports in a row on loopback that nobody listens on.
free_ports() {
  local count=$1 base i
  for base in $(shuf -i 20000-29000 -n 50); do
    for ((i = 0; i < count; i++)); do
      (exec 3<>"/dev/tcp/127.0.0.1/$((base + i))") 2>/dev/null && continue 2
    done
    echo "$base"; return 0
  done
  return 1
}

# end PID: asks a process that we started to end, and waits; kills it after 20 seconds.
end() {
  local pid=$1 i
  kill -TERM "$pid" 2>/dev/null || return 0
  for ((i = 0; i < 200; i++)); do
    case $(cut -d' ' -f3 "/proc/$pid/stat" 2>/dev/null) in '' | Z) return 0 ;; esac
    sleep 0.1
  done
  say "process $pid did not end when asked; killing it"
  kill -KILL "$pid" 2>/dev/null
  return 1
}
