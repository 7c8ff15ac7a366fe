# What ./run and ./test share: the tools they need, and how a fresh machine gets them. Sourced by both; expects $root.

# Says something to the user. Never on standard output, which belongs to the program.
say() { printf 'spanheap: %s\n' "$*" >&2; }

# is_there COMMAND: whether a command, or a file that begins with a slash, is there.
is_there() { case $1 in /*) [ -e "$1" ] ;; *) command -v "$1" >/dev/null ;; esac; }

# need_command COMMAND PACKAGE: makes sure that COMMAND exists, from the Debian PACKAGE if this user may install it.
# What begins with a slash is a file that must be there.
need_command() {
    is_there "$1" && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing the Debian package $2 (for $1)"
        export DEBIAN_FRONTEND=noninteractive
        # Lists may be missing on a fresh machine; fetch them only if the first try fails.
        apt-get install -qq -y "$2" >/dev/null 2>&1 ||
            { apt-get update -qq >/dev/null 2>&1 && apt-get install -qq -y "$2" >/dev/null 2>&1; } || true
    fi
    is_there "$1" && return
    say "$1 is missing; install it (Debian: apt-get install $2) and try again"
    return 1
}

# need_cargo: makes sure that a Rust toolchain can build this. rustup fetches the pinned version by itself.
need_cargo() {
    command -v cargo >/dev/null || PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
    if ! command -v cargo >/dev/null; then
        say "cargo is missing; install Rust with rustup (https://rustup.rs) and try again"
        return 1
    fi
    # Rust links by the C compiler.
    need_command cc gcc
}

# target_directory: where cargo puts what it builds.
target_directory() { printf '%s\n' "${CARGO_TARGET_DIR:-$root/target}"; }
