//! The driver's layer: what can be known without a device, then what a device does.
//!
//! ```sh
//! cargo test --lib gpu::                       # on a GPU
//! tools/softcuda/run cargo test --lib gpu::    # without one
//! ```
//!
//! What breaks a context, or needs another driver, runs in a process of its own: this program again, with the
//! name of one of the ignored tests.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Once;

use half::bf16;

use super::library::{self, FUNCTIONS, NEWER};
use super::*;
use crate::kernels::kernels;
use crate::kernels::params::LayerNormParams;

// ---- Without a device ----

#[test]
fn every_function_that_is_called_is_looked_for() {
    let sources = [
        include_str!("mod.rs"),
        include_str!("context.rs"),
        include_str!("device.rs"),
        include_str!("library.rs"),
        include_str!("memory.rs"),
        include_str!("stream.rs"),
        include_str!("tensor_map.rs"),
    ];
    let mut called = BTreeSet::new();
    for source in sources {
        for (before, after) in [("call!(cu", '('), ("sys::cu", '('), (">(\"cu", '"')] {
            for rest in source.split(before).skip(1) {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap();
                // `sys::culib` is cudarc's own.
                if rest[end..].starts_with(after) && !rest.starts_with("lib") {
                    called.insert(format!("cu{}", &rest[..end]));
                }
            }
        }
    }
    let newer = NEWER.iter().map(|(name, _)| *name);
    let listed: Vec<&str> = FUNCTIONS.iter().copied().chain(newer).collect();
    assert_eq!(
        listed
            .iter()
            .map(|&name| name.to_owned())
            .collect::<BTreeSet<_>>(),
        called
    );
    assert_eq!(listed.len(), called.len(), "a function is in both lists");
    assert!(FUNCTIONS.is_sorted());
    // What came later is called only where it is asked for first.
    for (name, _) in NEWER {
        let asked = format!("library::has(\"{name}\")");
        assert!(sources.iter().any(|source| source.contains(&asked)), "{name}");
    }
}

#[test]
fn an_unusable_driver_says_what_to_do() {
    let said = |code, version| library::judge(code, version).map_err(|reason| reason.to_string());
    use CUresult::*;
    assert_eq!(said(CUDA_SUCCESS, 13000), Ok(()));
    assert_eq!(said(CUDA_SUCCESS, 13020), Ok(()));
    assert_eq!(said(CUDA_SUCCESS, 12000), Ok(()));
    assert_eq!(
        said(CUDA_SUCCESS, 11080).unwrap_err(),
        "the driver is for CUDA 11.8; 12.0 or later is needed: install driver 525 or newer"
    );
    // An old driver may find no device, or not start, for being old.
    assert!(matches!(
        library::judge(CUDA_ERROR_NO_DEVICE, 11080),
        Err(Unavailable::Old(11080))
    ));
    assert!(matches!(
        library::judge(CUDA_ERROR_NO_DEVICE, 13000),
        Err(Unavailable::NoDevice { .. })
    ));
    assert!(
        said(CUDA_ERROR_STUB_LIBRARY, 0)
            .unwrap_err()
            .contains("LD_LIBRARY_PATH")
    );
    assert!(Unavailable::NoLibrary.to_string().contains("libcuda.so.1"));
    let visible = Some("7".to_owned());
    assert_eq!(
        Unavailable::NoDevice { visible }.to_string(),
        "the CUDA driver finds no GPU, with CUDA_VISIBLE_DEVICES=7"
    );
    let missing = |count: usize| Unavailable::Missing(FUNCTIONS[..count].to_vec()).to_string();
    assert_eq!(
        missing(1),
        "the libcuda found lacks cuCtxPopCurrent_v2; is it NVIDIA's, for CUDA 12.0 or later?"
    );
    assert!(
        missing(5).contains("cuCtxPopCurrent_v2, cuCtxPushCurrent_v2, cuDeviceGet and 2 functions more;")
    );
}

/// The same code means another thing where the driver starts than after a kernel.
#[test]
fn a_driver_that_does_not_start_says_how_to_repair_the_machine() {
    let error = |call, code| DriverError {
        call,
        detail: String::new(),
        code,
        meaning: "what it means".into(),
    };
    use CUresult::*;
    for (code, remedy) in [
        (CUDA_ERROR_UNKNOWN, "modprobe nvidia_uvm"),
        (CUDA_ERROR_SYSTEM_NOT_READY, "fabric manager"),
        (CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, "reboot after an update"),
        (CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE, "cuda-compat"),
    ] {
        let said = Unavailable::Failed(error("cuInit", code)).to_string();
        let wanted = format!("the CUDA driver does not work: cuInit failed: {code:?} (what it means); ");
        assert!(said.starts_with(&wanted) && said.contains(remedy), "{said}");
        assert!(
            !said.contains("context is lost") && !said.contains('\n'),
            "{said}"
        );
    }
    let later = error("cuStreamSynchronize", CUDA_ERROR_UNKNOWN).to_string();
    assert!(
        later.contains("context is lost") && !later.contains("modprobe"),
        "{later}"
    );
}

#[test]
fn a_failed_call_says_what_failed_and_whether_the_context_is_lost() {
    let error = |code| DriverError {
        call: "cuMemAlloc_v2",
        detail: "512 bytes".into(),
        code,
        meaning: "what it means".into(),
    };
    use CUresult::*;
    let memory = error(CUDA_ERROR_OUT_OF_MEMORY);
    assert!(memory.is_out_of_memory() && !memory.is_sticky());
    assert_eq!(
        memory.to_string(),
        "cuMemAlloc of 512 bytes failed: CUDA_ERROR_OUT_OF_MEMORY (what it means); use fewer batch_tokens, a \
         lower concurrency or another device (nvidia-smi shows who uses its memory)"
    );
    for code in [
        CUDA_ERROR_INVALID_VALUE,
        CUDA_ERROR_NOT_FOUND,
        CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
    ] {
        assert!(!error(code).is_sticky());
        assert!(error(code).to_string().ends_with("(what it means)"));
    }
    for code in [
        CUDA_ERROR_ILLEGAL_ADDRESS,
        CUDA_ERROR_MISALIGNED_ADDRESS,
        CUDA_ERROR_LAUNCH_FAILED,
        CUDA_ERROR_ASSERT,
        CUDA_ERROR_ECC_UNCORRECTABLE,
        CUDA_ERROR_HARDWARE_STACK_ERROR,
    ] {
        assert!(error(code).is_sticky(), "{code:?}");
    }
    let failed = error(CUDA_ERROR_LAUNCH_FAILED).to_string();
    assert!(failed.starts_with("cuMemAlloc of 512 bytes failed: CUDA_ERROR_LAUNCH_FAILED"));
}

// ---- On a device ----

/// The first device, unless there is none, which is said; with `ROPEWAY_GPU_TESTS=require` it is a failure.
fn context() -> Option<Context> {
    let reason = match (kernels().compiler, devices()) {
        (Err(reason), _) => format!("no GPU kernels in this build: {reason}; tools/setup gets nvcc"),
        (_, Err(reason)) => format!("{reason}; without a GPU: tools/softcuda/run cargo test --lib gpu::"),
        (Ok(_), Ok(_)) => return Some(open_first().expect("the first device can be opened")),
    };
    let required = std::env::var("ROPEWAY_GPU_TESTS").is_ok_and(|value| value == "require");
    assert!(!required, "ROPEWAY_GPU_TESTS=require, and {reason}");
    static SAID: Once = Once::new();
    SAID.call_once(|| say(&format!("SKIPPED: {reason}")));
    None
}

fn open_first() -> Result<Context, DriverError> {
    let mut all = devices().expect("there are devices, as was seen before");
    Context::open(all.swap_remove(0))
}

/// The entry `layernorm_bf16`.
fn layernorm(context: &Context) -> Result<Function, DriverError> {
    let module = kernels().modules.iter().find(|module| module.name == "layernorm");
    // SAFETY: `build.rs` embeds what nvcc made, whole and aligned.
    let module = unsafe { context.load("layernorm", module.expect("it is embedded").image) }?;
    module.function("layernorm_bf16")
}

/// Not by eprintln: that is shown for failing tests alone.
fn say(line: &str) {
    let _ = std::io::stderr().write_all(format!("\n{line}\n").as_bytes());
}

/// `out = LN(x + y)` of a few rows, and what is needed to launch it. All inputs lie in one upload.
struct Rows {
    kernel: Function,
    params: LayerNormParams,
    host: Pinned,
    back: Pinned,
    device: DeviceMemory,
    out: DeviceMemory,
}

const ROWS: usize = 3;
const HIDDEN: usize = 64;
/// Where in the upload are: the number of tokens, x, y, gamma, beta.
const PARTS: [usize; 6] = {
    let row = 2 * HIDDEN;
    let x = 16;
    let y = x + ROWS * row;
    let gamma = y + ROWS * row;
    [0, x, y, gamma, gamma + row, gamma + 2 * row]
};

impl Rows {
    fn new(context: &Context) -> Rows {
        Rows::try_new(context).unwrap()
    }

    fn try_new(context: &Context) -> Result<Rows, DriverError> {
        let kernel = layernorm(context)?;
        let (device, out) = (context.allocate(PARTS[5])?, context.allocate(2 * ROWS * HIDDEN)?);
        let (host, back) = (context.pinned(PARTS[5])?, context.pinned(2 * ROWS * HIDDEN)?);
        let address = |part: usize| device.address() + PARTS[part] as u64;
        let params = LayerNormParams {
            tokens: address(0),
            x: address(1),
            y: address(2),
            gamma: address(3),
            beta: address(4),
            out: out.address(),
            hidden_size: HIDDEN as u32,
            x_stride: HIDDEN as u32,
            y_stride: HIDDEN as u32,
            out_stride: HIDDEN as u32,
            eps: 1e-5,
            ..bytemuck::Zeroable::zeroed()
        };
        Ok(Rows {
            kernel,
            params,
            host,
            back,
            device,
            out,
        })
    }

    /// Other numbers for every `seed`.
    fn fill(&mut self, tokens: u32, seed: usize) {
        self.host[..4].copy_from_slice(&tokens.to_le_bytes());
        let numbers: &mut [bf16] = bytemuck::cast_slice_mut(&mut self.host[PARTS[1]..]);
        for (at, number) in numbers.iter_mut().enumerate() {
            *number = bf16::from_f32(((at * 37 + seed * 11) % 29) as f32 / 8.0 - 1.5);
        }
    }

    /// Gives all of it: zeros the output, uploads, launches, downloads.
    fn give(&mut self, stream: &Stream) -> Result<(), DriverError> {
        // SAFETY: the kernel's memory is laid out as `params` says; it all lives until the test has waited.
        unsafe {
            stream.zero(self.out.address(), self.out.len())?;
            stream.upload(self.device.address(), &self.host, 0..PARTS[5])?;
            let params = bytemuck::bytes_of(&self.params);
            stream.launch(
                &self.kernel,
                [1, 1, 1],
                32 * ROWS as u32,
                0,
                params,
                Serialization::Full,
            )?;
            stream.download(&mut self.back, 0..2 * ROWS * HIDDEN, self.out.address())
        }
    }

    /// Compares what came back with the formula in float64; rows past the tokens are zero.
    fn check(&self) {
        let part = |part: usize| -> Vec<f64> {
            let numbers: &[bf16] = bytemuck::cast_slice(&self.host[PARTS[part]..PARTS[part + 1]]);
            numbers.iter().map(|number| number.to_f64()).collect()
        };
        let (x, y, gamma, beta) = (part(1), part(2), part(3), part(4));
        let got: &[bf16] = bytemuck::cast_slice(&self.back);
        let tokens = u32::from_le_bytes(self.host[..4].try_into().unwrap()) as usize;
        for row in 0..ROWS {
            let sum: Vec<f64> = (0..HIDDEN)
                .map(|i| x[row * HIDDEN + i] + y[row * HIDDEN + i])
                .collect();
            let mean = sum.iter().sum::<f64>() / HIDDEN as f64;
            let variance = sum.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / HIDDEN as f64;
            for i in 0..HIDDEN {
                let wanted = match row < tokens {
                    true => (sum[i] - mean) / (variance + 1e-5).sqrt() * gamma[i] + beta[i],
                    false => 0.0,
                };
                let got = got[row * HIDDEN + i].to_f64();
                // One rounding to 8 bits.
                assert!(
                    (got - wanted).abs() <= wanted.abs() / 128.0,
                    "row {row}, {i}: {got}, not {wanted}"
                );
            }
        }
    }
}

#[test]
fn memory_is_copied_and_zeroed() {
    let Some(context) = context() else { return };
    let stream = context.stream().unwrap();
    let device = context.allocate(1000).unwrap();
    let mut host = context.pinned(2000).unwrap();
    assert_eq!((device.len(), host.len()), (1000, 2000));
    assert!(host.iter().all(|byte| *byte == 0));
    for (at, byte) in host[..1000].iter_mut().enumerate() {
        *byte = at as u8 | 1;
    }
    // SAFETY: all of it lives until the stream is waited for.
    unsafe {
        stream.upload(device.address(), &host, 0..1000).unwrap();
        stream.zero(device.address() + 100, 10).unwrap();
        stream
            .download(&mut host, 1001..2000, device.address() + 1)
            .unwrap();
    }
    stream.synchronize().unwrap();
    for at in 1..1000 {
        let wanted = if (100..110).contains(&at) { 0 } else { at as u8 | 1 };
        assert_eq!(host[1000 + at], wanted, "byte {at}");
    }
    assert_eq!(host[1000], 0);
}

#[test]
fn nothing_can_be_allocated_and_copied() {
    let Some(context) = context() else { return };
    let stream = context.stream().unwrap();
    let (device, mut host) = (context.allocate(0).unwrap(), context.pinned(0).unwrap());
    assert!(device.len() == 0 && host.is_empty());
    // SAFETY: there is nothing to touch.
    unsafe {
        stream.upload(device.address(), &host, 0..0).unwrap();
        stream.download(&mut host, 0..0, device.address()).unwrap();
        stream.zero(device.address(), 0).unwrap();
    }
    stream.synchronize().unwrap();
}

#[test]
fn a_kernel_is_launched_with_its_struct() {
    let Some(context) = context() else { return };
    let (stream, mut rows) = (context.stream().unwrap(), Rows::new(&context));
    for (seed, tokens) in [3, 1, 0].into_iter().enumerate() {
        rows.fill(tokens, seed);
        rows.give(&stream).unwrap();
        stream.synchronize().unwrap();
        rows.check();
    }
}

#[test]
fn a_graph_does_again_what_was_captured() {
    let Some(context) = context() else { return };
    let (stream, mut rows) = (context.stream().unwrap(), Rows::new(&context));
    rows.fill(3, 0);
    rows.back.fill(0xff);
    let graph = stream.capture(|stream| rows.give(stream)).unwrap();
    stream.synchronize().unwrap();
    assert!(
        rows.back.iter().all(|byte| *byte == 0xff),
        "a capture does nothing yet"
    );
    // On any stream of the context, with whatever the memory holds then.
    let other = context.stream().unwrap();
    for (seed, tokens) in [3, 2, 1].into_iter().enumerate() {
        rows.fill(tokens, seed + 1);
        let stream = if seed % 2 == 0 { &stream } else { &other };
        // SAFETY: all that was captured lives in `rows`.
        unsafe { stream.launch_graph(&graph) }.unwrap();
        stream.synchronize().unwrap();
        rows.check();
    }
}

#[test]
fn a_capture_that_fails_leaves_the_stream_as_it_was() {
    let Some(context) = context() else { return };
    let (stream, mut rows) = (context.stream().unwrap(), Rows::new(&context));
    rows.fill(3, 0);
    // The work's own failure, after some of it was captured.
    let own = stream.capture(|stream| {
        rows.give(stream)
            .and(Err(DriverError::new("own", CUresult::CUDA_ERROR_TIMEOUT)))
    });
    assert_eq!(own.unwrap_err().call, "own");
    // Waiting ends a capture; the work hides it.
    let hidden: Result<Graph, DriverError> = stream.capture(|stream| {
        assert!(stream.synchronize().is_err());
        Ok(())
    });
    assert!(
        hidden
            .unwrap_err()
            .to_string()
            .contains("CUDA_ERROR_STREAM_CAPTURE")
    );
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _: Result<Graph, DriverError> = stream.capture(|_| panic!("in a capture, on purpose"));
    }));
    assert!(panicked.is_err());
    rows.give(&stream).unwrap();
    stream.synchronize().unwrap();
    rows.check();
}

#[test]
fn everything_may_be_used_and_dropped_on_another_thread() {
    let Some(context) = context() else { return };
    let (stream, mut rows) = (context.stream().unwrap(), Rows::new(&context));
    rows.fill(2, 5);
    let graph = stream.capture(|stream| rows.give(stream)).unwrap();
    let event = context.event().unwrap();
    event.synchronize().expect("what was never recorded is over");
    drop(context);
    std::thread::spawn(move || {
        // SAFETY: all that was captured lives in `rows`.
        unsafe { stream.launch_graph(&graph) }.unwrap();
        event.record(&stream).unwrap();
        event.synchronize().unwrap();
        rows.check();
    })
    .join()
    .unwrap();
}

#[test]
fn threads_compute_at_the_same_time() {
    let Some(context) = context() else { return };
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let context = context.clone();
            scope.spawn(move || {
                let (stream, mut rows) = (context.stream().unwrap(), Rows::new(&context));
                let mut fresh = |seed| {
                    rows.fill(3, seed);
                    rows.give(&stream).unwrap();
                    stream.synchronize().unwrap();
                    rows.check();
                };
                (0..3).for_each(|turn| fresh(thread * 10 + turn));
                // Captures at the same time.
                let graph = stream.capture(|stream| rows.give(stream)).unwrap();
                rows.fill(2, thread);
                // SAFETY: all that was captured lives in `rows`.
                unsafe { stream.launch_graph(&graph) }.unwrap();
                stream.synchronize().unwrap();
                rows.check();
            });
        }
    });
}

#[test]
fn anothers_context_stays_the_threads() {
    let Some(context) = context() else { return };
    let current = || {
        let mut current = std::ptr::null_mut();
        // SAFETY: the place for the result is good.
        unsafe { sys::cuCtxGetCurrent(&mut current) }.result().unwrap();
        current
    };
    assert!(current().is_null());
    let mut theirs = std::ptr::null_mut();
    // SAFETY: the place for the result is good; no parameters are no affinity and no graphics.
    unsafe { sys::cuCtxCreate_v4(&mut theirs, std::ptr::null_mut(), 0, 0) }
        .result()
        .unwrap();
    {
        let (stream, mut rows) = (context.stream().unwrap(), Rows::new(&context));
        rows.fill(3, 1);
        rows.give(&stream).unwrap();
        assert_eq!(current(), theirs);
        stream.synchronize().unwrap();
        rows.check();
        let entered = context.enter().unwrap();
        assert_ne!(current(), theirs);
        drop(entered);
    }
    assert_eq!(current(), theirs);
    // SAFETY: made above, used by nobody.
    unsafe { sys::cuCtxDestroy_v2(theirs) }.result().unwrap();
}

#[test]
fn too_much_memory_is_an_error_that_one_survives() {
    let Some(context) = context() else { return };
    let before = context.free_memory().unwrap();
    assert!(before > 0 && before <= context.facts().memory);
    let error = context.allocate(1 << 50).unwrap_err();
    assert!(error.is_out_of_memory() && !error.is_sticky(), "{error}");
    assert!(
        error
            .to_string()
            .starts_with("cuMemAlloc of 1125899906842624 bytes failed: "),
        "{error}"
    );
    let some = context.allocate(1 << 20).unwrap();
    drop(some);
}

#[test]
fn shared_memory_is_allowed_up_to_what_the_device_has() {
    let Some(context) = context() else { return };
    let (stream, mut rows) = (context.stream().unwrap(), Rows::new(&context));
    rows.fill(3, 0);
    let most = context.facts().shared_per_block;
    assert!(most > 48 << 10);
    let kernel = layernorm(&context).unwrap();
    kernel.allow_shared(most).unwrap();
    rows.give(&stream).unwrap();
    let params = bytemuck::bytes_of(&rows.params);
    // SAFETY: the kernel's memory is laid out as `params` says; it all lives until the test has waited.
    unsafe { stream.launch(&kernel, [1, 1, 1], 96, most, params, Serialization::Full) }.unwrap();
    stream.synchronize().unwrap();
    rows.check();
    let params = bytemuck::bytes_of(&rows.params);
    // SAFETY: the driver refuses the launch, and the memory that it names is alive.
    let refused =
        unsafe { stream.launch(&kernel, [1, 1, 1], 1 << 20, 0, params, Serialization::Full) }.unwrap_err();
    let said = refused.to_string();
    let wanted =
        "cuLaunchKernelEx of layernorm_bf16, 1×1×1 blocks of 1048576 threads with 0 bytes of shared memory";
    assert!(said.starts_with(wanted), "{said}");
}

#[test]
fn a_context_knows_its_device() {
    let Some(context) = context() else { return };
    let (all, facts) = (devices().unwrap(), context.facts());
    assert_eq!(&all[0], facts);
    assert!(facts.multiprocessors > 0 && facts.memory > 0 && facts.l2 > 0);
    assert!(facts.shared_per_multiprocessor > facts.shared_per_block);
}

// ---- In a process of its own ----

/// Runs one of the ignored tests below in another process, and gives what it said. It has to pass.
fn child(test: &str, environment: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        &format!("gpu::driver::tests::{test}"),
        "--exact",
        "--ignored",
        "--nocapture",
    ]);
    command.envs(environment.iter().copied());
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let said = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
    assert!(status.success() && said.contains("1 passed"), "{said}");
    said
}

#[test]
#[ignore = "other tests run it in a process of its own"]
fn child_starts_the_driver() {
    match devices() {
        Ok(_) => {
            let (major, minor) = version().unwrap();
            println!("started for CUDA {major}.{minor}");
        }
        Err(reason) => println!("not started: {reason}"),
    }
}

#[test]
fn a_driver_that_does_not_start_is_told_from_none() {
    let none = child("child_starts_the_driver", &[("LD_LIBRARY_PATH", "")]);
    if none.contains("started for CUDA") {
        say("SKIPPED: how a missing driver is told; one is installed");
    } else {
        assert!(none.contains(&Unavailable::NoLibrary.to_string()), "{none}");
    }
    if !context().is_some_and(|context| context.facts().simulated()) {
        return;
    }
    let table = [
        (
            "cuInit:*=CUDA_ERROR_NO_DEVICE",
            "not started: the CUDA driver finds no GPU",
        ),
        (
            "cuInit:*=CUDA_ERROR_STUB_LIBRARY",
            "not started: the libcuda found is the CUDA toolkit's stub",
        ),
        (
            "cuInit:*=CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
            "not started: the CUDA driver does not work: cuInit failed: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (",
        ),
        (
            "cuDeviceGetName:*=CUDA_ERROR_INVALID_DEVICE",
            "not started: the CUDA driver does not work: cuDeviceGetName failed: CUDA_ERROR_INVALID_DEVICE (",
        ),
        (
            "driver=11.8",
            "not started: the driver is for CUDA 11.8; 12.0 or later is needed",
        ),
        ("driver=12.0", "started for CUDA 12.0"),
    ];
    for (fault, wanted) in table {
        let said = child("child_starts_the_driver", &[("SOFTCUDA_FAULTS", fault)]);
        assert!(said.contains(wanted), "{said}");
    }
}

/// A library of this name that has a few functions, for this CUDA.
fn other_driver(folder: &Path, version: i32) -> bool {
    let source = format!(
        "int cuInit(unsigned flags) {{ return 0; }}\n\
         int cuDriverGetVersion(int *version) {{ *version = {version}; return 0; }}\n\
         int cuGetErrorString(int code, const char **text) {{ *text = \"an error\"; return 0; }}\n"
    );
    let (c, library) = (folder.join("driver.c"), folder.join("libcuda.so"));
    std::fs::write(&c, source).unwrap();
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&c)
        .status();
    compiled.is_ok_and(|status| status.success())
}

#[test]
fn an_old_driver_and_one_that_lacks_functions_are_refused() {
    let table = [
        (
            11040,
            "not started: the driver is for CUDA 11.4; 12.0 or later is needed",
        ),
        (
            12000,
            "not started: the libcuda found lacks cuCtxPopCurrent_v2, cuCtxPushCurrent_v2, cuDeviceGet and 3",
        ),
    ];
    for (version, wanted) in table {
        let folder = tempfile::tempdir().unwrap();
        if !other_driver(folder.path(), version) {
            say("SKIPPED: how an old driver is told; there is no C compiler");
            return;
        }
        let path = folder.path().to_str().unwrap();
        let said = child("child_starts_the_driver", &[("LD_LIBRARY_PATH", path)]);
        assert!(said.contains(wanted), "{said}");
    }
}

#[test]
#[ignore = "other tests run it in a process of its own"]
fn child_forks() {
    context().unwrap();
    // SAFETY: the child calls nothing but what is tested, which takes no lock that another thread may hold, and exits.
    match unsafe { libc::fork() } {
        0 => {
            let forked = matches!(devices(), Err(Unavailable::Forked));
            // SAFETY: ends the child at once, without the parent's exit functions.
            unsafe { libc::_exit(i32::from(!forked)) }
        }
        child => {
            let mut status = -1;
            // SAFETY: the place for the result is good.
            unsafe { libc::waitpid(child, &mut status, 0) };
            println!("the child ended with {status}");
        }
    }
    println!("the parent: {:?}", devices().is_ok());
}

#[test]
fn a_process_that_forked_says_so() {
    let Some(_) = context() else { return };
    let said = child("child_forks", &[]);
    assert!(
        said.contains("the child ended with 0\n") && said.contains("the parent: true"),
        "{said}"
    );
}

#[test]
#[ignore = "other tests run it in a process of its own"]
fn child_loses_its_context() {
    let context = context().unwrap();
    let (stream, mut rows) = (context.stream().unwrap(), Rows::new(&context));
    rows.fill(3, 0);
    rows.params.tokens = 0xdead_0000;
    let lost = rows
        .give(&stream)
        .and_then(|()| stream.synchronize())
        .unwrap_err();
    assert!(lost.is_sticky(), "{lost}");
    println!("lost: {lost}");
    // All fails from then on, and says so.
    assert!(context.allocate(16).unwrap_err().is_sticky());
    assert!(
        stream
            .capture(|stream| rows.give(stream))
            .unwrap_err()
            .is_sticky()
    );
    drop((rows, stream, context));
    match open_first().and_then(|context| context.allocate(16).map(drop)) {
        Ok(()) => println!("opened anew"),
        Err(error) => println!("not opened anew: {error}"),
    }
}

#[test]
fn a_kernel_that_fails_loses_the_context_and_nothing_panics() {
    let Some(context) = context() else { return };
    let said = child("child_loses_its_context", &[]);
    assert!(
        said.contains("lost: cu") && said.contains("the device's context is lost"),
        "{said}"
    );
    // A GPU's driver may want a new process for that.
    if context.facts().simulated() {
        assert!(said.lines().any(|line| line == "opened anew"), "{said}");
    }
}

#[test]
#[ignore = "other tests run it in a process of its own"]
fn child_uses_everything() {
    match use_everything() {
        Ok(()) => println!("all went well"),
        Err(error) => println!("failed: {error}"),
    }
}

fn use_everything() -> Result<(), DriverError> {
    let first = devices().map_err(|reason| match reason {
        Unavailable::Failed(error) => error,
        other => panic!("{other}"),
    })?;
    let context = Context::open(first[0].clone())?;
    let mut rows = Rows::try_new(&context)?;
    rows.fill(3, 0);
    let (stream, event) = (context.stream()?, context.event()?);
    let (start, end) = (context.timed_event()?, context.timed_event()?);
    let graph = stream.capture(|stream| rows.give(stream))?;
    start.record(&stream)?;
    // SAFETY: all that was captured lives in `rows`.
    unsafe { stream.launch_graph(&graph) }?;
    end.record(&stream)?;
    event.record(&stream)?;
    event.synchronize()?;
    assert!(end.micros_since(&start)? >= 0.0);
    rows.check();
    Ok(())
}

/// The oldest driver that is taken, as softcuda plays it: the functions that came later are not called.
#[test]
fn an_old_driver_computes_without_the_newer_functions() {
    let Some(context) = context() else { return };
    if !context.facts().simulated() {
        return;
    }
    let calls = tempfile::NamedTempFile::new().unwrap();
    let path = calls.path().to_str().unwrap();
    for (faults, newer) in [("driver=12.0", false), ("driver=13.0", true)] {
        let said = child(
            "child_uses_everything",
            &[("SOFTCUDA_CALLS", path), ("SOFTCUDA_FAULTS", faults)],
        );
        assert!(said.contains("all went well"), "{said}");
        let calls = counts(&calls);
        let asked = &calls["calls"]["cuFuncGetParamInfo"];
        assert_eq!(asked.is_u64(), newer, "{faults}: {asked}");
    }
}

/// What softcuda counted in a process, which wrote it into a file.
fn counts(file: &tempfile::NamedTempFile) -> serde_json::Value {
    serde_json::from_reader(file.reopen().unwrap()).unwrap()
}

#[test]
fn nothing_is_left_when_all_is_dropped() {
    let Some(context) = context() else { return };
    if !context.facts().simulated() {
        return;
    }
    let calls = tempfile::NamedTempFile::new().unwrap();
    let path = calls.path().to_str().unwrap();
    // Work is done as late as can be: what is not waited for shows.
    let said = child(
        "child_uses_everything",
        &[("SOFTCUDA_CALLS", path), ("SOFTCUDA_ASYNC", "lazy")],
    );
    assert!(
        said.contains("all went well") && !said.contains("softcuda: "),
        "{said}"
    );
    let calls = counts(&calls);
    let count = |name: &str| {
        calls["calls"][name]
            .as_u64()
            .unwrap_or_else(|| panic!("{name} was not called"))
    };
    for (made, gone) in [
        ("cuMemAlloc_v2", "cuMemFree_v2"),
        ("cuMemHostAlloc", "cuMemFreeHost"),
        ("cuStreamCreate", "cuStreamDestroy_v2"),
        ("cuEventCreate", "cuEventDestroy_v2"),
        ("cuModuleLoadData", "cuModuleUnload"),
        ("cuStreamEndCapture", "cuGraphDestroy"),
        ("cuGraphInstantiateWithFlags", "cuGraphExecDestroy"),
        ("cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease_v2"),
        ("cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2"),
    ] {
        assert_eq!(count(made), count(gone), "{made}, {gone}");
    }
}

#[test]
fn any_call_may_fail_and_nothing_is_left() {
    let Some(context) = context() else { return };
    if !context.facts().simulated() {
        return;
    }
    let calls = tempfile::NamedTempFile::new().unwrap();
    let path = calls.path().to_str().unwrap();
    child("child_uses_everything", &[("SOFTCUDA_CALLS", path)]);
    let all = counts(&calls)["calls"]
        .as_object()
        .unwrap()
        .values()
        .filter_map(|n| n.as_u64())
        .sum();
    let mut failed = 0;
    for number in 1..=all {
        let fault = format!("any:{number}=CUDA_ERROR_NOT_PERMITTED");
        let said = child(
            "child_uses_everything",
            &[("SOFTCUDA_CALLS", path), ("SOFTCUDA_FAULTS", &fault)],
        );
        // Else it failed while something was dropped, and that is lost.
        if let Some((_, error)) = said.split_once("failed: ") {
            failed += 1;
            assert!(error.contains("CUDA_ERROR_NOT_PERMITTED"), "{fault}: {said}");
            // A call that is made to fail does nothing: this capture never ends, and memory is not freed in one.
            if !error.contains("cuStreamEndCapture") {
                assert_eq!(counts(&calls)["leaked_allocations"], 0, "{fault}: {said}");
            }
        }
    }
    assert!(failed > all / 2, "{failed} of {all}");
}
