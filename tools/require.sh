# Sourced by the scripts here: checks that what they need is installed, and names the package if not.

require() {
    local missing=() tool
    for tool in "$@"; do
        case $tool in
            clippy) cargo clippy --version >/dev/null 2>&1 || missing+=("clippy: rustup component add clippy") ;;
            rustfmt) cargo fmt --version >/dev/null 2>&1 || missing+=("rustfmt: rustup component add rustfmt") ;;
            cargo) command -v cargo >/dev/null || missing+=("Rust: https://rustup.rs") ;;
            gcc | g++) command -v "$tool" >/dev/null || missing+=("$tool: apt-get install $tool (Fedora: dnf install ${tool/g++/gcc-c++})") ;;
            python3) command -v python3 >/dev/null || missing+=("Python 3: apt-get install python3 (Fedora: dnf install python3)") ;;
            python3.11)
                python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
                    missing+=("Python 3.11 or later as python3: its distribution's package, or a virtual environment of one on the path")
                ;;
            pip)
                python3 -c 'import pip' 2>/dev/null || python3 -c 'import venv, ensurepip' 2>/dev/null ||
                    missing+=("pip or venv: apt-get install python3-pip python3-venv (Fedora: dnf install python3-pip)")
                ;;
        esac
    done
    if ((${#missing[@]})); then
        echo "$(basename "$0"): something is missing; please install" >&2
        printf '  %s\n' "${missing[@]}" >&2
        exit 1
    fi
}
