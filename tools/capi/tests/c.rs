//! The programs of `tests/c/` and `README.md`, compiled against the header, linked with the library
//! and run. What `embed.c` prints of every kind of request is what the Rust interface returns, bit for
//! bit.

mod rust;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Where the models are.
fn golden() -> PathBuf {
    root().join("../../tests/golden")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn device() -> String {
    std::env::var("ROPEWAY_TEST_DEVICE").unwrap_or_else(|_| "cpu".into())
}

/// The folder of the library that cargo has built with this test.
fn library() -> PathBuf {
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    assert!(
        folder.join("libropeway_c.so").is_file(),
        "no libropeway_c.so in {}",
        folder.display()
    );
    folder
}

/// Where the programs are compiled to.
fn scratch() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ropeway-c");
        std::fs::create_dir_all(&folder).unwrap();
        folder
    })
}

fn succeed(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?} cannot be run: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Compiles a program as strictly as a user may, and links it with the library.
fn compile(source: &Path, variable: &str, default: &str, standard: &str) -> PathBuf {
    let program = scratch().join(source.file_stem().unwrap());
    let compiler = std::env::var_os(variable).unwrap_or(default.into());
    succeed(
        Command::new(compiler)
            .args([
                standard,
                "-g",
                "-Wall",
                "-Wextra",
                "-Wpedantic",
                "-Wconversion",
                "-Werror",
            ])
            .arg("-I")
            .arg(root().join("include"))
            .arg(source)
            .arg("-o")
            .arg(&program)
            .arg("-L")
            .arg(library())
            .args(["-lropeway_c", "-lpthread"])
            .arg(format!("-Wl,-rpath,{}", library().display())),
    );
    program
}

fn compile_c(name: &str) -> PathBuf {
    compile(&root().join("tests/c").join(name), "CC", "gcc", "-std=c11")
}

fn run<A: AsRef<OsStr>>(program: &Path, arguments: &[A]) -> String {
    let output = succeed(Command::new(program).args(arguments));
    String::from_utf8(output.stdout).unwrap()
}

fn models() -> [PathBuf; 2] {
    [golden().join("jina-hub"), golden().join("bert")]
}

#[test]
fn every_kind_of_request_is_what_rust_makes_of_it() {
    let [jina, bert] = models();
    let got = run(&compile_c("embed.c"), &[&jina, &bert]);
    let want = rust::print(&jina, &bert, &device());
    for (number, (got, want)) in got.lines().zip(want.lines()).enumerate() {
        assert_eq!(got, want, "line {}", number + 1);
    }
    assert_eq!(got.lines().count(), want.lines().count());
}

#[test]
fn wrong_calls_are_errors() {
    run(&compile_c("errors.c"), &models()[..1]);
}

#[test]
fn many_threads_use_one_engine() {
    // Every thread with each of the three tasks; more of it where a pass is no simulation.
    let rounds = if device() == "cpu" { "8" } else { "3" };
    run(
        &compile_c("threads.c"),
        &[models()[0].as_os_str(), rounds.as_ref()],
    );
}

#[test]
fn the_header_is_cplusplus_too() {
    let source = root().join("tests/c/header.cc");
    run::<&str>(&compile(&source, "CXX", "g++", "-std=c++11"), &[]);
}

/// The README's examples.
#[test]
fn the_readme_compiles_and_runs() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let mut count = 0;
    for (number, block) in readme.split("```c\n").skip(1).enumerate() {
        let code = block.split_once("```").unwrap().0;
        let source = scratch().join(format!("readme-{number}.c"));
        std::fs::write(&source, code).unwrap();
        let output = run(&compile(&source, "CC", "gcc", "-std=c11"), &models()[..1]);
        assert_eq!(output.lines().count(), [1, 3][number], "{output}");
        count += 1;
    }
    assert_eq!(count, 2);
}

/// No leak, no bad access. A hundred times slower than the tests themselves, so it takes the errors
/// and one thread's results.
#[test]
fn valgrind_finds_nothing() {
    if device() != "cpu" {
        return println!("SKIPPED: valgrind looks at the CPU engine alone");
    }
    if std::env::var_os("ROPEWAY_TEST_ALL").is_none() {
        return println!("SKIPPED: takes a minute; tools/test --all has it");
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        return println!("SKIPPED: there is no valgrind");
    }
    for (name, arguments) in [("embed.c", &models()[..]), ("errors.c", &models()[..1])] {
        succeed(
            Command::new("valgrind")
                .args(["--quiet", "--error-exitcode=9", "--leak-check=full"])
                // A thread pool ends a little after its engine is closed; what its threads still hold is
                // "possibly lost".
                .args(["--errors-for-leak-kinds=definite", "--show-leak-kinds=definite"])
                .arg(compile_c_as(name, "valgrind"))
                .args(arguments),
        );
    }
}

/// Another name for the program, as tests run at once.
fn compile_c_as(name: &str, prefix: &str) -> PathBuf {
    let source = scratch().join(format!("{prefix}-{name}"));
    let folder = root().join("tests/c");
    let text = std::fs::read_to_string(folder.join(name)).unwrap();
    let text = text.replace(
        "#include \"check.h\"",
        &format!("#include \"{}\"", folder.join("check.h").display()),
    );
    std::fs::write(&source, text).unwrap();
    compile(&source, "CC", "gcc", "-std=c11")
}

/// Nothing else can collide with a symbol of the program that loads it.
#[test]
fn only_the_headers_functions_are_exported() {
    let output = succeed(
        Command::new("nm")
            .args(["--dynamic", "--defined-only", "--format=posix"])
            .arg(library().join("libropeway_c.so")),
    );
    let symbols = String::from_utf8(output.stdout).unwrap();
    let mut exported: Vec<&str> = symbols
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    let header = std::fs::read_to_string(root().join("include/ropeway.h")).unwrap();
    let code = header.lines().filter(|line| !line.starts_with([' ', '/', '#']));
    let mut declared: Vec<&str> = code
        .filter_map(|line| line.split_once('(')?.0.rsplit([' ', '*']).next())
        .collect();
    exported.sort_unstable();
    declared.sort_unstable();
    assert_eq!(exported, declared);
    assert!(declared.len() > 10, "{declared:?}");
}

/// `ropeway_version` is the engine's.
#[test]
fn the_version_is_ropeways() {
    let manifest = std::fs::read_to_string(root().join("../../Cargo.toml")).unwrap();
    let version = format!("\nversion = \"{}\"\n", env!("CARGO_PKG_VERSION"));
    assert!(manifest.contains(&version), "wanted{version}in Cargo.toml");
}
