//! The CUDA driver API: the functions of cuda.h, on top of the machine that runs kernels.
//!
//! One lock guards one state ([`state::Driver`]). Every exported function is written with `exports!`, which counts
//! the call, injects faults, stops panics before they cross into C, and logs. Work goes through streams ([`work`]): by
//! default it is done when it is enqueued, with `SOFTCUDA_ASYNC=lazy` only when the program waits for it.
//!
//! A pointer argument is null or valid for what cuda.h says of it, as in every C API; handles are checked
//! ([`handle`]).
//!
//! The files of handle types name each other through [`state`], as the functions of cuda.h do: a stream belongs to a
//! context, a graph holds functions, a capture makes a graph of a stream's work.

mod capture;
mod context;
mod copy;
mod device;
mod exit;
mod fatbin;
mod fault;
mod graph;
mod graph_exec;
pub mod handle;
mod launch;
mod library;
mod lifetime;
mod memory;
mod module;
mod occupancy;
mod pool;
mod proc_address;
pub mod result;
pub mod state;
mod stream;
mod stubs;
mod tensor_map;
pub mod timeline;
pub mod types;
pub mod work;

use std::collections::HashMap;
use std::ffi::{CStr, c_char};
use std::io::Write;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};

use result::{Answer, CUresult};
use state::Driver;

/// CUDA 13.0, as `cuDriverGetVersion` tells it.
pub const VERSION: i32 = 13000;

static DRIVER: LazyLock<Mutex<Driver>> = LazyLock::new(Mutex::default);
/// Work that was under way on another thread is done.
static DONE: Condvar = Condvar::new();

fn lock() -> MutexGuard<'static, Driver> {
    // A panic under the lock is reported as an error of that call; the state stays in use.
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A line on stderr; a closed stderr is no reason to fail.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stderr().lock();
    for line in text.lines() {
        // Findings say who speaks themselves, and lines that go on from the one before need not.
        let lead = if line.starts_with(' ') || line.starts_with("softcuda: ") {
            ""
        } else {
            "softcuda: "
        };
        let _ = writeln!(out, "{lead}{line}");
    }
}

/// A call under way: the state, locked, and how the call was made.
pub struct Call {
    guard: Option<MutexGuard<'static, Driver>>,
    /// Made through the `_ptsz` or `_ptds` symbol: stream 0 is the thread's own.
    pub per_thread: bool,
    pub function: &'static str,
    /// Counted from 1 over all calls.
    pub number: u64,
}

impl Deref for Call {
    type Target = Driver;
    fn deref(&self) -> &Driver {
        self.guard.as_ref().expect("the lock is held")
    }
}

impl DerefMut for Call {
    fn deref_mut(&mut self) -> &mut Driver {
        self.guard.as_mut().expect("the lock is held")
    }
}

impl Call {
    /// Runs a function of the program without the lock: it may wait for a thread that calls the driver.
    pub fn unlocked<T>(&mut self, run: impl FnOnce() -> T) -> T {
        self.guard = None;
        let value = catch_unwind(AssertUnwindSafe(|| state::callback(run)));
        self.guard = Some(lock());
        value.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Waits until some thread's work is done.
    pub fn wait_for_others(&mut self) {
        let guard = self.guard.take().expect("the lock is held");
        self.guard = Some(DONE.wait(guard).unwrap_or_else(PoisonError::into_inner));
    }

    /// Says why a call is refused.
    pub fn refuse<T>(&self, error: CUresult, why: impl AsRef<str>) -> Answer<T> {
        say(&format!("{}: {error}: {}", self.function, why.as_ref()));
        Err(error)
    }
}

/// What may be called before `cuInit`.
const BEFORE_INIT: &[&str] = &[
    "cuInit",
    "cuDriverGetVersion",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGetProcAddress",
    "cuGetExportTable",
];

/// What still works in a context that a failed kernel left behind.
const WHEN_POISONED: &[&str] = &[
    "cuCtxDestroy",
    "cuCtxGetApiVersion",
    "cuCtxGetCurrent",
    "cuCtxGetDevice",
    "cuCtxGetFlags",
    "cuCtxGetId",
    "cuCtxPopCurrent",
    "cuCtxPushCurrent",
    "cuCtxSetCurrent",
];

/// Runs a function's implementation: everything that all functions have in common.
pub fn call(
    function: &'static str,
    per_thread: bool,
    arguments: &dyn Fn() -> String,
    run: impl FnOnce(&mut Call) -> Answer,
) -> CUresult {
    if state::in_callback() {
        say(&format!(
            "{function}: a host function of a stream must not call the driver"
        ));
        return CUresult::NOT_PERMITTED;
    }
    let mut guard = lock();
    if !guard.started {
        guard.start();
    }
    guard.total_calls += 1;
    *guard.calls.entry(function).or_default() += 1;
    let mut call = Call {
        number: guard.total_calls,
        guard: Some(guard),
        per_thread,
        function,
    };
    let answer = catch_unwind(AssertUnwindSafe(|| {
        admit(&mut call).and_then(|()| run(&mut call))
    }));
    let result = match answer {
        Ok(Ok(())) => CUresult::SUCCESS,
        Ok(Err(error)) => error,
        Err(panic) => {
            let what = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            say(&format!("{function}: a defect of softcuda: {what}"));
            CUresult::UNKNOWN
        }
    };
    if call.guard.is_none() {
        call.guard = Some(lock());
    }
    if call.config.log_calls {
        say(&format!(
            "call {} {function}({}) = {result}",
            call.number,
            arguments()
        ));
    }
    result
}

/// Refuses a call: an injected fault, a call before `cuInit`, a context that an error has poisoned.
fn admit(call: &mut Call) -> Answer {
    let function = call.function;
    if let Some(fault) = call.faults.on_call(function) {
        say(&format!(
            "call {} {function}: fails with {} as SOFTCUDA_FAULTS asks",
            call.number, fault.error
        ));
        if fault.sticky {
            let context = state::current();
            call.poison(context, fault.error);
        }
        return Err(fault.error);
    }
    let base = fault::base_name(function);
    if !call.initialised && !BEFORE_INIT.contains(&base) {
        return Err(CUresult::NOT_INITIALIZED);
    }
    let exempt = BEFORE_INIT.contains(&base) || WHEN_POISONED.contains(&base) || base.starts_with("cuDevice");
    if let Ok(context) = call.contexts.get(state::current())
        && let Some(error) = context.poisoned
        && !exempt
    {
        return Err(error);
    }
    Ok(())
}

/// An exported function's address.
pub struct Address(pub *const ());

// SAFETY: the address of a function, which is never written through.
unsafe impl Sync for Address {}
// SAFETY: a function's address means the same on every thread.
unsafe impl Send for Address {}

/// Defines exported functions, and the table `EXPORTS` of them.
///
/// `fn name [alias] (call, argument: type, …) { … }`: the body answers with `Answer`; the alias is the symbol of
/// programs that were compiled for per-thread default streams.
macro_rules! exports {
    ($(
        $(#[$meta:meta])*
        fn $name:ident $([$alias:ident])? ($call:ident $(, $arg:ident : $ty:ty)* $(,)?) $body:block
    )*) => {
        $( $crate::driver::export_one! { $(#[$meta])* $name [$($alias)?] ($call $(, $arg : $ty)*) $body } )*

        /// The functions of this module by name.
        pub const EXPORTS: &[&[(&str, $crate::driver::Address)]] = &[
            $( $crate::driver::export_row!($name $($alias)?) ),*
        ];
    };
}

macro_rules! export_row {
    ($($name:ident)*) => {
        &[$((stringify!($name), $crate::driver::Address($name as *const ()))),*]
    };
}

macro_rules! export_one {
    ($(#[$meta:meta])* $name:ident [] ($call:ident $(, $arg:ident : $ty:ty)*) $body:block) => {
        $crate::driver::export_as! { $(#[$meta])* $name false ($call $(, $arg : $ty)*) $body }
    };
    ($(#[$meta:meta])* $name:ident [$alias:ident] ($call:ident $(, $arg:ident : $ty:ty)*) $body:block) => {
        $crate::driver::export_as! { $(#[$meta])* $name false ($call $(, $arg : $ty)*) $body }
        $crate::driver::export_as! { $(#[$meta])* $alias true ($call $(, $arg : $ty)*) $body }
    };
}

macro_rules! export_as {
    ($(#[$meta:meta])* $name:ident $per_thread:literal ($call:ident $(, $arg:ident : $ty:ty)*) $body:block) => {
        $(#[$meta])*
        #[unsafe(no_mangle)]
        #[allow(non_snake_case, clippy::missing_safety_doc, clippy::too_many_arguments)]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> $crate::driver::result::CUresult {
            let arguments = || {
                let list: Vec<String> = vec![$(format!(concat!(stringify!($arg), "={:?}"), $arg)),*];
                list.join(", ")
            };
            $crate::driver::call(
                stringify!($name),
                $per_thread,
                &arguments,
                |$call: &mut $crate::driver::Call| {
                    // SAFETY: the caller keeps to cuda.h: a pointer is null, which the helpers refuse where it
                    // matters, or good for what the function says of it.
                    #[allow(unused_unsafe)]
                    unsafe {
                        $body
                    }
                },
            )
        }
    };
}

pub(crate) use {export_as, export_one, export_row, exports};

/// Writes a result; null is refused.
///
/// # Safety
/// `to` is null or may be written.
pub unsafe fn put<T>(to: *mut T, value: T) -> Answer {
    if to.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: not null, and the caller vouches for the rest.
    unsafe { to.write(value) };
    Ok(())
}

/// Writes a result that the caller may not want.
///
/// # Safety
/// `to` is null or may be written.
pub unsafe fn put_if<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: not null, and the caller vouches that it may be written.
        unsafe { to.write(value) };
    }
}

/// Refuses null where a result is to be written later.
pub fn present<T>(pointer: *const T) -> Answer {
    match pointer.is_null() {
        true => Err(CUresult::INVALID_VALUE),
        false => Ok(()),
    }
}

/// Reads a structure; null is refused.
///
/// # Safety
/// `from` is null or may be read as long as `'a`.
pub unsafe fn get<'a, T>(from: *const T) -> Answer<&'a T> {
    // SAFETY: the caller vouches for it.
    unsafe { from.as_ref() }.ok_or(CUresult::INVALID_VALUE)
}

/// Reads an array; null is refused unless it is empty.
///
/// # Safety
/// `from` is null or `count` elements may be read as long as `'a`.
pub unsafe fn list<'a, T>(from: *const T, count: usize) -> Answer<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    if from.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: not null, and the caller vouches for the length.
    Ok(unsafe { std::slice::from_raw_parts(from, count) })
}

/// Reads a string; null is refused.
///
/// # Safety
/// `from` is null or ends with a NUL.
pub unsafe fn string<'a>(from: *const c_char) -> Answer<&'a CStr> {
    if from.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: not null, and the caller vouches for the end.
    Ok(unsafe { CStr::from_ptr(from) })
}

/// Writes text into a buffer of `length` bytes, cut where it does not fit, always with a NUL.
///
/// # Safety
/// `to` is null or `length` bytes may be written.
pub unsafe fn put_text(to: *mut c_char, length: usize, text: &str) -> Answer {
    if to.is_null() || length == 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    let bytes = &text.as_bytes()[..text.len().min(length - 1)];
    // SAFETY: at most `length` bytes, which the caller vouches for.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), to, bytes.len());
        to.add(bytes.len()).write(0);
    }
    Ok(())
}

/// Every exported function by its symbol.
static FUNCTIONS: LazyLock<HashMap<&'static str, &'static Address>> = LazyLock::new(|| {
    [
        context::EXPORTS,
        copy::EXPORTS,
        device::EXPORTS,
        graph::EXPORTS,
        graph_exec::EXPORTS,
        capture::EXPORTS,
        launch::EXPORTS,
        library::EXPORTS,
        memory::EXPORTS,
        module::EXPORTS,
        occupancy::EXPORTS,
        pool::EXPORTS,
        proc_address::EXPORTS,
        stream::EXPORTS,
        stubs::EXPORTS,
        tensor_map::EXPORTS,
    ]
    .into_iter()
    .flat_map(|table| table.iter().copied().flatten())
    .map(|(name, address)| (*name, address))
    .collect()
});

/// Address of a function by its symbol.
pub fn address_of(name: &str) -> Option<*const ()> {
    FUNCTIONS.get(name).map(|address| address.0)
}

/// Whether a function by this symbol does more than say that it is missing.
pub fn is_implemented(name: &str) -> bool {
    FUNCTIONS.contains_key(name) && !stubs::EXPORTS.iter().copied().flatten().any(|row| row.0 == name)
}
