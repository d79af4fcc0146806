//! Reports at exit: memory leaks, and the number of calls by function.

use std::fmt::Write;
use std::sync::{Once, TryLockError};

use super::state::Driver;

/// Longest list of leaks that is printed.
const MOST: usize = 20;

/// Asks for [`at_exit`] to run when the process ends.
pub fn register() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        // SAFETY: the function lives as long as the process: the library is not unloaded (see `keep_loaded`).
        unsafe {
            keep_loaded();
            libc::atexit(at_exit);
        }
    });
}

/// Takes one more reference on this library, so that `dlclose` does not take the exit function away.
unsafe fn keep_loaded() {
    // SAFETY: dladdr and dlopen with good arguments; the handle is given up on purpose.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(register as *const libc::c_void, &mut info) != 0 && !info.dli_fname.is_null() {
            libc::dlopen(info.dli_fname, libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        }
    }
}

extern "C" fn at_exit() {
    // Another thread may hold the lock for ever.
    let mut driver = match super::DRIVER.try_lock() {
        Ok(driver) => driver,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return,
    };
    let leaked: Vec<u64> = driver.owned.keys().copied().collect();
    report_leaks(&mut driver, &leaked, "the process ended");
    if let Some(path) = driver.config.calls.clone()
        && let Err(error) = std::fs::write(&path, calls_json(&driver))
    {
        super::say(&format!("SOFTCUDA_CALLS={}: {error}", path.display()));
    }
}

/// `{"calls": {"cuInit": 1, …}, "leaked_allocations": 0}`, and `"device"` where launches have a length: see
/// [`Timeline::json`](super::timeline::Timeline::json).
fn calls_json(driver: &Driver) -> String {
    let mut text = String::from("{\n  \"calls\": {");
    for (index, (name, number)) in driver.calls.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        let _ = write!(text, "{comma}\n    \"{name}\": {number}");
    }
    let _ = write!(text, "\n  }},\n  \"leaked_allocations\": {}", driver.leaked);
    if driver.faults.slow_launches.is_some()
        && let Some(device) = driver.timeline.json()
    {
        let _ = write!(text, ",\n  \"device\": {device}");
    }
    text.push_str("\n}\n");
    text
}

/// Lists allocations that are still there.
pub fn report_leaks(driver: &mut Driver, addresses: &[u64], why: &str) {
    let leaks: Vec<_> = addresses
        .iter()
        .filter_map(|address| Some((*address, driver.owned.get(address)?)))
        .filter(|(_, owned)| !owned.graph && !owned.freed)
        // Where a kernel has failed every later call fails too, so the program could not free.
        .filter(|(_, owned)| {
            let context = driver.contexts.get(owned.context);
            !context.is_ok_and(|context| context.poisoned.is_some())
        })
        .collect();
    if leaks.is_empty() {
        return;
    }
    let bytes: u64 = leaks.iter().map(|(_, owned)| owned.bytes).sum();
    let mut text = format!(
        "{why} with {} allocations not freed ({bytes} bytes):",
        leaks.len()
    );
    for (address, owned) in leaks.iter().take(MOST) {
        let _ = write!(
            text,
            "\n  {} bytes at {address:#x} by {} (call {})",
            owned.bytes, owned.function, owned.call
        );
    }
    if leaks.len() > MOST {
        let _ = write!(text, "\n  and {} more", leaks.len() - MOST);
    }
    let number = leaks.len() as u64;
    driver.leaked += number;
    super::say(&text);
}
